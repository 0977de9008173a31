"""What the tokens of an n-gram model stand for: a tokenizer's pieces, words, or nothing but numbers."""

from collections.abc import Iterable, Iterator

import numpy as np

from ngram.arrays import I64, Tokens, as_tokens, token_type
from ngram.errors import DataError, FileFormatError
from ngram.table import MAX_VOCAB
from ngram.tokenizer import Tokenizer, joined
from ngram.words import WordVocabulary


class TokenIds:
    """No text: tokens of somebody else's tokenizer.  Where a text is asked for, ids with spaces between them are one.

    vocab_size ≤ 2^18; bos: id that begins every document, not counted by `encode`.  Raises FileFormatError on impossible numbers."""

    eos = -1

    def __init__(self, model: bytes | tuple[int, int], name: str = "token ids") -> None:
        try:
            self.vocab_size, self.bos = map(int, model.split()) if isinstance(model, bytes) else model
        except ValueError:
            raise FileFormatError(f"{name}: not a size and a BOS; make the file again") from None
        if not 0 <= self.bos < self.vocab_size <= MAX_VOCAB:
            raise FileFormatError(f"{name}: BOS {self.bos} and vocabulary {self.vocab_size} are not 0 ≤ BOS < vocabulary ≤ {MAX_VOCAB}; change them")
        self.name = name

    @property
    def model(self) -> bytes:
        """All that a file has to hold."""
        return f"{self.vocab_size} {self.bos}".encode()

    def pieces(self) -> list[str]:
        """The ids as text, ▁ before each for a space."""
        return [f"▁{token}" for token in range(self.vocab_size)]

    def encode(self, text: str) -> Tokens:
        """(n,) tokens of decimal numbers.  Raises DataError for anything else, and for numbers outside the vocabulary."""
        words = text.split()
        if not all(word.isdecimal() and len(word) < 8 and int(word) < self.vocab_size for word in words):
            raise DataError(f"{self.name}: the model knows token ids below {self.vocab_size}, and no text; give ids with spaces between them")
        return as_tokens(np.array([int(word) for word in words], np.int64), self.vocab_size)

    def encode_documents(self, texts: Iterable[str], *, threads: int = 1, allow_loss: bool = False) -> Iterator[Tokens]:
        """BOS and the tokens of each text; the flags are those of tokenizers and change nothing here."""
        for text in texts:
            yield np.concatenate([np.array([self.bos], token_type(self.vocab_size)), self.encode(text)])

    def encode_joined(self, texts: Iterable[str]) -> tuple[Tokens, I64]:
        """`encode_documents` of some texts, one after the other, and (D,) where those of each end."""
        return joined(self.encode_documents(texts), token_type(self.vocab_size))


Vocabulary = Tokenizer | WordVocabulary | TokenIds
KINDS: dict[str, type[WordVocabulary] | type[TokenIds]] = {"words": WordVocabulary, "ids": TokenIds}


def kind_of(vocabulary: Vocabulary) -> str:
    """Its name in files, "" for a tokenizer's."""
    return next((kind for kind, found in KINDS.items() if isinstance(vocabulary, found)), "")


def from_model(kind: str, model: bytes, name: str) -> Vocabulary:
    """The vocabulary that `kind_of` and `model` describe.  Raises SeedgramError, naming `name`."""
    if kind and kind not in KINDS:
        raise FileFormatError(f"{name}: its vocabulary is of a kind {kind[:20]!r} that is not known here; make the file again")
    return KINDS[kind](model, name) if kind else Tokenizer(model, name)
