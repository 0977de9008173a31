"""A model read from an ARPA file: static probabilities by exact key, scored over whole streams at once.

A *word* is what the file lists: a token id, UNKNOWN (the file's `<unk>`) or END (its `</s>`).  Where a file's own words are the vocabulary
(ngram/words.py), all three are token ids.  A token without a 1-gram of its own is read as
UNKNOWN, in contexts too, and the probability of `<unk>` is shared equally by all such tokens, so that a row over the vocabulary sums to 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ngram.arpa.index import BUCKET, EMPTY, Index, aligned, buckets_for, insert, score_range
from ngram.arrays import F64, I64, U8, U64, Tokens, pad_of, read_only
from ngram.errors import FileFormatError, SeedgramError

UNKNOWN, END = 1 << 24, (1 << 24) + 1  # words that are no token ids
WORD_BITS = np.uint64(25)
WORD_MASK = np.uint64((1 << 25) - 1)
CHECKED_ROWS = 512  # contexts of a text whose whole distributions are summed
LARGEST_ROUNDING = 0.02  # of a sum, however few digits a file has


def row_keys(parents: npt.NDArray[np.integer], words: npt.NDArray[np.integer]) -> U64:
    """One sortable number for each (context row, word)."""
    return parents.astype(np.uint64) << WORD_BITS | words.astype(np.uint64)


def find_rows(keys: U64, parents: I64, words: npt.NDArray[np.integer]) -> I64:
    """Rows of (context row, word) among sorted `keys`, -1 where absent or where the context row or the word is negative."""
    if not len(keys):
        return np.full(len(words), -1, np.int64)
    wanted = row_keys(np.maximum(parents, 0), np.maximum(words, 0))
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((keys[place] == wanted) & (parents >= 0) & (words >= 0), place, -1)


@dataclass(frozen=True)
class ArpaModel:
    """Probabilities of orders 1…order by exact key.

    keys[n-1]      (M_n,) uint64   sorted: row of the first n-1 words in order n-1 (0 for order 1) << 25 | last word
    log10_p[n-1]   (M_n,) float64  log10 of the full probability, -inf for 0
    log10_b[n-1]   (M_n,) float64  log10 of the backoff weight; zeros at the top order
    bos            id before which no history reaches
    name           of the file, for error messages
    decimals       most digits after the point of any number in the file: how exactly its rows can sum to 1
    restored       n-grams that the file leaves out although it lists longer ones that begin with them"""

    vocab_size: int
    bos: int
    keys: list[U64]
    log10_p: list[F64]
    log10_b: list[F64]
    name: str = "ARPA file"
    decimals: int = 7
    restored: int = 0
    word_of: I64 = field(init=False)  # (V,) word of each token: itself, UNKNOWN, or -1 where the file has no <unk>
    log10_share: float = field(init=False)  # of UNKNOWN's probability, for each token that is read as it

    def __post_init__(self) -> None:
        words = (self.keys[0] & WORD_MASK).astype(np.int64)
        word_of = np.full(self.vocab_size, UNKNOWN if UNKNOWN in words else -1)
        word_of[words[words < UNKNOWN]] = words[words < UNKNOWN]
        object.__setattr__(self, "word_of", word_of)
        object.__setattr__(self, "log10_share", -float(np.log10(max(1, int((word_of == UNKNOWN).sum())))))

    @property
    def order(self) -> int:
        return len(self.keys)

    def score(self, tokens: Tokens, start: int, stop: int) -> F64:
        """(stop-start,) float64 probabilities of targets tokens[start:stop]; tokens: (N,), start ≥ 1.

        A history begins at the nearest BOS to the left of its target.  Raises SeedgramError for a foreign token, for one that the
        file has no probability for, and for one of probability 0."""
        window = tokens[max(0, start - self.order + 1) : stop]
        if len(window) and window.max() >= self.vocab_size:
            raise SeedgramError(
                f"{self.name}: token {window.max()} is outside this model's vocabulary of {self.vocab_size}; use the tokenizer it was made for"
            )
        log10_p = self.log10_scores(tokens, start, stop)[0]
        if not np.isfinite(log10_p).all():
            place = int(np.argmin(np.isfinite(log10_p)))
            token, where = tokens[start + place], f"at place {start + place:,}; train on more text"
            if np.isnan(log10_p[place]):
                raise SeedgramError(f"{self.name}: has no probability for token {token} of the text, and no <unk>; make the model with an <unk>")
            raise SeedgramError(f"{self.name}: gives probability 0 to token {token} {where}")
        return np.asarray(10.0**log10_p)

    def log10_scores(self, tokens: Tokens, start: int, stop: int) -> tuple[F64, U8]:
        """(n,) log10 probabilities of tokens[start:stop], NaN for those that the file has none for, and (n,) uint8 words of the longest n-gram."""
        log10_p, lengths = np.empty(stop - start), np.empty(stop - start, np.uint8)
        score_range(self.index, read_only(tokens, self.vocab_size), start, stop, log10_p, lengths)
        return log10_p, lengths

    @cached_property
    def index(self) -> Index:
        """The model as a table of look-ups, made when first needed: 24 bytes a place, of which three in five are taken."""
        lines = -(-(self.vocab_size + 2) // BUCKET)  # of 1-grams
        buckets = np.array([lines, *(buckets_for(len(keys)) for keys in self.keys[1:])])
        begin, places = np.cumsum([0, *buckets[:-1] * BUCKET]), int(buckets.sum()) * BUCKET
        share = np.where(self.word_of == UNKNOWN, self.log10_share, 0.0)
        settings, words = np.array([self.order, self.bos]), self._column(self.word_of)
        index = Index(aligned(places, np.int64), aligned(2 * places, np.float64).reshape(places, 2), begin, buckets, words, share, settings)
        index.keys[:], index.values[: lines * BUCKET] = EMPTY, (-np.inf, 0.0)
        below = self._column((self.keys[0] & WORD_MASK).astype(np.int64))
        index.values[below, 0], index.values[below, 1] = self.log10_p[0], self.log10_b[0]
        for n in range(2, self.order + 1):
            keys, found = self.keys[n - 1], np.empty(len(self.keys[n - 1]), np.int64)
            contexts, last = below[(keys >> WORD_BITS).astype(np.int64)], self._column((keys & WORD_MASK).astype(np.int64))
            insert(index, n, contexts, last, self.log10_p[n - 1], self.log10_b[n - 1], found)
            below = found
        return index

    def rows(self, histories: Tokens) -> F64:
        """(P, V) float64 probabilities of every token; histories (P, order-1), `pad_of` on the left."""
        out = np.empty((len(histories), self.vocab_size))
        known = self._column(self.word_of)
        share = np.where(self.word_of == UNKNOWN, self.log10_share, np.where(self.word_of < 0, -np.inf, 0.0))
        for i, row in enumerate(self._word_rows(histories)):
            out[i] = row[known] + share
        return np.asarray(10.0**out)

    def row_sums(self, histories: Tokens) -> F64:
        """(P,) float64 sums of whole distributions over all words, `</s>` and `<unk>` among them; histories as for `rows`."""
        return np.array([(10.0**row).sum() for row in self._word_rows(histories)])

    def check_sums(self, tokens: Tokens) -> tuple[float, float]:
        """(smallest, largest) sum of the distribution without context and those after some hundred contexts of a text, (N,).

        Raises FileFormatError when one exceeds 1 by more than the rounding of the file's numbers explains: what it says are then no
        probabilities, and any figure made from them would be too good."""
        pad = pad_of(tokens.dtype)
        histories = np.full((min(CHECKED_ROWS, len(tokens)), self.order - 1), pad, tokens.dtype)
        for row, stop in enumerate(np.unique(np.linspace(1, len(tokens), len(histories)).astype(np.int64))):
            part = tokens[max(0, stop - self.order + 1) : stop]
            histories[row, self.order - 1 - len(part) :] = part
        sums = self.row_sums(np.unique(np.concatenate([np.full_like(histories[:1], pad), histories]), axis=0))
        slack = min(max(1e-4, 1.2 * self.order * 10.0**-self.decimals), LARGEST_ROUNDING)
        if not sums.max() <= 1 + slack:
            raise FileFormatError(
                f"{self.name}: its probabilities are none, they sum to {sums.max():.6g} after a context of the text instead of 1; export the model again"
            )
        return float(sums.min()), float(sums.max())

    def _word_rows(self, histories: Tokens) -> Iterator[F64]:
        """For each history (V + 2,) log10 probabilities of all words, UNKNOWN and END last; -inf for those that the file does not list."""
        unigrams = np.full(self.vocab_size + 2, -np.inf)
        unigrams[self._column((self.keys[0] & WORD_MASK).astype(np.int64))] = self.log10_p[0]
        for history in histories:
            row = unigrams.copy()
            for n, context in self._contexts(history.astype(np.int64)):
                row += self.log10_b[n - 2][context]
                keys = self.keys[n - 1]
                children = slice(*np.searchsorted(keys, row_keys(np.array([context, context + 1]), np.zeros(2, np.int64))))
                row[self._column((keys[children] & WORD_MASK).astype(np.int64))] = self.log10_p[n - 1][children]
            yield row

    def _column(self, words: I64) -> I64:
        """Places of words in a row of `_word_rows`."""
        return np.where(words < UNKNOWN, words, words - UNKNOWN + self.vocab_size)

    def _contexts(self, history: I64) -> Iterator[tuple[int, int]]:
        """(n, row in order n-1) of every context that ends the history and is in the model, shortest first."""
        for n in range(2, self.order + 1):
            tokens = history[len(history) - n + 1 :]
            if tokens[0] >= self.vocab_size or self.bos in tokens[1:]:
                return
            row = np.zeros(1, np.int64)
            for length, word in enumerate(self.word_of[tokens].tolist(), 1):
                row = find_rows(self.keys[length - 1], row, np.array([word]))
            if row[0] >= 0:
                yield n, int(row[0])
