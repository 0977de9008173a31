"""Interpolated modified Kneser–Ney, as a definition over a whole table.

    p_n(w | h) = max(c(hw) − D(c(hw)), 0) / T(h) + λ(h) · p_{n-1}(w | h without its first token)
    λ(h) = (D1·N1 + D2·N2 + D3·N3+ + pruned(h)) / T(h),  T(h) = Σ_w c(hw) + pruned(h),  p_0 = 1 / vocabulary

A context that was never seen (T = 0) passes the shorter one's distribution through.  Chen & Goodman (1999), "An empirical study of
smoothing techniques for language modeling".  Two kernels are tested against this: online/kernels.py on a trie that grows,
mixture/evidence.py on the two sides of a node.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ngram.arrays import F64, I64
from ngram.table import NgramTable


class SmoothedOrder(NamedTuple):
    """One order n of a table, M n-grams h w over C contexts h.

    share (M,): max(c − D(c), 0) / T(h).  lower (M,): p_{n-1} of the same n-gram without its first token.
    prob (M,): share + λ(h) · lower.  backoff (C,): λ(h), 1 where T(h) = 0.  total (C,): T(h).  All float64."""

    share: F64
    lower: F64
    prob: F64
    backoff: F64
    total: F64


def smoothed_orders(table: NgramTable, suffixes: list[I64]) -> Iterator[SmoothedOrder]:
    """The orders of a table, 1 first.  suffixes: `table.suffix_rows(table)`."""
    below = np.full(1, 1.0 / table.vocab_size)
    for n in range(1, table.order + 1):
        counts = table.exact_counts(n).astype(np.float64)
        discount = np.append(0.0, table.discounts[n - 1])[np.minimum(counts, 3).astype(np.int64)]
        taken = np.minimum(counts, discount)
        parents, left_out = table.parents[n - 1], table.pruned[n - 1].astype(np.float64)
        total = np.bincount(parents, counts, len(left_out)) + left_out
        free = np.bincount(parents, taken, len(left_out)) + left_out
        safe = np.maximum(total, 1.0)  # counts are whole numbers: only 0 is below 1
        share, backoff, lower = (counts - taken) / safe[parents], np.where(total > 0, free / safe, 1.0), below[suffixes[n - 1]]
        below = share + backoff[parents] * lower
        yield SmoothedOrder(share, lower, below, backoff, total)
