"""NgramTable ↔ bytes: about 6 bits an n-gram, exact n-grams, counts on a log scale; docs/formats.md says what is coded, order by order.

Legend: T(h) the sum of the counts of context h's children, h′ its suffix context, whose children are the candidates (Raj & Whittaker 2003).

A reader gets the same n-grams with counts and pruned masses on the log scale, and no raw counts.  A context without children keeps
no pruned mass: it would change no probability.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ngram.arrays import I32, I64, Mask, Tokens, token_type
from ngram.errors import SeedgramError
from ngram.storing import members as kernels
from ngram.storing.header import Head, pack_head, pad, read_head
from ngram.storing.symbols import Coder, altered, code_classed, code_numbers, code_positions, level_values, log16, nearest_level
from ngram.table import MAX_ORDER, MAX_VOCAB, NgramTable, stored_counts, suffix_rows
from ngram.threads import each

FINENESS = 2  # of the count scale: exact to 16, then steps of √count/2: costs are in scripts/bench/codec.py
_RATIOS = 48  # half octaves of T(h′)/T(h)
_ROWS = 5 * _RATIOS  # times five sizes of T(h)


@dataclass
class _Order:
    """One order while it is coded.  (M,) a row each; contexts are the rows of the order below."""

    tokens: Tokens
    parents: I64
    suffixes: I64  # row in the order below without the first token; order 1: all 0
    counts: I64
    first: I64  # (contexts + 1,) children of each context
    totals: I64  # (contexts,) T(h), 0 without children


@dataclass
class _Truth:
    """What the writer knows of one order: its symbols, and what a reader will have."""

    totals: I32  # (contexts,) 0: no children, else 1 + level of T(h)
    levels: I32  # (M,) level of the count, less 1 above order 1
    order: _Order


def encode(table: NgramTable) -> bytes:
    """Serialises a table.  Raises SeedgramError when it is not closed under suffixes or out of range."""
    return encode_read(table)[0]


def encode_read(table: NgramTable, suffixes: list[I64] | None = None) -> tuple[bytes, Callable[[], NgramTable]]:
    """The table's bytes, and a function that gives what `decode` would read from them.

    suffixes: `suffix_rows(table)` where the caller has them.  Raises SeedgramError as `encode` does.
    The orders' symbols and models are worked out side by side, then coded in order."""
    if not 1 <= table.order <= MAX_ORDER or not 1 <= table.vocab_size <= MAX_VOCAB or len(table.tokens[0]) != table.vocab_size:
        raise SeedgramError(f"n-gram table: order {table.order}, vocabulary {table.vocab_size}: cannot be written; use orders 1…8")
    levels, rows = level_values(FINENESS), suffixes or suffix_rows(table)
    truths = each(lambda n: _truth(table, n, levels, rows[n - 1]), range(1, table.order + 1))
    alphabets = [(int(t.levels.max(initial=-1)) + 1, int(t.totals.max(initial=-1)) + 1) for t in truths]
    orders = [truth.order for truth in truths]
    coders = [Coder() for _ in orders]
    _unigrams(coders[0], levels, table.vocab_size, alphabets[0][0], truths[0].levels)

    def record(n: int) -> None:
        _code_order(coders[n - 1], levels, orders[: n - 1], alphabets[n - 1], len(table.tokens[n - 1]), truths[n - 1])

    each(record, range(table.order, 1, -1))  # the longest orders take longest
    head = Head(FINENESS, table.vocab_size, table.bos, int(table.pruned[0][0]), table.discounts, table.sizes(), alphabets)
    data = pad(pack_head(head) + Coder.words(*coders).astype("<u4").tobytes(), sum(table.sizes()))
    return data, lambda: _table(head, orders)


def decode(data: bytes) -> NgramTable:
    """The table in `data`.  Raises FileFormatError on anything that `encode` does not write; bounded by the data's size."""
    head, words = read_head(data)
    coder, levels = Coder(words), level_values(head.fineness)
    unigrams = _unigrams(coder, levels, head.vocab_size, head.alphabets[0][0], None)
    unigrams.totals[0] += head.pruned
    orders = [unigrams]
    for n in range(2, len(head.sizes) + 1):
        orders.append(_code_order(coder, levels, orders, head.alphabets[n - 1], head.sizes[n - 1], None))
    return _table(head, orders)


def _table(head: Head, orders: list[_Order]) -> NgramTable:
    tokens, parents = [o.tokens for o in orders], [o.parents.astype(np.uint32) for o in orders]
    pruned = [np.array([head.pruned], np.uint32), *((o.totals - _children_mass(o.counts, o.first)).astype(np.uint32) for o in orders[1:])]
    columns = stored_counts([o.counts for o in orders])
    return NgramTable(head.vocab_size, head.bos, tokens, parents, pruned=pruned, discounts=head.discounts, **columns)


def _truth(table: NgramTable, n: int, levels: I64, suffixes: I64) -> _Truth:
    exact = table.exact_counts(n)
    if n > 1 and exact.min(initial=1) == 0:
        raise SeedgramError(f"n-gram table: order {n} holds a count of 0; make it with ngram.storing.prune")
    count_levels = nearest_level(exact, levels)
    counts, first = levels[count_levels], table.first_child(n - 1)
    mass, pruned, has_children = _children_mass(counts, first), table.pruned[n - 1].astype(np.int64), np.diff(first) > 0
    near = nearest_level(np.minimum(mass + pruned, levels[-1]), levels)
    # Nothing left out stays nothing left out: a level at or below the children's own mass says so (see _table).
    floor = np.searchsorted(levels, np.minimum(mass, levels[-1]), side="right") - 1
    total_levels = np.where(pruned > 0, np.maximum(near, floor), floor).astype(np.int32)
    totals = np.where(has_children, np.maximum(levels[total_levels], mass), 0) if n > 1 else mass + pruned
    order = _Order(table.tokens[n - 1], table.parents[n - 1].astype(np.int64), suffixes, counts, first, totals)
    return _Truth(np.where(has_children, total_levels + 1, 0).astype(np.int32), count_levels - (n > 1), order)


def _children_mass(counts: I64, first: I64) -> I64:
    """Σ counts of the children of each context, 0 without any."""
    return np.diff(np.append(0, np.cumsum(counts))[first])


def _unigrams(coder: Coder, levels: I64, vocab_size: int, alphabet: int, truth: I32 | None) -> _Order:
    zeros = np.zeros(vocab_size, np.int64)
    counts = levels[code_classed(coder, zeros, zeros, alphabet, truth)]
    tokens, first = np.arange(vocab_size, dtype=token_type(vocab_size)), np.array([0, vocab_size])
    return _Order(tokens, zeros, zeros, counts, first, counts.sum(keepdims=True))


def _code_order(coder: Coder, levels: I64, orders: list[_Order], alphabet: tuple[int, int], size: int, truth: _Truth | None) -> _Order:
    """Codes the next order on top of `orders`: totals, then members, then counts."""
    below = orders[-1]
    log_counts, log_totals = log16(below.counts), log16(below.totals)
    may = np.flatnonzero(np.diff(below.first)[below.suffixes] > 0)
    suffix_total = log_totals[below.suffixes[may]]
    # A context's weight per left neighbour is much like its suffix's: T(h) ≈ c(h)·T(h′)/c(h′).
    suffix_count = log16(orders[-2].counts)[below.suffixes[may]] if len(orders) > 1 else suffix_total
    weight = np.clip((suffix_total - suffix_count) // 3 + 30, 0, 79)
    columns = (weight + 80 * np.minimum(_octave(np.diff(below.first))[below.suffixes[may]], 2)).astype(np.int32)
    symbols = code_classed(coder, np.minimum(log_counts[may] >> 2, 127), columns, alphabet[1], truth.totals[may] if truth else None)
    parents = may[symbols > 0]
    totals = np.zeros(len(below.counts), np.int64)
    totals[parents] = levels[symbols[symbols > 0] - 1]

    log_total = log16(totals[parents])
    rows = np.clip((log_totals[below.suffixes[parents]] - log_total + 4) >> 3, 0, _RATIOS - 1).astype(np.int64) + _RATIOS * np.minimum(log_total // 24, 4)
    children_first, members = _code_members(coder, below, parents, rows, log_counts, size, truth)
    owners = np.repeat(parents, np.diff(children_first))
    first = np.append(0, np.cumsum(np.bincount(owners, minlength=len(below.counts))))

    log_total = log16(totals)[owners]
    expected = log_counts[members] + log_total - log_totals[below.suffixes[owners]]
    siblings = np.minimum(_octave(np.diff(first)), 5)[owners]
    columns = np.clip((expected + 160) >> 3, 0, 63).astype(np.int32)
    counts = levels[code_classed(coder, siblings * 80 + (log_total >> 3), columns, alphabet[0], truth.levels if truth else None) + 1]
    totals = np.where(np.diff(first) > 0, np.maximum(totals, _children_mass(counts, first)), 0)
    if totals.max(initial=0) > levels[-1]:
        raise altered("a context counts more than 2^32 - 1")
    return _Order(below.tokens[members], owners, members, counts, first, totals)


def _code_members(coder: Coder, below: _Order, parents: I64, rows: I64, log_counts: I32, size: int, truth: _Truth | None) -> tuple[I64, I64]:
    """Codes which candidates are children.  Returns offsets (len(parents) + 1,) and the children's suffixes (size,)."""
    classes = np.where(log_counts > 0, np.minimum(((log_counts - 16) * 3 >> 4) + 1, kernels.CLASSES - 1), 0).astype(np.uint8)
    ordered, rank, group_first, group_stop, group_class = kernels.group_children(below.first, classes)
    walk = (parents, below.suffixes, rows, below.first, group_first, group_stop, group_class)
    slots, bucket, slot, truly = np.zeros(_ROWS * kernels.CLASSES, np.int64), np.empty(size, np.uint16), np.empty(size, np.int64), None
    children = (truth.order.first, truth.order.suffixes) if truth else (np.zeros(len(below.counts) + 1, np.int64), parents)
    kernels.locate_members(*walk, rank, *children, slots, bucket, slot)
    used = np.flatnonzero(slots)
    if truth:
        slot = slot[np.argsort(bucket, kind="stable")]  # 16 bits: sorted by radix
        truly = np.bincount(bucket, minlength=len(slots))[used]
    found = np.zeros_like(slots)
    found[used] = code_numbers(coder, np.minimum(_octave(slots[used]) + 1, 48), truly)
    if (found > slots).any() or int(found.sum()) != size:
        raise altered("more n-grams than contexts can hold")
    inverted = found * 2 > slots
    events = _code_events(coder, slots, found, inverted, slot if truth else None)
    event_first = np.append(0, np.cumsum(np.where(inverted, slots - found, found)))
    if truth:
        return np.append(truth.order.first[parents], size), truth.order.suffixes
    out_first, out = np.zeros(len(parents) + 1, np.int64), np.empty(size, np.uint32)
    if kernels.expand_members(*walk, ordered, event_first, events, inverted, np.zeros_like(slots), out_first, out) != size:
        raise altered("members and contexts disagree")
    return out_first, out.astype(np.int64)


def _code_events(coder: Coder, slots: I64, found: I64, inverted: Mask, members: I64 | None) -> I64:
    """Codes each bucket's rarer kind of slot.  members (sum of found,) or None; returns all buckets' events in one array."""
    parts = [np.empty(0, np.int64)]
    stops = np.cumsum(found)
    for bucket in np.flatnonzero((found > 0) & (found < slots)).tolist():
        size, count = int(slots[bucket]), int(found[bucket])
        events = None if members is None else members[stops[bucket] - count : stops[bucket]]
        if inverted[bucket]:
            count = size - count
            events = None if events is None else np.delete(np.arange(size), events)
        parts.append(code_positions(coder, size, count, events))
    return np.concatenate(parts)


def _octave(values: I64) -> I32:
    """floor(log2(value)), -1 of 0."""
    return np.frexp(values.astype(np.float64))[1] - 1
