"""Run → table: adjusted counts, thresholds, parents and discounts of every order."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ngram.arrays import I64, U16, U32, Tokens, token_type
from ngram.counting import table_kernels as kernels
from ngram.counting.discounts import estimate_discounts
from ngram.counting.kernels import FULL, U32_MAX
from ngram.counting.keys import slot_shifts
from ngram.counting.run import Run
from ngram.errors import SeedgramError
from ngram.table import NgramTable, check_order
from ngram.threads import COUNT, each

GONE = U32_MAX  # row of an n-gram that a threshold drops
PARTED = 1 << 19  # groups of tokens times tokens: what is counted for each pair takes 28 bytes a thread


def thresholds(min_raw: Sequence[int] | None, order: int, counted: int) -> list[int]:
    """Smallest raw count of each order up to `order`; counted: order of the run.  Raises SeedgramError on what makes no sense."""
    if check_order(order) > counted:
        raise SeedgramError(f"order {order} was asked of counts of order {counted}; count again with orders up to {order}")
    if min_raw is None:
        return [1] * order
    wanted = [max(1, int(value)) for value in min_raw]
    if len(wanted) != order or any(a > b for a, b in pairwise(wanted)):
        raise SeedgramError(f"thresholds {list(min_raw)} must be {order} numbers, one an order, that never fall")
    return wanted


def build_table(
    run: Run,
    vocab_size: int,
    bos: int,
    order: int | None = None,
    min_raw: Sequence[int] | None = None,
) -> NgramTable:
    """Kneser–Ney table of a run; n-grams whose raw count is under min_raw[n-1] are dropped before they take memory.

    order: that of the longest n-grams, at most and by default run.order; the table holds all shorter ones too.
    min_raw: one threshold an order, never falling, so that the table stays closed under prefix and suffix; order 1 keeps
    every token.  What is dropped adds its adjusted count to its context's `pruned`; discounts and adjusted counts are those
    of everything counted.  An n-gram whose context was never counted (rows cut out of a stream) is left out.
    Kneser & Ney (1995), Chen & Goodman (1999).  Raises SeedgramError on an order or thresholds that make no sense."""
    wanted = thresholds(min_raw, run.order if order is None else order, run.order)
    builder = _Builder(run, vocab_size, bos, len(wanted))
    for n in range(1, len(wanted) + 1):
        builder.add_order(n, wanted[n - 1] if n > 1 else 1)
    return builder.table()


class _Forward(NamedTuple):
    """All n-grams of one order in forward order, also those that a threshold drops: the next order is placed by them.

    Columns as in kernels; starts, ends (G, V): where the n-grams of each first token and group of second tokens lie."""

    tokens: Tokens
    parents: U32
    ahead: I64
    suffixes: U32
    starts: I64
    ends: I64


class _Columns(NamedTuple):
    """One order of the table; adjusted: counts."""

    tokens: Tokens
    parents: U32
    adjusted: U32
    raw: U32


class _Builder:
    """The orders so far.  last: all n-grams of the last one; moved: their rows in the table, None while none was dropped."""

    def __init__(self, run: Run, vocab_size: int, bos: int, top: int):
        self.vocab_size, self.bos, self.top = vocab_size, bos, top
        self.columns: list[tuple[Tokens, U32, U16, U32]] = []
        self.pruned: list[U32] = []
        self.excess: dict[int, tuple[U32, U32]] = {}
        self.token_bits = int(vocab_size).bit_length()
        self._walk(run)
        # Room for one order after the other: fresh memory would cost as much time as what is written to it.
        size = max(self.sizes[1:-1], default=0)
        self.walks = [(np.empty(size, np.int64), np.empty(size, np.uint32)) for _ in range(2)]
        self.last: _Forward
        self.moved: U32 | None = None

    def _walk(self, run: Run) -> None:
        """The records of all orders.  Tokens are grouped: what ends with those of a group is walked, and what begins with them is placed, side by side."""
        size, parts = self.vocab_size, min(COUNT, max(1, PARTED // self.vocab_size))
        begin = np.searchsorted(run.hi, np.arange(size, dtype=np.uint64) << np.uint64(64 - run.bits))
        cuts = np.unique(np.searchsorted(begin, np.arange(parts) * len(run) // parts))
        cuts = cuts[cuts < size] if len(run) else cuts[:1]
        self.cuts, edges = np.append(cuts, size), np.append(begin[cuts], len(run))
        groups = np.repeat(np.arange(len(cuts)), np.diff(self.cuts))
        setting = np.array([self.top, self.bos, run.bits, max(1, self.top - kernels.TAIL_BITS // self.token_bits), self.token_bits])
        self.records = np.empty((self.top * len(run) + 1, 2), np.int64)  # most of it is never touched and takes no memory
        found = np.zeros((len(cuts), self.top, 5), np.int64)
        tally = np.zeros((len(cuts), self.top, len(cuts), size), np.int32)

        def walk(part: int) -> I64:
            at = len(run) * np.arange(-1, self.top + 1) + edges[part]
            entries = run.slice(edges[part], edges[part + 1]).columns()
            kernels.walk(entries, slot_shifts(run.bits, run.order), setting, self.records, at, groups, tally[part], found[part])
            return self.records[edges[part] : at[1]]

        self.unigrams = np.concatenate(each(walk, range(len(cuts))))
        self.tally, self.count_of_counts = tally.sum(axis=0, dtype=np.int64), found.sum(axis=0)
        self.sizes = self.tally.sum(axis=(1, 2)).tolist()

    def add_order(self, n: int, min_raw: int) -> None:
        """Adds the next order.  n-grams that occur less than min_raw times are dropped."""
        columns, self.last = self._unigrams() if n == 1 else self._place(n)
        pruned = np.zeros(len(self.columns[-1][0]) if n > 1 else 1, np.uint32)
        if min_raw > 1 or self.moved is not None:
            columns, pruned = self._drop(columns, min_raw)
        large = np.flatnonzero(columns.adjusted > FULL).astype(np.uint32)
        if len(large):
            self.excess[n] = large, columns.adjusted[large]
        self.columns.append((columns.tokens, columns.parents, np.minimum(columns.adjusted, FULL).astype(np.uint16), columns.raw))
        self.pruned.append(pruned)

    def _unigrams(self) -> tuple[_Columns, _Forward]:
        """Order 1 holds every token of the vocabulary."""
        size, seen = self.vocab_size, self.unigrams[:, 1] & U32_MAX
        ahead = np.zeros(size, np.int64)
        adjusted, raw = np.zeros((2, size), np.uint32)
        ahead[seen], raw[seen] = self.unigrams[:, 0], self.unigrams[:, 1] >> 32 & U32_MAX
        adjusted[seen] = raw[seen] if self.top == 1 else [kernels.left_of(value) for value in ahead[seen].tolist()]
        tokens, zeros = np.arange(size).astype(token_type(size)), np.zeros(size, np.uint32)
        starts = np.tile(np.arange(size), (len(self.cuts) - 1, 1))
        return _Columns(tokens, zeros, adjusted, raw), _Forward(tokens, zeros, ahead, zeros, starts, starts + 1)

    def _place(self, n: int) -> tuple[_Columns, _Forward]:
        """All n-grams of order n as columns of a table, and what the next order needs."""
        size, last = self.sizes[n - 1], self.last
        tokens = np.empty(size, token_type(self.vocab_size))
        parents, adjusted, raw = (np.empty(size, np.uint32) for _ in range(3))
        ahead, suffixes = (column[: size if n < self.top else 0] for column in self.walks[n % 2])
        tally = self.tally[n - 1]
        ends = np.cumsum(tally.T.reshape(-1)).reshape(tally.T.shape).T.copy()
        starts = ends - tally
        place = starts.copy()
        setting = np.array([self.vocab_size, self.token_bits, -1 if n == self.top else self.bos])

        def part(group: int) -> None:
            span = int(last.starts[0, self.cuts[group]]), int(last.ends[-1, self.cuts[group + 1] - 1])
            bounds, out = (last.starts[group].copy(), last.ends[group], place[group]), (tokens, parents, adjusted, raw)
            kernels.place_order(self.records, last[:4], span, setting, *bounds, out, ahead, suffixes)

        each(part, range(len(starts)))
        if not np.array_equal(place, ends):  # n-grams without a context left gaps at the ends of their buckets
            stays = np.ones(size, bool)
            for a, b in zip(place[place < ends], ends[place < ends], strict=True):
                stays[a:b] = False
            rows = np.flatnonzero(stays)
            tokens, parents, adjusted, raw = (column[rows] for column in (tokens, parents, adjusted, raw))
            ahead, suffixes = (column[rows] if n < self.top else column for column in (ahead, suffixes))
            starts, ends = np.searchsorted(rows, starts), np.searchsorted(rows, place)
        return _Columns(tokens, parents, adjusted, raw), _Forward(tokens, parents, ahead, suffixes, starts, ends)

    def _drop(self, columns: _Columns, min_raw: int) -> tuple[_Columns, U32]:
        """The n-grams that stay, and for each of their contexts the adjusted counts of those that go."""
        contexts = columns.parents if self.moved is None else self.moved[columns.parents]
        stays = (columns.raw >= min_raw) & (contexts != GONE)
        goes = np.flatnonzero(~stays & (contexts != GONE))
        self.moved = np.cumsum(stays, dtype=np.uint32) - np.uint32(1)
        self.moved[~stays] = GONE
        pruned = np.bincount(contexts[goes], columns.adjusted[goes], len(self.columns[-1][0]))
        return _Columns(columns.tokens[stays], contexts[stays], columns.adjusted[stays], columns.raw[stays]), np.minimum(pruned, U32_MAX).astype(np.uint32)

    def table(self) -> NgramTable:
        tokens, parents, counts, raw = map(list, zip(*self.columns, strict=True))
        discounts = estimate_discounts(self.count_of_counts[:, 1:])
        return NgramTable(self.vocab_size, self.bos, tokens, parents, counts, self.pruned, discounts, self.excess, raw)
