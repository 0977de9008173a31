"""A model read from an ARPA file: static probabilities by exact key, scored over whole streams at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ngram.errors import SeedgramError
from ngram.table import F64, PAD, U16

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


def row_keys(parents: npt.NDArray[np.integer], tokens: npt.NDArray[np.integer]) -> U64:
    """One sortable number for each (context row, token)."""
    return parents.astype(np.uint64) << np.uint64(16) | tokens.astype(np.uint64)


def find_rows(keys: U64, parents: I64, tokens: I64) -> I64:
    """Rows of (context row, token) among sorted `keys`, -1 where absent or where the context row is negative."""
    if not len(keys):
        return np.full(len(tokens), -1, np.int64)
    wanted = row_keys(np.maximum(parents, 0), tokens)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((keys[place] == wanted) & (parents >= 0), place, -1)


@dataclass(frozen=True)
class ArpaModel:
    """Probabilities of orders 1…order by exact key.

    keys[n-1]      (M_n,) uint64   sorted: row of the first n-1 tokens in order n-1 (0 for order 1) << 16 | last token
    log10_p[n-1]   (M_n,) float64  log10 of the full probability
    log10_b[n-1]   (M_n,) float64  log10 of the backoff weight; zeros at the top order
    floor          log10 probability of a token that has no unigram (the file's <unk>, else -99)
    bos            id before which no history reaches"""

    vocab_size: int
    bos: int
    keys: list[U64]
    log10_p: list[F64]
    log10_b: list[F64]
    floor: float

    @property
    def order(self) -> int:
        return len(self.keys)

    def score(self, tokens: U16, start: int, stop: int) -> F64:
        """(stop-start,) float64 probabilities of targets tokens[start:stop]; tokens: (N,) uint16, start ≥ 1.

        A history begins at the nearest BOS to the left of its target.  Raises SeedgramError for a foreign token."""
        begin = max(0, start - self.order + 1)
        window = tokens[begin:stop].astype(np.int64)
        if len(window) and window.max() >= self.vocab_size:
            raise SeedgramError(
                f"token {window.max()} is outside this model's vocabulary of {self.vocab_size}; use the tokenizer it was made for"
            )
        at = slice(start - begin, None)
        found = find_rows(self.keys[0], np.zeros_like(window), window)  # row of the n-gram that ends at each place
        result = _pick(self.log10_p[0], found, self.floor)[at]
        for n in range(2, self.order + 1):
            # An n-gram's context is the (n-1)-gram that ends one place earlier; a BOS may only begin it.
            context = np.concatenate([[-1], found[:-1]])
            if n > 2:
                context[1:][window[:-1] == self.bos] = -1
            found = find_rows(self.keys[n - 1], context, window)
            backed_off = result + _pick(self.log10_b[n - 2], context, 0.0)[at]
            result = _pick(self.log10_p[n - 1], found[at], backed_off)
        return np.asarray(10.0**result)

    def rows(self, histories: npt.NDArray[np.uint16]) -> F64:
        """(P, V) float64 probabilities of every token; histories (P, order-1) uint16, PAD on the left."""
        out = np.empty((len(histories), self.vocab_size))
        contexts = [1, *(len(keys) for keys in self.keys[:-1])]
        first = [
            np.searchsorted(keys >> np.uint64(16), np.arange(m + 1, dtype=np.uint64)) for keys, m in zip(self.keys, contexts, strict=True)
        ]
        unigrams = np.full(self.vocab_size, self.floor)
        unigrams[(self.keys[0] & np.uint64(0xFFFF)).astype(np.int64)] = self.log10_p[0]
        for i, history in enumerate(histories):
            row = unigrams.copy()
            for n, context in self._contexts(history.astype(np.int64)):
                row += self.log10_b[n - 2][context]
                children = slice(first[n - 1][context], first[n - 1][context + 1])
                row[(self.keys[n - 1][children] & np.uint64(0xFFFF)).astype(np.int64)] = self.log10_p[n - 1][children]
            out[i] = row
        return np.asarray(10.0**out)

    def _contexts(self, history: I64) -> Iterator[tuple[int, int]]:
        """(n, row in order n-1) of every context that ends the history and is in the model, shortest first."""
        for n in range(2, self.order + 1):
            words = history[len(history) - n + 1 :]
            if words[0] == PAD or self.bos in words[1:]:
                return
            row = np.zeros(1, np.int64)
            for length, word in enumerate(words.tolist(), 1):
                row = find_rows(self.keys[length - 1], row, np.array([word]))
            if row[0] >= 0:
                yield n, int(row[0])


def _pick(values: F64, rows: I64, otherwise: F64 | float) -> F64:
    """values[rows], and `otherwise` where the row is -1."""
    return np.where(rows >= 0, values[rows], otherwise) if len(values) else np.where(rows >= 0, np.nan, otherwise)
