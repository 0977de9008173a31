"""A run: the exact counts of all n-grams of the highest order, sorted by key; runs add up by merging.

One run holds all orders: keys are n-grams read backwards (see keys.py), so each shorter n-gram is a key prefix,
its raw count the sum over a block of keys, and its number of distinct left neighbours the number of different next
slots in that block.
"""

import ctypes
import mmap
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ngram.arrays import I64, U16, U32, U64, Tokens
from ngram.counting import kernels
from ngram.counting.keys import slot_bits
from ngram.errors import SeedgramError
from ngram.table import check_order


@dataclass(frozen=True)
class Run:
    """Distinct keys in rising order and how often each was counted.

    hi, lo (M,) uint64 keys; counts (M,) uint16, 65535 meaning "see overflow"; overflow_index (K,) int64 rising,
    overflow_count (K,) int64 the exact counts of those entries; order: slots in use; bits: of a slot."""

    order: int
    hi: U64
    lo: U64
    counts: U16
    overflow_index: I64
    overflow_count: I64
    bits: int = 16

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
        return int(self.counts.sum(dtype=np.int64)) - kernels.FULL * len(self.overflow_index) + int(self.overflow_count.sum())

    def slice(self, start: int, stop: int) -> "Run":
        """Entries start…stop-1 as a run of its own (views, but for the overflow's places)."""
        first, last = np.searchsorted(self.overflow_index, [start, stop])
        overflow = self.overflow_index[first:last] - start, self.overflow_count[first:last]
        return Run(self.order, self.hi[start:stop], self.lo[start:stop], self.counts[start:stop], *overflow, self.bits)

    @staticmethod
    def from_counts(order: int, hi: U64, lo: U64, exact: npt.ArrayLike, bits: int = 16) -> "Run":
        """A run from sorted distinct keys and their exact counts ((M,) integers ≥ 1)."""
        counts = np.asarray(exact, dtype=np.int64)
        index = np.flatnonzero(counts >= kernels.FULL)
        return Run(check_order(order), hi, lo, np.minimum(counts, kernels.FULL).astype(np.uint16), index, counts[index], bits)

    @staticmethod
    def empty(order: int, bits: int = 16) -> "Run":
        none = np.zeros(0, np.uint64)
        return Run.from_counts(order, none, none, none, bits)


PART = 1 << 16  # entries of all runs in a range of keys, merged at a time: they stay in the processor's caches
RANGES_KEPT = 16  # ranges whose memory is given back together
SAMPLES = 8  # keys looked at for each range of entries
Columns = tuple[U64, U64, U16, I64, I64]


class Room:
    """Memory for runs that are made one behind the other; pages that are never written take none.

    size: keys that fit; positions: that they stand for, of which an overflow entry has at least 65,535."""

    def __init__(self, size: int, positions: int) -> None:
        over = np.empty((2, positions // kernels.FULL + 1), np.int64)
        self.columns: Columns = *np.empty((2, size), np.uint64), np.empty(size, np.uint16), *over
        self.size = self.over = 0

    def add(self, a: Run, b: Run) -> Run:
        """Puts the sum of two runs behind what is there, and returns it: views such as `slice` gives."""
        hi, lo, counts, index, exact = self.columns
        start, first = self.size, self.over
        found, over = kernels.merge_runs(a.columns(), b.columns(), (hi[start:], lo[start:], counts[start:], index[first:], exact[first:]))
        index[first : first + over] += start
        self.size, self.over = start + found, first + over
        return self.run(a.order, a.bits).slice(start, self.size)

    def run(self, order: int, bits: int) -> Run:
        """All that was added as one run, as views; its keys were added in rising order."""
        hi, lo, counts, index, exact = self.columns
        return Run(order, hi[: self.size], lo[: self.size], counts[: self.size], index[: self.over], exact[: self.over], bits)


def run_of_keys(tokens: Tokens, keys: U64, positions: U32, fill: int, order: int, vocab_size: int) -> Run:
    """The run of the first `fill` positions.  tokens, keys: see kernels.fill_keys; positions (2, cap) are overwritten."""
    ordered = positions[int(kernels.sort_positions(tokens, fill, order, vocab_size, *positions))]
    room = Room(fill, fill)
    room.size, room.over = kernels.group_keys(keys.take(ordered[:fill], axis=0), *room.columns)
    return room.run(order, slot_bits(vocab_size, order))


def merge(*runs: Run, spent: Collection[Run] = ()) -> Run:
    """The run of all streams together: counts of equal keys add up, exactly.  Raises SeedgramError if the orders differ.

    spent: those of the runs that nobody reads again, by identity; their memory is given back while they are merged (on Linux)."""
    orders = sorted({(run.order, run.bits) for run in runs})
    if len(orders) > 1:
        raise SeedgramError(f"runs of (order, bits a token) {orders} cannot be merged; count all with the same orders and tokenizer")
    filled = [run for run in runs if len(run)]
    if len(filled) < 2:
        return (filled or runs)[0]
    out, edges = Room(sum(map(len, filled)), sum(run.total() for run in filled)), _edges(filled)
    for number, (pieces, stop) in enumerate(zip(ranges(filled, edges), edges[:, 1:].T.tolist(), strict=True)):
        out.add(*pieces)
        if number % RANGES_KEPT == 0:
            for run, end in zip(filled, stop, strict=True):
                if any(run is one for one in spent):
                    _give_back(run, end)
    return out.run(*orders[0])


def ranges(runs: Sequence[Any], edges: I64) -> Iterator[list[Run]]:
    """Each range of keys of some runs (with `slice` and `total`), added up pair by pair until one or two runs are left.

    edges (runs, ranges + 1): where the ranges begin and end.  The room is used again: a range is to be used up before the next is asked for."""
    widest, positions = int(np.diff(edges, axis=1).sum(axis=0).max()), sum(run.total() for run in runs)
    rooms = [Room(widest, positions) for _ in range((len(runs) - 1).bit_length() - 1)]
    for start, stop in pairwise(edges.T.tolist()):
        pieces = [run.slice(a, b) for run, a, b in zip(runs, start, stop, strict=True)]
        for room in rooms:
            room.size = room.over = 0
            pieces = [room.add(a, b) for a, b in zip(pieces[::2], pieces[1::2], strict=False)] + pieces[len(pieces) // 2 * 2 :]
        yield pieces


def _give_back(run: Run, end: int) -> None:
    """Hands the whole pages of the first `end` entries back to the system; they read as zeros from then on."""
    if sys.platform == "linux":
        for column in run.columns()[:3]:
            start, page = column.ctypes.data, mmap.PAGESIZE
            first, last = -(-start // page), (start + end * column.itemsize) // page
            if first < last:
                ctypes.CDLL(None).madvise(ctypes.c_void_p(first * page), ctypes.c_size_t((last - first) * page), mmap.MADV_DONTNEED)


def _edges(runs: list[Run]) -> I64:
    """(runs, ranges + 1) places in each run where the ranges of keys begin and end."""
    stride = max(1, PART // SAMPLES)
    cuts = np.unique(np.sort(np.concatenate([run.hi[stride::stride] for run in runs]))[SAMPLES::SAMPLES])
    return np.array([[0, *np.searchsorted(run.hi, cuts), len(run)] for run in runs], np.int64)
