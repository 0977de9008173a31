"""What an ARPA file leaves to its reader: n-grams that only longer ones imply, and interpolation (IRSTLM's iARPA).

Toolkits that prune may drop an n-gram and keep longer ones that begin with it.  It is restored with the probability that backing off
gives it, and as a context it gets the backoff weight with which its distribution sums to 1.
An iARPA file lists for orders above 1 a discounted frequency f, to which weight(context) · p(the same word after the shorter context) is to be
added (IRSTLM manual, "Intermediate Textual Format"; its reader, `lmtable.cpp`).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ngram.arpa.model import WORD_BITS, WORD_MASK, find_rows, row_keys
from ngram.arrays import F64, I64, U64

BLOCK = 1 << 18  # n-grams handled at a time


@dataclass
class Listed:
    """Orders 1…n as far as they are read; as in ArpaModel, NaN where a probability and a weight are still to be found."""

    keys: list[U64]
    log10_p: list[F64]
    log10_b: list[F64]

    def words(self, n: int, rows: I64) -> I64:
        """(len(rows), n) the words of n-grams of order n."""
        out = np.empty((len(rows), n), np.int64)
        for column in range(n - 1, -1, -1):
            keys = self.keys[column][rows]
            out[:, column], rows = (keys & WORD_MASK).astype(np.int64), (keys >> WORD_BITS).astype(np.int64)
        return out

    def rows_of(self, words: npt.NDArray[np.integer]) -> I64:
        """(M,) rows of the n-grams `words` (M, n), -1 where one is missing."""
        rows = np.zeros(len(words), np.int64)
        for k in range(words.shape[1]):
            rows = find_rows(self.keys[k], rows, words[:, k])
        return rows

    def log10_of(self, words: I64) -> F64:
        """(M,) log10 probability of the last of `words` (M, n) after the others, backing off where it is not listed."""
        n = words.shape[1]
        if n == 1:
            return self.log10_p[0][self.rows_of(words)]
        context = self.rows_of(words[:, :-1])
        listed = find_rows(self.keys[n - 1], context, words[:, -1])
        weights = np.where(context >= 0, self.log10_b[n - 2][context], 0.0)
        backed_off = weights + self.log10_of(words[:, 1:])
        return np.where(listed >= 0, self.log10_p[n - 1][listed], backed_off) if len(self.keys[n - 1]) else backed_off

    def restore(self, words: npt.NDArray[np.integer]) -> int:
        """Adds all beginnings (of two words and more) of the n-grams `words` (M, n), n above the orders read; how many were missing."""
        added = 0
        for k in range(2, words.shape[1]):
            parents = self.rows_of(words[:, : k - 1])
            missing = find_rows(self.keys[k - 1], parents, words[:, k - 1]) < 0
            if missing.any():
                new = np.unique(row_keys(parents[missing], words[missing, k - 1]))
                self._insert(k, new)
                added += len(new)
        return added

    def _insert(self, k: int, new: U64) -> None:
        """Puts keys into order k; the rows that order k+1 names move with theirs."""
        old = self.keys[k - 1]
        place = np.searchsorted(old, new)
        self.keys[k - 1] = np.insert(old, place, new)
        self.log10_p[k - 1] = np.insert(self.log10_p[k - 1], place, np.nan)
        self.log10_b[k - 1] = np.insert(self.log10_b[k - 1], place, np.nan)
        if k < len(self.keys):
            keys = self.keys[k]
            rows = (keys >> WORD_BITS).astype(np.int64)
            self.keys[k] = row_keys(rows + np.searchsorted(new, old)[rows], keys & WORD_MASK)

    def settle(self, *, interpolated: bool) -> None:
        """Finds every probability and weight that is still NaN, from short n-grams to long ones; interpolated: adds what iARPA leaves out."""
        for n in range(2, len(self.keys) + 1):
            self._settle_weights(n, interpolated)
            values = self.log10_p[n - 1]
            wanted = np.arange(len(values)) if interpolated else np.flatnonzero(np.isnan(values))
            for start in range(0, len(wanted), BLOCK):
                rows = wanted[start : start + BLOCK]
                words = self.words(n, rows)
                backed_off = self.log10_b[n - 2][(self.keys[n - 1][rows] >> WORD_BITS).astype(np.int64)] + self.log10_of(words[:, 1:])
                own = 10.0 ** np.where(np.isnan(values[rows]), -np.inf, values[rows])
                with np.errstate(divide="ignore"):
                    values[rows] = np.log10(own + 10.0**backed_off)

    def _settle_weights(self, n: int, interpolated: bool) -> None:
        """Weights of the restored contexts of order n-1: with them the distributions sum to 1."""
        weights, values = self.log10_b[n - 2], self.log10_p[n - 1]
        restored = np.isnan(weights)
        if not restored.any():
            return
        parents = (self.keys[n - 1] >> WORD_BITS).astype(np.int64)
        rows = np.flatnonzero(restored[parents] & ~np.isnan(values))
        shorter = np.zeros(len(rows)) if interpolated else 10.0 ** self.log10_of(self.words(n, rows)[:, 1:])
        left = 1 - np.bincount(parents[rows], 10.0 ** values[rows], minlength=len(weights))[restored]
        rest = 1 - np.bincount(parents[rows], shorter, minlength=len(weights))[restored]
        with np.errstate(divide="ignore"):
            weights[restored] = np.log10(np.where(rest > 0, np.maximum(left, 0) / np.where(rest > 0, rest, 1), 0))
