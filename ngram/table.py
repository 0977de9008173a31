"""NgramTable: the counts of one model as a trie sorted by (context, token).  Data only; see cache.py for where it comes from.

Order n (1 ≤ n ≤ order) is a pair of columns, sorted by (parent, token): `parents[n-1]` is the index of the n-gram's
first n-1 tokens among the n-grams of order n-1, `tokens[n-1]` its last token.  So the children of one context lie
side by side and keys are exact: nothing is hashed.  Order 1 is dense: every token of the vocabulary, in order.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

PAD = 65535  # "no token": fills a history to the left of its beginning; so vocabularies have at most 65,535 tokens
MAX_ORDER = 8

U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NgramTable:
    """Kneser–Ney counts of orders 1…order, closed under prefix and suffix.

    tokens[n-1]   (M_n,) uint16   last token of each n-gram
    parents[n-1]  (M_n,) uint32   index of its context in order n-1 (order 1: all 0)
    counts[n-1]   (M_n,) uint16   adjusted counts: distinct left neighbours below the top order, raw at the top and for
                                  n-grams that begin with BOS, which nothing can precede; min(count, 65535)
    excess        {n: (index uint32, count uint32)} exact counts of the few entries whose count exceeds 65,535
    pruned[n]     (M_n,) uint32   for contexts of order n = 0…order-1 (order 0: one entry): adjusted-count mass of
                                  children that were left out, so T(h) = Σ counts + pruned
    discounts     (order, 3) float64   D1, D2, D3+ of each order, estimated before anything was left out
    raw[n-1]      (M_n,) uint32   raw occurrence counts, or None once they were dropped (a decoded table has none)
    """

    vocab_size: int
    bos: int
    tokens: list[U16]
    parents: list[U32]
    counts: list[U16]
    pruned: list[U32]
    discounts: F64
    excess: dict[int, tuple[U32, U32]] = field(default_factory=dict)
    raw: list[U32] | None = None

    @property
    def order(self) -> int:
        return len(self.tokens)

    def sizes(self) -> list[int]:
        """Number of n-grams of each order, 1 first."""
        return [len(column) for column in self.tokens]

    def exact_counts(self, n: int) -> U32:
        """(M_n,) uint32 adjusted counts of order n with the excess table applied."""
        counts = self.counts[n - 1].astype(np.uint32)
        if n in self.excess:
            index, value = self.excess[n]
            counts[index] = value
        return counts

    def first_child(self, n: int) -> npt.NDArray[np.int64]:
        """(M_n + 1,) offsets: the children of context i of order n are rows first[i]…first[i+1]-1 of order n+1."""
        size = 1 if n == 0 else len(self.tokens[n - 1])
        return np.concatenate([[0], np.cumsum(np.bincount(self.parents[n], minlength=size))])
