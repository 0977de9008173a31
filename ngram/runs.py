"""Runs: exact sorted counts of top-order n-grams, and the table that is read from them.

One run holds all orders: keys are n-grams read backwards (see contexts.py), so each shorter n-gram is a key prefix,
its raw count the sum over a block of keys, and its number of distinct left neighbours the number of different next
slots in that block.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ngram import kernels
from ngram.contexts import U64, check_orders, slot_mask
from ngram.errors import SeedgramError
from ngram.smoothing import estimate_discounts
from ngram.table import F64, U16, U32, NgramTable

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """Distinct keys in rising order and how often each was counted.

    hi, lo (M,) uint64 keys; counts (M,) uint16, 65535 meaning "see overflow"; overflow_index (K,) int64 rising,
    overflow_count (K,) int64 the exact counts of those entries; order: slots in use."""

    order: int
    hi: U64
    lo: U64
    counts: U16
    overflow_index: I64
    overflow_count: I64

    def __len__(self) -> int:
        return len(self.hi)

    def columns(self) -> "Columns":
        return self.hi, self.lo, self.counts, self.overflow_index, self.overflow_count

    def exact_counts(self) -> I64:
        """(M,) int64 counts with the overflow applied."""
        exact = self.counts.astype(np.int64)
        exact[self.overflow_index] = self.overflow_count
        return exact

    def total(self) -> int:
        """Number of positions counted."""
        stored = int(self.counts.sum(dtype=np.int64))
        return stored - kernels.FULL * len(self.overflow_index) + int(self.overflow_count.sum())

    def slice(self, start: int, stop: int) -> "Run":
        """Entries start…stop-1 as a run of its own (views, not copies, except the overflow)."""
        first, last = np.searchsorted(self.overflow_index, [start, stop])
        overflow = self.overflow_index[first:last] - start, self.overflow_count[first:last].copy()
        return Run(self.order, self.hi[start:stop], self.lo[start:stop], self.counts[start:stop], *overflow)

    @staticmethod
    def from_counts(order: int, hi: U64, lo: U64, exact: npt.ArrayLike) -> "Run":
        """A run from sorted distinct keys and their exact counts ((M,) integers ≥ 1)."""
        counts = np.asarray(exact, dtype=np.int64)
        index = np.flatnonzero(counts >= kernels.FULL).astype(np.int64)
        return Run(check_orders(order), hi, lo, np.minimum(counts, kernels.FULL).astype(np.uint16), index, counts[index])

    @staticmethod
    def empty(order: int) -> "Run":
        none = np.zeros(0, np.uint64)
        return Run.from_counts(order, none, none, np.zeros(0, np.int64))


Columns = tuple[U64, U64, U16, I64, I64]


def _blank(size: int, overflow: int) -> Columns:
    words = np.empty(size, np.uint64), np.empty(size, np.uint64)
    return *words, np.empty(size, np.uint16), np.empty(overflow, np.int64), np.empty(overflow, np.int64)


def _filled(order: int, columns: Columns, size: int, overflow: int) -> Run:
    """The run in the first `size` entries of blank columns; pages that were never written take no memory."""
    hi, lo, counts, over_index, over_count = columns
    return Run(order, hi[:size], lo[:size], counts[:size], over_index[:overflow].copy(), over_count[:overflow].copy())


def run_of_keys(keys: npt.NDArray[np.uint64], scratch: npt.NDArray[np.uint64], fill: int, order: int, vocab_size: int) -> Run:
    """Sorts keys[:fill] (both arrays are overwritten) and counts equal ones.  keys, scratch: (cap, 2) uint64."""
    if kernels.sort_keys(keys, scratch, fill, order, vocab_size):
        keys = scratch
    blank = _blank(fill, fill // kernels.FULL + 1)
    return _filled(order, blank, *kernels.group_keys(keys, fill, *blank))


def merge(a: Run, b: Run) -> Run:
    """The run of both streams: counts of equal keys add up, exactly.  Raises SeedgramError if the orders differ."""
    if a.order != b.order:
        raise SeedgramError(f"runs of order {a.order} and {b.order} cannot be merged; count both with the same orders")
    if not len(a) or not len(b):
        return a if len(a) else b
    # an overflow entry stands for at least 65,535 positions, which bounds how many there can be
    out = _blank(len(a) + len(b), (a.total() + b.total()) // kernels.FULL + 1)
    return _filled(a.order, out, *kernels.merge_runs(a.columns(), b.columns(), out))


def _thresholds(min_raw: list[int] | tuple[int, ...] | None, order: int) -> list[int]:
    if min_raw is None:
        return [1] * order
    wanted = [max(1, int(value)) for value in min_raw]
    if len(wanted) != order or any(a > b for a, b in pairwise(wanted)):
        raise SeedgramError(f"thresholds {list(min_raw)} must be {order} numbers, one an order, that never fall")
    return wanted


def _masks(n: int, top: int) -> U64:
    """(3, 2) uint64: (hi, lo) masks that keep n-1, n and n+1 slots."""
    return np.array([slot_mask(n - 1), slot_mask(n), slot_mask(min(n + 1, top))], np.uint64)


def build_table(
    run: Run,
    vocab_size: int,
    bos: int,
    orders: tuple[int, int] | None = None,
    min_raw: list[int] | tuple[int, ...] | None = None,
    keep_raw: bool = True,
) -> NgramTable:
    """Kneser–Ney table of a run; n-grams whose raw count is under min_raw[n-1] are dropped before they take memory.

    orders: (lowest, top); top ≤ run.order, and order 1 is always there.  min_raw: one threshold an order, never
    falling, so that the table stays closed under prefix and suffix; order 1 keeps every token.  What is dropped adds its
    adjusted count to its context's `pruned`; discounts and adjusted counts are those of everything counted.
    An n-gram whose context was never counted (rows cut out of a stream) is left out.  Kneser & Ney (1995),
    Chen & Goodman (1999).  Raises SeedgramError on orders or thresholds that make no sense."""
    top = check_orders(orders[1] if orders else run.order)
    if top > run.order:
        raise SeedgramError(f"order {top} was asked of counts of order {run.order}; count again with orders up to {top}")
    wanted = _thresholds(min_raw, top)
    builder = _Builder(run, vocab_size, bos, top)
    for n in range(1, top + 1):
        builder.add_order(n, wanted[n - 1] if n > 1 else 1)
    return builder.table(keep_raw)


class _Builder:
    """Columns of the table so far; `parents` are the kept n-grams of the last order: (hi, lo, forward index)."""

    def __init__(self, run: Run, vocab_size: int, bos: int, top: int):
        self.run, self.vocab_size, self.bos, self.top = run, vocab_size, bos, top
        zero = np.zeros(1, np.uint64)
        self.parents: tuple[U64, U64, U32] = (zero, zero, np.zeros(1, np.uint32))
        self.columns: list[tuple[U16, U32, U32, U32]] = []  # tokens, parents, adjusted, raw
        self.pruned: list[U32] = []
        self.count_of_counts = np.zeros((top, 4), np.int64)

    def add_order(self, n: int, min_raw: int) -> None:
        contexts = len(self.columns[-1][0]) if n > 1 else 1
        size = len(self.run)
        # as long as the run, but pages that are never written cost nothing
        keys = np.empty(size, np.uint64), np.empty(size, np.uint64)
        kept = (*keys, np.empty(size, np.uint32), np.empty(size, np.uint32), np.empty(size, np.uint32))
        pruned = np.zeros(contexts, np.int64)
        masks = _masks(n, self.top)
        found, self.count_of_counts[n - 1] = kernels.scan_order(
            self.run.columns(), masks, n, self.top, self.bos, min_raw, self.parents, kept, pruned
        )
        self.pruned.append(np.minimum(pruned, kernels.U32_MAX).astype(np.uint32))
        if n == 1:
            self._dense_unigrams(kept, found)
            return
        forward = np.empty(found, np.uint32)
        parents, adjusted, raw = (np.empty(found, np.uint32) for _ in range(3))
        columns = (np.empty(found, np.uint16), parents, adjusted, raw)
        kernels.sort_forward(kept, found, contexts, forward, columns)
        self.columns.append(columns)
        self.parents = (kept[0][:found], kept[1][:found], forward)

    def _dense_unigrams(self, kept: tuple[U64, U64, U32, U32, U32], found: int) -> None:
        seen = (kept[0][:found] >> np.uint64(48)).astype(np.int64)
        adjusted, raw = np.zeros((2, self.vocab_size), np.uint32)
        adjusted[seen], raw[seen] = kept[3][:found], kept[4][:found]
        tokens = np.arange(self.vocab_size, dtype=np.uint16)
        self.columns.append((tokens, np.zeros(self.vocab_size, np.uint32), adjusted, raw))
        keys = np.arange(self.vocab_size, dtype=np.uint64) << np.uint64(48)
        self.parents = (keys, np.zeros(self.vocab_size, np.uint64), np.arange(self.vocab_size, dtype=np.uint32))

    def table(self, keep_raw: bool) -> NgramTable:
        discounts: F64 = estimate_discounts(self.count_of_counts)
        counts, excess = [], {}
        for n, (_, _, adjusted, _) in enumerate(self.columns, start=1):
            counts.append(np.minimum(adjusted, kernels.FULL).astype(np.uint16))
            over = np.flatnonzero(adjusted > kernels.FULL).astype(np.uint32)
            if len(over):
                excess[n] = (over, adjusted[over])
        return NgramTable(
            vocab_size=self.vocab_size,
            bos=self.bos,
            tokens=[columns[0] for columns in self.columns],
            parents=[columns[1] for columns in self.columns],
            counts=counts,
            pruned=self.pruned,
            discounts=discounts,
            excess=excess,
            raw=[columns[3] for columns in self.columns] if keep_raw else None,
        )
