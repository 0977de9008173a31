"""Compiled steps from a run to the columns of a table, one order at a time.

A run is sorted by n-grams read backwards, so all n-grams of one order come out of it with one scan: "backward order".  A table is sorted by
n-grams read forwards, and sorting again is not needed: the n-grams that end with one suffix lie side by side in backward order; taken
suffix by suffix, in the forward order of the suffixes, and appended to one bucket for each first token, they come out in forward order.
The context of n-gram (a, suffix) is the n-gram (a, context of the suffix), which the bucket of `a` in the order below holds; as both
buckets are sorted alike, it is found by moving a cursor on.  Only the records of the suffixes are not read from front to back.

Shapes: V tokens, M n-grams of an order, S of the order below.
"""

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit
from ngram.counting.kernels import FULL, U32_MAX, exact_count

AHEAD = 64  # suffixes whose records are fetched together
GONE = U32_MAX  # new place of an n-gram that was dropped
_LOW16, _LOW32 = np.uint64(0xFFFF), np.uint64(0xFFFFFFFF)
_S16, _S32 = np.uint64(16), np.uint64(32)


@njit
def shared_slots(hi: Array, lo: Array, shifts: tuple[Array, Array], shared: Array) -> None:
    """How many tokens each key of a run shares with the key before it, target first → shared (size,) uint8.

    shifts: (of the slots that end in hi, of those that end in lo) uint64, by which all that follows a slot is shifted out."""
    last_hi, last_lo = np.uint64(0), np.uint64(0)
    for i in range(len(hi)):
        first, second = hi[i] ^ last_hi, lo[i] ^ last_lo
        count = 0
        for shift in shifts[0]:
            count += first >> shift == 0
        if first == 0:
            for shift in shifts[1]:
                count += second >> shift == 0
        shared[i] = count
        last_hi, last_lo = hi[i], lo[i]
    if len(hi):
        shared[0] = 0


@njit(forceinline=True)
def slot(hi: int, lo: int, n: int, bits: int) -> int:
    """The n-th token of a key, target first; 0 of none."""
    shift = 128 - bits * n
    if shift >= 64:
        value = hi >> np.uint64(min(shift - 64, 63))
    else:
        value = lo >> np.uint64(shift)
        if shift + bits > 64:
            value |= hi << np.uint64(64 - shift)
    return np.int64(value & np.uint64((1 << bits) - 1))


@njit
def scan_order(
    run: Array, shared: Array, n: int, top: int, bos: int, bits: int, records: Array, firsts: Array, starts: Array, tally: Array, coc: Array
) -> int:  # fmt: skip
    """The n-grams of one order in backward order; returns how many there are.

    run: columns as in merge_runs; bits: of a slot.  records (size,) uint64: raw count << 32 | first token << 16 | left neighbours
    - 1, or without first tokens where firsts (size,) uint32 has room for them.  starts (S + 1,) uint32: where the n-grams that end
    with each suffix begin.  tally (V,) int64: n-grams by first token.
    coc (5,) int64: n-grams whose adjusted count is 1…4, by count."""
    hi, lo, counts, over_index, over_count = run
    m, suffixes, i, size, pad = 0, 0, 0, len(hi), (1 << bits) - 1
    while i < size:
        first = slot(hi[i], lo[i], n, bits)
        if n > 1 and shared[i] < n - 1 and (n == 2 or slot(hi[i], lo[i], n - 1, bits) != pad):
            starts[suffixes] = m
            suffixes += 1
        raw, left = exact_count(counts, i, over_index, over_count), 1
        i += 1
        while i < size and shared[i] >= n:
            left += shared[i] == n
            raw += exact_count(counts, i, over_index, over_count)
            i += 1
        if first == pad and n > 1:
            continue  # the history was shorter than n-1 tokens
        adjusted = raw if n == top or (n > 1 and first == bos) else left
        if adjusted < 5:
            coc[adjusted] += 1
        records[m] = (np.uint64(min(raw, U32_MAX)) << _S32) | np.uint64(left - 1)
        if len(firsts):
            firsts[m] = first
        else:
            records[m] |= np.uint64(first) << _S16
        tally[first] += 1
        m += 1
    starts[suffixes] = m
    return m


@njit
def place_order(
    records: Array, firsts: Array, starts: Array, below: Array, below_begin: Array, place: Array, out: Array, backward: Array, suffixes: Array,
    raw_is_count: int, over: Array,
) -> int:  # fmt: skip
    """The n-grams of one order in forward order; returns the number of counts that do not fit 16 bits.

    below: (tokens, parents, backward, suffixes) of the order below, in forward order: last token, row of the context, place in
    backward order, row of the suffix.  below_begin (V + 1,): its buckets by first token.  place (V,) int64: where each bucket
    of this order begins, and on return where it ends.  out: (tokens, parents, counts, raw) to fill; backward, suffixes: as
    below, or empty at the top order.  raw_is_count: the first token after which counts are raw, -1 for all.
    over: (row, count) of counts over 65,535, in the order of discovery.  An n-gram whose context is not there is left out."""
    below_tokens, below_parents, below_backward, below_suffixes = below
    tokens, parents, counts, raws = out
    over_row, over_count = over
    cursor, low = below_begin[:-1].copy(), _LOW32 if len(firsts) else _LOW16
    k, keep = 0, len(backward) > 0
    lows, highs, seen = np.empty(AHEAD, np.int64), np.empty(AHEAD, np.int64), np.empty(AHEAD, np.uint64)
    for block in range(0, len(below_tokens) if len(records) else 0, AHEAD):
        ahead = min(AHEAD, len(below_tokens) - block)
        for i in range(ahead):  # no branch waits for memory here, so these reads overlap
            lows[i], highs[i] = starts[below_backward[block + i]], starts[below_backward[block + i] + 1]
        for i in range(ahead):
            seen[i] = records[min(lows[i], len(records) - 1)]
        for i in range(ahead):
            f = block + i
            context, token = below_parents[f], below_tokens[f]
            for e in range(lows[i], highs[i]):
                record = seen[i] if e == lows[i] else records[e]
                first = np.int64(firsts[e]) if len(firsts) else np.int64((record >> _S16) & _LOW16)
                j, end = cursor[first], below_begin[first + 1]
                while j < end and below_suffixes[j] < context:
                    j += 1
                cursor[first] = j
                if j == end or below_suffixes[j] != context:
                    continue
                at = place[first]
                place[first] = at + 1
                raw = np.int64(record >> _S32)
                adjusted = raw if raw_is_count < 0 or raw_is_count == first else np.int64(record & low) + 1
                tokens[at], parents[at], raws[at] = token, j, raw
                counts[at] = min(adjusted, FULL)
                if adjusted > FULL:
                    over_row[k], over_count[k] = at, adjusted
                    k += 1
                if keep:
                    backward[at], suffixes[at] = e, f
    return k


@njit
def choose(out: Array, moved_below: Array, min_raw: int, over: Array, moved: Array, pruned: Array) -> int:
    """Which n-grams stay: those that occur min_raw times and whose context stays.  Returns how many.

    out: as in place_order; over: sorted by row.  moved_below (S,) uint32: new row of each context, or GONE; moved (M,) the same
    of this order.  The adjusted count of what goes is added to pruned, (contexts that stay,) int64."""
    _, parents, counts, raws = out
    over_row, over_count = over
    m = 0
    for i in range(len(parents)):
        context = moved_below[parents[i]]
        moved[i] = GONE
        if context == GONE:
            continue
        if raws[i] >= min_raw:
            moved[i] = m
            m += 1
            continue
        adjusted = np.int64(counts[i])
        if adjusted == FULL:
            at = np.searchsorted(over_row, i)
            adjusted = np.int64(over_count[at]) if at < len(over_row) and over_row[at] == i else adjusted
        pruned[context] += adjusted
    return m
