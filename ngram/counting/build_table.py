"""Run → table: adjusted counts, thresholds, parents and discounts of every order."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ngram.arrays import I64, U16, U32, U32_MAX, Tokens, token_type
from ngram.counting import table_kernels as kernels
from ngram.counting.discounts import estimate_discounts
from ngram.counting.kernels import FULL
from ngram.counting.keys import slot_shifts
from ngram.counting.run import Run
from ngram.errors import SeedgramError
from ngram.table import TOKEN_BITS, NgramTable, check_order
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


def build_table(run: Run, vocab_size: int, bos: int, order: int | None = None, min_raw: Sequence[int] | None = None, spent: bool = False) -> NgramTable:
    """Kneser–Ney table of a run; n-grams whose raw count is under min_raw[n-1] are dropped.

    order: that of the longest n-grams, at most and by default run.order; the table holds all shorter ones too.
    min_raw: one threshold an order, never falling, so that the table stays closed under prefix and suffix; order 1 keeps
    every token.  What is dropped adds its adjusted count to its context's `pruned`; discounts and adjusted counts are those
    of everything counted.  An n-gram whose context was never counted (rows cut out of a stream) is left out.
    spent: nobody reads the run again, so it may be written over.
    Kneser & Ney (1995), Chen & Goodman (1999).  Raises SeedgramError on an order or thresholds that make no sense."""
    wanted = thresholds(min_raw, run.order if order is None else order, run.order)
    builder = _Builder(run, vocab_size, bos, len(wanted), spent)
    for n, least in enumerate([1, *wanted[1:]], 1):
        builder.add_order(n, least)
    return builder.table()


_Order = tuple[U32, Tokens, U16, U32, U32]  # parents and other columns of a table, and (K, 2) rows and counts over 65,535


class _Builder:
    """The orders so far.  entries, starts, filled: of the next one, as in kernels.place; below: of the last one, as there; moved: rows in the table of
    what was placed last, None while all is in it."""

    def __init__(self, run: Run, vocab_size: int, bos: int, top: int, spent: bool):
        self.vocab_size, self.bos, self.top, self.total = vocab_size, bos, top, run.total()
        self.orders: list[Sequence[Tokens]] = []
        self.pruned: list[U32] = []
        self.token_bits = int(vocab_size).bit_length()
        found = self._walk(run)
        # Orders share rooms: fresh memory would cost as much time as what is written to it.
        hi, lo = (run.hi, run.lo) if spent and run.hi.flags.writeable else np.empty((2, len(run)), np.uint64)
        self.words = np.empty(self.stride // 2, np.int64), hi.view(np.int64)
        self.suffixes = *lo.view(np.uint32).reshape(2, -1), np.empty(len(run), np.uint32)
        words, self.starts = np.arange(vocab_size), np.tile(np.arange(vocab_size), (len(self.cuts) - 1, 1))
        words |= (0 if top == 1 else len(self.records) - 6) << TOKEN_BITS  # an empty list
        words[np.where(found < 0, ~found, found) & ((1 << TOKEN_BITS) - 1)] = found
        self.entries, self.filled = (words, *np.zeros((2, vocab_size), np.uint32)), self.starts + self.tally[0]
        self.below = np.zeros(1, np.uint32), np.zeros_like(self.starts), np.ones_like(self.starts)
        self.moved: U32 | None = None

    def _walk(self, run: Run) -> I64:
        """Makes the records of all orders; returns those of order 1.  Groups of tokens are for threads: what ends with those of one is walked, and what
        begins with them placed, side by side."""
        size, parts = self.vocab_size, min(COUNT, max(1, PARTED // self.vocab_size))
        begin = np.searchsorted(run.hi, np.arange(size, dtype=np.uint64) << np.uint64(64 - run.bits))
        cuts = np.unique(np.searchsorted(begin, np.arange(parts) * len(run) // parts))
        cuts = cuts[cuts < size] if len(run) else cuts[:1]
        self.cuts, edges = np.append(cuts, size), np.append(begin[cuts], len(run))
        groups = np.repeat(np.arange(len(cuts)), np.diff(self.cuts))
        least = max(1, self.top - kernels.TAIL_BITS // self.token_bits)
        setting = np.array([self.top, self.bos, run.bits, least, self.token_bits])
        stride = self.stride = 2 * max(len(run), size)  # of an order: at most a record and a list's first word an entry; then columns
        self.records = np.empty(self.top * stride + 6, np.int64)  # most of it is never touched and takes no memory
        self.records[-6:] = 0
        found = np.zeros((len(cuts), self.top, 5), np.int64)
        tally = np.zeros((len(cuts), self.top, len(cuts), size), np.int32)

        def walk(part: int) -> I64:
            at = stride * np.arange(-1, self.top + 1) + 2 * edges[part]
            entries = run.slice(edges[part], edges[part + 1]).columns()
            kernels.walk(entries, slot_shifts(run.bits, run.order), setting, self.records, at, groups, tally[part], found[part])
            return self.records[2 * edges[part] : at[1]]

        unigrams = np.concatenate(each(walk, range(len(cuts))))
        self.tally, self.count_of_counts = tally.sum(axis=0, dtype=np.int64), found.sum(axis=0)
        self.tally[0] = np.arange(len(cuts))[:, None] == 0  # the table holds every token
        self.sizes = [*self.tally.sum(axis=(1, 2)).tolist(), 0]
        return unigrams

    def add_order(self, n: int, min_raw: int) -> None:
        """Adds the next order, and makes the entries of the one behind it.  n-grams that occur less than min_raw times are dropped."""
        size, highest, tally = self.sizes[n - 1], n == self.top, self.tally[n % self.top]
        # Columns lie where records were that nobody reads again, and in the highest order where entries were.
        kind, words, done = token_type(self.vocab_size), self.words[(n - self.top) % 2], self.records[(n - 1) * self.stride :].view(np.uint8)
        pieces = np.split(words.view(np.uint8) if highest else done, np.cumsum([4 * size, 4 * self.sizes[n], kind.itemsize * size]))
        contexts = pieces[1].view(np.uint32)  # of the next order; nobody asks for the highest one's suffixes
        out = pieces[2].view(kind), (done if highest else pieces[3]).view(np.uint16)[:size], pieces[0].view(np.uint32)
        grown = words, contexts if n > self.top - 2 else self.suffixes[(n - self.top) % 3], contexts
        stops = np.cumsum(tally.T).reshape(tally.T.shape).T
        starts, room = stops - tally, self.starts + self.tally[n - 1]
        places, ends = starts.copy(), room.copy()
        setting = np.array([self.vocab_size, self.token_bits, n, self.top, self.bos])

        def part(group: int) -> U32:
            over, span = np.empty((self.total // FULL + 1, 2), np.uint32), self.cuts[group : group + 2]
            found = kernels.place(self.records, self.entries, grown, span, setting, (self.starts, self.filled, ends), self.below, places[group], out, over)
            return over[:found]

        over = np.concatenate(each(part, range(len(starts))))
        self.below = self.entries[1], self.starts, np.maximum(ends, ends[0]) if n == 1 else ends  # single tokens have no second one
        order, pruned = (self.entries[2], *out, over), np.zeros(len(self.orders[-1][0]) if n > 1 else 1, np.uint32)
        self.entries, self.starts, self.filled = grown, starts, places
        if min_raw > 1 or self.moved is not None or not np.array_equal(ends, room):
            order, pruned = self._drop(order, min_raw)
        self.orders.append(order)
        self.pruned.append(pruned)

    def _drop(self, order: _Order, min_raw: int) -> tuple[_Order, U32]:
        """The n-grams that stay, and for each of their contexts the adjusted counts of those that go."""
        parents, tokens, counts, raw, over = order
        adjusted = counts.astype(np.uint32)
        adjusted[over[:, 0]] = over[:, 1]
        contexts = parents if self.moved is None else self.moved[parents]
        if self.moved is None:  # else low orders would hold all memory
            self.orders = [[*map(np.copy, columns)] for columns in self.orders]
        stays = (raw >= min_raw) & (contexts != GONE)
        goes = np.flatnonzero(~stays & (contexts != GONE))
        self.moved = stays.astype(np.uint32).cumsum(dtype=np.uint32) - np.uint32(1)
        self.moved[~stays] = GONE
        pruned = np.bincount(contexts[goes], adjusted[goes], len(self.orders[-1][0]))
        over = over[stays[over[:, 0]]]
        over[:, 0] = self.moved[over[:, 0]]
        return (contexts[stays], tokens[stays], counts[stays], raw[stays], over), np.minimum(pruned, U32_MAX).astype(np.uint32)

    def table(self) -> NgramTable:
        parents, tokens, counts, raw, over = map(list, zip(*self.orders, strict=True))
        excess = {n: (part[:, 0].copy(), part[:, 1].copy()) for n, part in enumerate(over, 1) if len(part)}
        return NgramTable(self.vocab_size, self.bos, tokens, parents, counts, self.pruned, estimate_discounts(self.count_of_counts[:, 1:]), excess, raw)
