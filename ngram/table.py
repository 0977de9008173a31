"""NgramTable: the counts of one model as a trie.  counting/build_table.py makes it, online/cache.py scores with it.

The n-grams of an order are sorted by (parent, token), so the children of one context lie side by side, and nothing is hashed.  Order 1 is
dense: every token of the vocabulary, in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ngram.arrays import F64, I64, U16, U32, Tokens
from ngram.errors import SeedgramError
from ngram.threads import each

PAD = 65535  # `pad_of` of 16-bit tokens
MAX_VOCAB = 1 << 18  # seven such tokens fit the keys of counting
TOKEN_BITS = 18
MAX_ORDER = 8
PIECE = 1 << 20  # n-grams looked up at a time


def check_order(order: int) -> int:
    """`order` itself, or SeedgramError when it is outside 1…8."""
    if not 1 <= order <= MAX_ORDER:
        raise SeedgramError(f"order {order} is outside 1…{MAX_ORDER}; choose one inside")
    return order


@dataclass(frozen=True)
class NgramTable:
    """Kneser–Ney counts of orders 1…order, closed under prefix and suffix.

    tokens[n-1]   (M_n,) uint16   last token of each n-gram of order n; uint32 above 65,535 tokens (arrays.token_type)
    parents[n-1]  (M_n,) uint32   index of its context, the first n-1 tokens, in order n-1 (order 1: all 0)
    counts[n-1]   (M_n,) uint16   adjusted counts: distinct left neighbours below the top order, raw at the top and for
                                  n-grams that begin with BOS, which nothing can precede; min(count, 65535)
    excess        {n: (index uint32, count uint32)} exact counts of the few entries whose count exceeds 65,535
    pruned[n]     (M_n,) uint32   for contexts of order n = 0…order-1 (order 0: one entry): adjusted-count mass of
                                  children that were left out, so T(h) = Σ counts + pruned
    discounts     (order, 3) float64   D1, D2, D3+ of each order, estimated before anything was left out
    raw[n-1]      (M_n,) uint32   raw occurrence counts, or None once they were dropped (a decoded table has none)"""

    vocab_size: int
    bos: int
    tokens: list[Tokens]
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

    def first_child(self, n: int) -> I64:
        """(M_n + 1,) offsets: the children of context i of order n are rows first[i]…first[i+1]-1 of order n+1."""
        return np.append(0, np.cumsum(np.bincount(self.parents[n], minlength=len(self.pruned[n]))))


def stored_counts(exact: Sequence[I64]) -> dict[str, Any]:
    """The columns `counts` and `excess` of a table from the adjusted counts of each order."""
    large = ((n, np.flatnonzero(counts > 65535), counts) for n, counts in enumerate(exact, 1))
    excess = {n: (rows.astype(np.uint32), counts[rows].astype(np.uint32)) for n, rows, counts in large if len(rows)}
    return {"counts": [np.minimum(counts, 65535).astype(np.uint16) for counts in exact], "excess": excess}


def suffix_rows(table: NgramTable) -> list[I64]:
    """For each order n (1 first) the row in order n-1 of each n-gram without its first token; order 1: zeros.

    Raises SeedgramError when one is missing: the table is not closed under suffixes."""
    rows = [np.zeros(len(table.tokens[0]), np.int64)]
    for n in range(2, table.order + 1):
        below = (table.parents[n - 2].astype(np.int64) << TOKEN_BITS) | table.tokens[n - 2]
        wanted = (rows[-1][table.parents[n - 1]] << TOKEN_BITS) | table.tokens[n - 1]
        pieces = each(partial(np.searchsorted, below), np.array_split(wanted, 1 + len(wanted) // PIECE))
        found = np.minimum(np.concatenate(pieces), len(below) - 1)
        if not np.array_equal(below[found], wanted):
            what = f"order {n} holds n-grams whose suffix is not in order {n - 1}"
            raise SeedgramError(f"n-gram table: {what}; make it with ngram.build_table or ngram.storing.prune")
        rows.append(found)
    return rows
