"""A run: the exact counts of all n-grams of the highest order, sorted by key; runs add up by merging.

One run holds all orders: keys are n-grams read backwards (see keys.py), so each shorter n-gram is a key prefix,
its raw count the sum over a block of keys, and its number of distinct left neighbours the number of different next
slots in that block.
"""

import ctypes
import mmap
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
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
        stored = int(self.counts.sum(dtype=np.int64))
        return stored - kernels.FULL * len(self.overflow_index) + int(self.overflow_count.sum())

    def slice(self, start: int, stop: int) -> "Run":
        """Entries start…stop-1 as a run of its own (views, not copies, except the overflow)."""
        first, last = np.searchsorted(self.overflow_index, [start, stop]) if len(self.overflow_index) else (0, 0)
        overflow = self.overflow_index[first:last] - start, self.overflow_count[first:last].copy()
        return Run(self.order, self.hi[start:stop], self.lo[start:stop], self.counts[start:stop], *overflow, self.bits)

    @property
    def samples(self) -> U64:
        return self.hi[::SAMPLE]

    def places(self, cuts: U64) -> I64:
        """Where each of these values of `hi` begins."""
        return np.searchsorted(self.hi, cuts).astype(np.int64)

    @staticmethod
    def from_counts(order: int, hi: U64, lo: U64, exact: npt.ArrayLike, bits: int = 16) -> "Run":
        """A run from sorted distinct keys and their exact counts ((M,) integers ≥ 1)."""
        counts = np.asarray(exact, dtype=np.int64)
        index = np.flatnonzero(counts >= kernels.FULL).astype(np.int64)
        return Run(check_order(order), hi, lo, np.minimum(counts, kernels.FULL).astype(np.uint16), index, counts[index], bits)

    @staticmethod
    def empty(order: int, bits: int = 16) -> "Run":
        none = np.zeros(0, np.uint64)
        return Run.from_counts(order, none, none, np.zeros(0, np.int64), bits)


PART = 1 << 16  # entries merged at a time: they stay in the processor's caches
RANGES_KEPT = 16  # ranges whose memory is given back together
SAMPLE = 256  # every so manieth key is looked at when ranges are chosen
Columns = tuple[U64, U64, U16, I64, I64]


def blank(size: int, overflow: int) -> Columns:
    words = np.empty(size, np.uint64), np.empty(size, np.uint64)
    return *words, np.empty(size, np.uint16), np.empty(overflow, np.int64), np.empty(overflow, np.int64)


def _filled(order: int, bits: int, columns: Columns, size: int, overflow: int) -> Run:
    """The run in the first `size` entries of blank columns; pages that were never written take no memory."""
    hi, lo, counts, over_index, over_count = columns
    return Run(order, hi[:size], lo[:size], counts[:size], over_index[:overflow].copy(), over_count[:overflow].copy(), bits)


def run_of_keys(tokens: Tokens, keys: U64, positions: tuple[U32, U32], fill: int, order: int, vocab_size: int) -> Run:
    """The run of the first `fill` positions.  tokens, keys: see kernels.fill_keys; positions: two (cap,) arrays that are overwritten."""
    ordered, other = positions
    if kernels.sort_positions(tokens, fill, order, vocab_size, ordered, other):
        ordered = other
    columns = blank(fill, fill // kernels.FULL + 1)
    return _filled(order, slot_bits(vocab_size, order), columns, *kernels.group_keys(keys, ordered[:fill], *columns))


def merge(*runs: Run, spent: Collection[Run] = ()) -> Run:
    """The run of all streams together: counts of equal keys add up, exactly.  Raises SeedgramError if the orders differ.

    spent: those of the runs that nobody reads again, by identity; their memory is given back while they are merged (on Linux).

    Keys are cut into ranges of about PART entries of all runs together, so each entry moves through memory once however many runs there are."""
    orders = sorted({(run.order, run.bits) for run in runs})
    if len(orders) > 1:
        raise SeedgramError(f"runs of (order, bits a token) {orders} cannot be merged; count all with the same orders and tokenizer")
    filled = [run for run in runs if len(run)]
    if len(filled) < 2:
        return filled[0] if filled else runs[0]
    edges, total = edges_of(filled, PART), Growing(*orders[0], sum(map(len, filled)))
    for number, piece in enumerate(merged(filled, edges, total.rest), 1):
        total.append(piece)
        if number % RANGES_KEPT == 0 or number == edges.shape[1] - 1:
            for run, end in zip(filled, edges[:, number].tolist(), strict=True):
                if any(run is one for one in spent):
                    give_back(run, end)
    return total.run()


class Growing:
    """A run that grows by ranges of rising keys, up to `capacity` entries; pages that are never written take no memory."""

    def __init__(self, order: int, bits: int, capacity: int):
        self.order, self.bits, self.size = order, bits, 0
        self._columns, self._overflow = blank(capacity, 0)[:3], [np.zeros((2, 0), np.int64)]

    def rest(self) -> tuple[U64, U64, U16]:
        """Room for the next range."""
        hi, lo, counts = self._columns
        return hi[self.size :], lo[self.size :], counts[self.size :]

    def append(self, piece: Run) -> None:
        """piece: may lie in `rest()` already."""
        for column, values in zip(self.rest(), piece.columns(), strict=False):
            if not np.may_share_memory(column, values):
                column[: len(values)] = values
        self._overflow.append(np.stack([piece.overflow_index + self.size, piece.overflow_count]))
        self.size += len(piece)

    def run(self) -> Run:
        hi, lo, counts = self._columns
        return Run(self.order, hi[: self.size], lo[: self.size], counts[: self.size], *np.concatenate(self._overflow, axis=1), self.bits)


def give_back(run: Run, end: int) -> None:
    """Hands the whole pages of the first `end` entries back to the system; they read as zeros from then on."""
    if sys.platform == "linux":
        for column in run.columns()[:3]:
            start, page = column.ctypes.data, mmap.PAGESIZE
            first, last = -(-start // page), (start + end * column.itemsize) // page
            if first < last:
                ctypes.CDLL(None).madvise(ctypes.c_void_p(first * page), ctypes.c_size_t((last - first) * page), mmap.MADV_DONTNEED)


def most_over(runs: Sequence[Any]) -> int:
    """Overflow entries that a sum of runs can have: each stands for at least 65,535 positions."""
    return sum(run.total() for run in runs) // kernels.FULL + 1


def edges_of(runs: Sequence[Any], entries: int) -> I64:
    """(runs, ranges + 1) places where ranges of keys begin and end, each of at most `entries` entries of all runs together, or SAMPLE of each
    run where that is more.  runs: Run or RunFile."""
    samples = np.sort(np.concatenate([run.samples for run in runs]))
    step = max(1, entries // SAMPLE - len(runs))
    cuts = np.unique(samples[step::step])
    return np.array([[0, *run.places(cuts), len(run)] for run in runs], np.int64)


def merged(runs: Sequence[Any], edges: I64, into: Callable[[], tuple[U64, U64, U16]] | None = None) -> Iterator[Run]:
    """The sum of each range, merged pair by pair in room that is used again: each is to be used up before the next is asked for.

    into: gives the room for each sum instead."""
    widest, over = int(np.diff(edges, axis=1).sum(axis=0).max()), most_over(runs)
    rounds = (len(runs) - 1).bit_length()
    rooms = [blank(0 if into and number + 1 == rounds else widest, over) for number in range(rounds)]
    for start, stop in zip(edges[:, :-1].T.tolist(), edges[:, 1:].T.tolist(), strict=True):
        pieces = [run.slice(a, b) for run, a, b in zip(runs, start, stop, strict=True)]
        for room in rooms:
            pieces = merge_pairs(pieces, (*into(), *room[3:]) if into and room is rooms[-1] else room)
        yield pieces[0]


def merge_pairs(pieces: list[Run], room: "Columns") -> list[Run]:
    """Half as many runs, the results in `room`; an odd one stays as it is."""
    sums, size, overflow = [], 0, 0
    for a, b in zip(pieces[::2], pieces[1::2], strict=False):
        target = _rest(room, size, overflow)
        found, over_found = kernels.merge_runs(a.columns(), b.columns(), target)
        sums.append(_filled(a.order, a.bits, target, found, over_found))
        size, overflow = size + found, overflow + over_found
    return sums + pieces[2 * len(sums) :]


def _rest(columns: "Columns", size: int, overflow: int) -> "Columns":
    """What lies behind the first entries of blank columns."""
    hi, lo, counts, over_index, over_count = columns
    return hi[size:], lo[size:], counts[size:], over_index[overflow:], over_count[overflow:]
