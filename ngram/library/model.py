"""NgramModel: train, load, save, score and ask an n-gram model.  docs/ngram.md shows it at work."""

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from ngram.arpa.from_table import static_model
from ngram.arpa.index import empty_state, step
from ngram.arpa.model import ArpaModel
from ngram.arpa.read import import_arpa, is_arpa_file, read_words
from ngram.arpa.write import export_arpa
from ngram.arrays import F64, Tokens, as_tokens, token_type
from ngram.container import atomic_write
from ngram.counting.within import table_of
from ngram.errors import SeedgramError
from ngram.library.online import OnlineModel
from ngram.library.scores import FullScores, State
from ngram.online.cache import histories
from ngram.storing import table_codec
from ngram.storing.model_file import fit_model, model_bytes, read_model
from ngram.table import MAX_VOCAB, NgramTable, check_order
from ngram.tokenizer import Tokenizer
from ngram.vocabulary import TokenIds, Vocabulary
from ngram.words import WordVocabulary

Text = str | npt.ArrayLike  # a text, or the tokens of one
ARPA_NAMES = (".arpa", ".lm")


class NgramModel:
    """Interpolated modified Kneser-Ney over words, a tokenizer's pieces or token ids, or what an ARPA file says.

    vocabulary: what its tokens stand for.  table: its counts, None for an ARPA file.  static: its probabilities.
    Make one with `train` or `load`.  Texts are strings, or arrays of tokens with or without BOS.  All log probabilities are to base 10."""

    def __init__(self, vocabulary: Vocabulary, table: NgramTable | None, static: ArpaModel | None = None) -> None:
        if (table is None) == (static is None):
            raise SeedgramError("a model is a table or an ARPA model; use NgramModel.train or NgramModel.load")
        self.vocabulary, self.table = vocabulary, table
        if static is not None:
            self.static = static

    @cached_property
    def static(self) -> ArpaModel:
        """The probabilities of all n-grams."""
        assert self.table is not None
        return static_model(self.table, self._words)

    @classmethod
    def train(
        cls,
        texts: Iterable[Text],
        tokenizer: "str | os.PathLike[str] | bytes | int | Vocabulary" = "words",
        orders: int | tuple[int, int] = 7,
        max_bytes: int | None = None,
        *,
        min_count: int | list[int] = 1,
        bos: int = 1,
        max_memory: int | None = None,
    ) -> "NgramModel":
        """Counts texts, a document each, and estimates a model.

        tokenizer: "words" (a vocabulary of the 262,143 most frequent words and less, sentences are lines), a tokenizer's file or bytes, a vocabulary, or the
        number of token ids where texts are arrays of them, `bos` then being the one that begins documents.  orders: of the longest n-grams, or
        (2, longest).  max_bytes: of the saved file, by leaving out the n-grams that save the fewest bits.  min_count: occurrences that an n-gram
        needs, of all orders above 1 or one number an order, never falling.  max_memory: bytes for counting and estimating; what does not fit goes to
        temporary files, and the model is the same.  Raises SeedgramError on settings or texts that cannot be used."""
        texts = [texts] if isinstance(texts, str) else texts
        order = check_order(orders if isinstance(orders, int) else orders[1])
        if tokenizer == "words":
            texts = list(texts)  # read twice: for the words, then for the counts
        vocabulary = _vocabulary(texts, tokenizer, bos)
        documents, least = _documents(vocabulary, texts), min_count if isinstance(min_count, list) else [1] + [min_count] * (order - 1)
        with table_of(documents, vocabulary, order, least, max_memory) as table:
            return cls(vocabulary, fit_model(table, vocabulary, max_bytes)[0])

    @classmethod
    def load(cls, path: str | os.PathLike[str], tokenizer: "str | os.PathLike[str] | None" = None) -> "NgramModel":
        """Reads a model file, or an ARPA file of words, plain or gzip; of token ids where their tokenizer is given.  Raises SeedgramError."""
        if not is_arpa_file(path):
            if tokenizer is not None:
                raise SeedgramError(f"{os.fspath(path)}: has its vocabulary inside; leave the tokenizer out")
            model = read_model(path)
            return cls(model.tokenizer, model.table)
        if tokenizer is None:
            static, words = read_words(path)
            return cls(words, None, static)
        pieces = Tokenizer(tokenizer)
        return cls(pieces, None, import_arpa(path, bos=pieces.bos, vocab_size=pieces.vocab_size))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a model file, about 6 bits an n-gram, or an ARPA file where the name ends in .arpa or .lm."""
        if self.table is None:
            raise SeedgramError(f"{self.static.name}: came from an ARPA file, which has no counts to save; copy that file")
        if os.fspath(path).endswith(ARPA_NAMES):
            export_arpa(self.table, path, self._words)
        else:
            atomic_write(path, model_bytes(table_codec.encode(self.table), self.vocabulary))

    @property
    def _words(self) -> list[bytes] | None:
        return self.vocabulary.words if isinstance(self.vocabulary, WordVocabulary) else None

    @property
    def order(self) -> int:
        """Tokens of the longest n-grams."""
        return self.table.order if self.table is not None else self.static.order

    @property
    def vocab_size(self) -> int:
        return self.vocabulary.vocab_size

    @property
    def eos(self) -> int | None:
        """The token that ends a sentence; None where the model knows none, as with tokenizers and token ids."""
        eos = getattr(self.vocabulary, "eos", -1)
        return eos if eos >= 0 else None

    def encode(self, text: Text, bos: bool = False, eos: bool = False) -> Tokens:
        """(n,) tokens of one text or sentence; bos, eos: with the tokens that begin and end it, the latter where the model knows one."""
        tokens = self.vocabulary.encode(text) if isinstance(text, str) else as_tokens(text, self.vocab_size)
        if tokens.ndim != 1 or (len(tokens) and int(tokens.max()) >= self.vocab_size):
            raise SeedgramError(f"tokens of shape {tokens.shape} must be one row of tokens below {self.vocab_size}; use the model's vocabulary")
        begins = len(tokens) > 0 and int(tokens[0]) == self.vocabulary.bos
        if bos and not begins and self.vocabulary.bos < 0:
            raise SeedgramError(f"{self.vocabulary.name}: has no <s>, so no sentence begins; score with bos=False")
        before, after = [self.vocabulary.bos] * (bos and not begins), [self.eos] * (eos and self.eos is not None)
        kind = token_type(self.vocab_size)
        return np.concatenate([np.array(before, kind), tokens, np.array(after, kind)])

    def full_scores(self, text: Text, bos: bool = True, eos: bool = True) -> FullScores:
        """Each token of a text.  bos: after the beginning of a text, else after nothing; eos: its end is scored too, where the model knows one.

        Raises SeedgramError for a token that the model gives no probability, or 0."""
        tokens = self.encode(text, bos, eos)
        start = int(bos)
        log10_p, length = self.static.log10_scores(tokens, start, len(tokens))
        if not np.isfinite(log10_p).all():
            token = int(tokens[start:][int(np.argmin(np.isfinite(log10_p)))])
            raise SeedgramError(f"{self.static.name}: gives no probability to token {token} of the text; train on more text, or with <unk>")
        return FullScores(log10_p, length, tokens[start:] == getattr(self.vocabulary, "unknown", -1))

    def score(self, text: Text, bos: bool = True, eos: bool = True) -> float:
        """log10 probability of a text; see `full_scores`."""
        return float(self.full_scores(text, bos, eos).log10.sum())

    def perplexity(self, text: Text) -> float:
        """10 to the power of minus the average log10 probability of a text's tokens, its end among them where the model knows one."""
        scores = self.full_scores(text)
        if not len(scores):
            raise SeedgramError("perplexity of an empty text; give at least one token")
        return float(10.0 ** -(scores.log10.sum() / len(scores)))

    def distribution(self, history: Text = "", bos: bool = True) -> F64:
        """(V,) float64 probabilities of the token that follows a text; they sum to 1, but for the rounding of an ARPA file's numbers."""
        tokens = self.encode(history, bos)
        return np.asarray(self.static.rows(histories(tokens, [len(tokens)], self.order, self.vocabulary.bos))[0])

    def online(self, mix: bool = False) -> OnlineModel:
        """A model that starts from these counts and learns from what it is shown.

        mix: predicts best, by mixing orders, words, gaps, recency and matches, at 2 % of the speed; else Kneser-Ney."""
        if self.table is None:
            raise SeedgramError(f"{self.static.name}: an ARPA file has no counts to go on from; train a model")
        return OnlineModel(self.table, self.vocabulary, self.encode, mix=mix)

    def null_context(self, state: State | None = None) -> State:
        """`state`, or a new one, that remembers nothing."""
        state = State() if state is None else state
        state.places = empty_state(self.order)
        return state

    def begin_sentence(self, state: State | None = None) -> State:
        """`state`, or a new one, at the beginning of a text."""
        state = self.null_context(state)
        self._step(state, self._token(int(self.encode([], bos=True)[0])), state)
        return state

    def base_score(self, in_state: State, word: str | int, out_state: State | None = None) -> float:
        """log10 probability of one word (or token) after a state; `out_state` becomes the state after it and may be `in_state`.

        Raises SeedgramError for a string that is not one token."""
        token = self._tokens.get(word)
        return self._step(in_state, self._token(word) if token is None else token, State() if out_state is None else out_state)

    @cached_property
    def _tokens(self) -> dict[str | int, int]:
        """What `base_score` was asked for before."""
        return {}

    def _token(self, word: str | int) -> int:
        """The one token of a word, kept for the next time.  Raises SeedgramError for several, and for one without a probability."""
        tokens = [self.eos] if word == "</s>" and self.eos is not None else self.encode(word if isinstance(word, str) else [word]).tolist()
        if len(tokens) != 1:
            raise SeedgramError(f"{word!r} is {len(tokens)} tokens; give one at a time")
        if self.static.index.words[tokens[0]] < 0:
            raise SeedgramError(f"{self.static.name}: has no probability for token {tokens[0]}; make the model with an <unk>")
        if len(self._tokens) >= MAX_VOCAB:  # unknown words have no end
            self._tokens.clear()
        self._tokens[word] = tokens[0]
        return int(tokens[0])

    def _step(self, before: State, token: int, after: State) -> float:
        if before.places is None:
            raise SeedgramError("the state was never filled; begin with begin_sentence or null_context")
        places = np.empty_like(before.places)
        log10_p, _ = step(self.static.index, before.places, token, places)
        after.places = places
        return float(log10_p)


def _vocabulary(texts: Iterable[Text], tokenizer: Any, bos: int) -> Vocabulary:
    if isinstance(tokenizer, (Tokenizer, WordVocabulary, TokenIds)):
        return tokenizer
    if isinstance(tokenizer, int):
        return TokenIds((tokenizer, bos))
    if tokenizer == "words":
        if not all(isinstance(text, str) for text in texts):
            raise SeedgramError("arrays of tokens are no words; give their tokenizer or their number")
        return WordVocabulary.build(texts)  # type: ignore[arg-type]
    return Tokenizer(tokenizer)


def _documents(vocabulary: Vocabulary, texts: Iterable[Text]) -> Iterator[Tokens]:
    """Each text with its BOS."""
    for is_text, group in groupby(texts, lambda text: isinstance(text, str)):
        if is_text:
            yield from vocabulary.encode_documents(group)  # type: ignore[arg-type]
            continue
        for text in group:
            tokens = as_tokens(text, vocabulary.vocab_size)
            begins = len(tokens) > 0 and int(tokens[0]) == vocabulary.bos
            yield tokens if begins else np.concatenate([np.array([vocabulary.bos], tokens.dtype), tokens])
