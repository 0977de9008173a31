"""Run → table: adjusted counts, thresholds, parents and discounts of every order."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ngram.arrays import I64, NARROW, U16, U32, U64, Tokens, token_type
from ngram.counting import table_kernels as kernels
from ngram.counting.discounts import estimate_discounts
from ngram.counting.kernels import FULL, U32_MAX
from ngram.counting.keys import slot_shifts
from ngram.counting.run import Run
from ngram.errors import SeedgramError
from ngram.table import NgramTable, check_order


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

    tokens (M,): last tokens.  parents, backward, suffixes (M,) uint32: row of the context, place in backward order, row
    of the n-gram without its first token.  begin (V + 1,) int64: where the n-grams of each first token begin."""

    tokens: Tokens
    parents: U32
    backward: U32
    suffixes: U32
    begin: I64


class _Columns(NamedTuple):
    """One order of the table.  over: rows and counts (K,) of the counts over 65,535."""

    tokens: Tokens
    parents: U32
    counts: U16
    raw: U32
    over: tuple[U32, U32]


class _Builder:
    """The orders so far.  last: all n-grams of the last one; moved: their rows in the table, None while none was dropped."""

    def __init__(self, run: Run, vocab_size: int, bos: int, top: int):
        self.run, self.vocab_size, self.bos, self.top = run, vocab_size, bos, top
        self.shared = np.empty(len(run), np.uint8)
        kernels.shared_slots(run.hi, run.lo, slot_shifts(run.bits, run.order), self.shared)
        self.most_over = run.total() // FULL + 1  # each count over 65,535 stands for as many positions
        self.columns: list[_Columns] = []
        self.pruned: list[U32] = []
        self.count_of_counts = np.zeros((top, 5), np.int64)
        # Room to work in, used by one order after the other: fresh memory would cost as much time as what is written to it.
        size = len(run)
        self.records, self.starts = np.empty(size, np.uint64), np.empty(size + 1, np.uint32)
        self.firsts = np.empty(0 if vocab_size <= NARROW else size, np.uint32)
        self.walks = [(np.empty(size, np.uint32), np.empty(size, np.uint32)) for _ in range(2)]
        self.scanned = 0  # n-grams of the last order in backward order, with those whose context was never counted
        self.last: _Forward
        self.moved: U32 | None = None

    def add_order(self, n: int, min_raw: int) -> None:
        """Adds the next order.  n-grams that occur less than min_raw times are dropped."""
        starts, tally = self.starts[: self.scanned + 1], np.zeros(self.vocab_size, np.int64)
        arguments = self.run.columns(), self.shared, n, self.top, self.bos, self.run.bits, self.records, self.firsts, starts, tally
        self.scanned = kernels.scan_order(*arguments, self.count_of_counts[n - 1])
        records = self.records[: self.scanned]
        if n == 1:
            self._add_unigrams(records)
            return
        columns, forward = self._place(n, records, self._of_all_tokens(starts) if n == 2 else starts, tally)
        if min_raw > 1 or self.moved is not None:
            columns, pruned = self._drop(columns, min_raw)
        else:
            pruned = np.zeros(len(self.columns[-1].tokens), np.uint32)
        self.last = forward
        self.columns.append(columns)
        self.pruned.append(pruned)

    def _add_unigrams(self, records: U64) -> None:
        """Order 1 holds every token of the vocabulary."""
        size = self.vocab_size
        wide = len(self.firsts) > 0
        self.seen = (self.firsts[: len(records)] if wide else records >> np.uint64(16) & np.uint64(FULL)).astype(np.int64)
        adjusted, raw = np.zeros((2, size), np.uint32)
        raw[self.seen] = records >> np.uint64(32)
        adjusted[self.seen] = raw[self.seen] if self.top == 1 else (records & np.uint64(U32_MAX if wide else FULL)) + np.uint64(1)
        rows, zeros, over = np.arange(size, dtype=np.uint32), np.zeros(size, np.uint32), np.flatnonzero(adjusted > FULL)
        tokens, counts = rows.astype(token_type(size)), np.minimum(adjusted, FULL).astype(np.uint16)
        self.last = _Forward(tokens, zeros, rows, zeros, np.arange(size + 1))
        self.columns.append(_Columns(tokens, zeros, counts, raw, (over.astype(np.uint32), adjusted[over])))
        self.pruned.append(np.zeros(1, np.uint32))

    def _of_all_tokens(self, starts: U32) -> U32:
        """(V + 1,) where the bigrams that end with each token begin; starts: the same for the tokens seen."""
        sizes = np.zeros(self.vocab_size, np.int64)
        sizes[self.seen] = np.diff(starts)
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint32)

    def _place(self, n: int, records: U64, starts: U32, tally: I64) -> tuple[_Columns, _Forward]:
        """All n-grams of order n as columns of a table, and what the next order needs (nothing at the top order)."""
        size = len(records)
        tokens, counts = np.empty(size, token_type(self.vocab_size)), np.empty(size, np.uint16)
        parents, raw = np.empty(size, np.uint32), np.empty(size, np.uint32)
        backward, suffixes = (column[: size if n < self.top else 0] for column in self.walks[n % 2])
        begin = np.concatenate([[0], np.cumsum(tally)])
        end, over = begin[:-1].copy(), np.empty((2, self.most_over), np.uint32)
        raw_after = -1 if n == self.top else self.bos
        below = tuple(self.last[:4])
        columns = tokens, parents, counts, raw
        found = kernels.place_order(records, self.firsts, starts, below, self.last.begin, end, columns, backward, suffixes, raw_after, over)
        over = over[:, np.argsort(over[0, :found])]
        if not np.array_equal(end, begin[1:]):  # n-grams without a context left gaps at the ends of their buckets
            rows = np.concatenate([np.arange(a, b) for a, b in zip(begin[:-1], end, strict=True)])
            tokens, parents, counts, raw = (column[rows] for column in columns)
            backward, suffixes = (column[rows] if n < self.top else column for column in (backward, suffixes))
            over[0], begin = np.searchsorted(rows, over[0]), np.concatenate([[0], np.cumsum(end - begin[:-1])])
        forward = _Forward(tokens, parents, backward, suffixes, begin)
        return _Columns(tokens, parents, counts, raw, (over[0], over[1])), forward

    def _drop(self, columns: _Columns, min_raw: int) -> tuple[_Columns, U32]:
        """The n-grams that stay, and for each of their contexts the adjusted counts of those that go."""
        pruned = np.zeros(len(self.columns[-1].tokens), np.int64)
        below = self.moved if self.moved is not None else np.arange(len(self.last.tokens), dtype=np.uint32)
        self.moved = np.empty(len(columns.tokens), np.uint32)
        size = kernels.choose(columns[:4], below, min_raw, columns.over, self.moved, pruned)
        rows = np.flatnonzero(self.moved != kernels.GONE)
        assert len(rows) == size
        over_rows, over_counts = columns.over
        stays = self.moved[over_rows] != kernels.GONE
        over = self.moved[over_rows[stays]], over_counts[stays]
        kept = _Columns(columns.tokens[rows], below[columns.parents[rows]], columns.counts[rows], columns.raw[rows], over)
        return kept, np.minimum(pruned, U32_MAX).astype(np.uint32)

    def table(self) -> NgramTable:
        return NgramTable(
            vocab_size=self.vocab_size,
            bos=self.bos,
            tokens=[columns.tokens for columns in self.columns],
            parents=[columns.parents for columns in self.columns],
            counts=[columns.counts for columns in self.columns],
            pruned=self.pruned,
            discounts=estimate_discounts(self.count_of_counts[:, 1:]),
            excess={n: columns.over for n, columns in enumerate(self.columns, 1) if len(columns.over[0])},
            raw=[columns.raw for columns in self.columns],
        )
