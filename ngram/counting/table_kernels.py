"""Compiled steps from a run to the columns of a table.

A run is sorted by n-grams read backwards: one walk over it meets those of all orders, in "backward order".  A table is sorted by n-grams read
forwards, without sorting again: taken suffix by suffix, in the forward order of the suffixes, and appended to one bucket for each first token,
n-grams come out in forward order.  The context of n-gram (a, suffix) is the n-gram (a, context of the suffix), in the bucket of `a` of the order
below; as both buckets are sorted alike, a cursor that moves on finds it.  Most n-grams of high orders occurred once: the tokens to their left
travel along, in `ahead`, so that memory is only searched for the n-grams that end with the others.

ahead int64: left neighbours (PAD among them as 1 << 62) << 43 | first record of these n-grams; of an n-gram that occurred once, the tokens to its
left with their bits inverted, so negative.  A record is two int64: ahead, and raw count << 32 | first token.
Shapes: V tokens, G groups of tokens, M n-grams of an order.
"""

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit
from ngram.counting.kernels import U32_MAX, exact_count

BLOCK = 64  # suffixes whose records are fetched together
TAIL_BITS = 62  # of the tokens to the left of an n-gram that occurred once
_AT, _LOW32 = 43, (1 << 32) - 1  # bits of a record's place
_LOW_AT, _LOW_LEFT = (1 << _AT) - 1, (1 << (TAIL_BITS - _AT)) - 1


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
def walk(
    run: Array, shifts: tuple[Array, Array], setting: Array, records: Array, at: Array, groups: Array, tally: Array, coc: Array
) -> None:  # fmt: skip
    """The n-grams of all orders in backward order, but those that prolong one that occurred once: they follow from its `ahead`.

    run: columns as in merge_runs; shifts: keys.slot_shifts.  setting (5,) int64: highest order, BOS, bits of a slot, lowest order whose n-grams
    that occurred once keep all tokens to their left, bits of one of these.  records (·, 2), at (top + 2,): the next free record of each
    order.  groups (V,): of each token.  tally (top, G, V) int32: n-grams by group of their second token and by first token.
    coc (top, 5) int64: n-grams whose adjusted count is 1…4, by count."""
    hi, lo, counts, over_index, over_count = run
    top, bos, bits, least, width = setting
    pad, vocab, seen = (1 << bits) - 1, len(groups), 0
    opened, begin, padded, after = np.zeros(top + 2, np.int64), np.zeros(top + 2, np.int64), np.zeros(top + 2, np.int64), 0
    for i in range(len(hi)):
        before, after = after, 0  # tokens shared with the key before this one, and with the next
        if i + 1 < len(hi):
            differ = hi[i + 1] ^ hi[i]
            for shift in shifts[0]:
                after += differ >> shift == 0
            if differ == 0:
                differ = lo[i + 1] ^ lo[i]
                for shift in shifts[1]:
                    after += differ >> shift == 0
        count = exact_count(counts, i, over_index, over_count)
        deepest = min(top, max(before, after, least - 1) + 1) if count == 1 else top
        depth, group, tail, by = min(before, top), 0, 0, 0
        if 0 < before < top:
            group = groups[slot(hi[i], lo[i], before, bits)]
        for n in range(before + 1, top + 1):
            first = slot(hi[i], lo[i], n, bits)
            if first == pad and n > 1:  # the history was shorter than n-1 tokens
                padded[n - 1] = 1
                tail |= vocab << by
                break
            tally[n - 1, group, first] += 1
            group = groups[first]
            if n > deepest:
                tail |= first << by
                by += width
                coc[n - 1, 1] += 1
            else:
                opened[n], begin[n], padded[n], depth = seen, at[n + 1], 0, n
        seen += count
        if count == 1 and depth == deepest and depth < top:
            records[at[depth], 0], records[at[depth], 1] = ~tail, (1 << 32) | slot(hi[i], lo[i], depth, bits)
            at[depth] += 1
            coc[depth - 1, 1] += 1
            depth -= 1
        for n in range(depth, after, -1):
            first, raw, left = slot(hi[i], lo[i], n, bits), min(seen - opened[n], U32_MAX), at[n + 1] - begin[n]
            adjusted = raw if n == top or (n > 1 and first == bos) else left + padded[n]
            if adjusted < 5:
                coc[n - 1, adjusted] += 1
            records[at[n], 0] = (padded[n] << TAIL_BITS) | (left << _AT) | begin[n]
            records[at[n], 1] = (raw << 32) | first
            at[n] += 1


@njit(forceinline=True)
def left_of(ahead: int) -> int:
    """How many left neighbours an n-gram has, PAD among them."""
    return 1 if ahead < 0 else ((ahead >> _AT) & _LOW_LEFT) + (ahead >> TAIL_BITS)


@njit
def place_order(
    records: Array, below: Array, span: tuple[int, int], setting: Array, cursor: Array, bound: Array, place: Array, out: Array, ahead: Array,
    suffixes: Array,
) -> None:  # fmt: skip
    """The n-grams of one order that end with some suffixes, in forward order.

    below: (tokens, parents, ahead, suffixes) of the order below, in forward order: last token, row of the context, see above, row of the suffix.
    span: rows of the suffixes to take.  cursor, bound (V,) int64: where the contexts of their n-grams begin and end in each bucket of the
    order below; place (V,): where the n-grams begin in those of this order, and on return where they end.  setting (3,) int64: V, bits of a
    token in `ahead`, the first token after which counts are raw (-1: all).  out: (tokens, parents, adjusted counts, raw) to fill; ahead,
    suffixes: as below, or empty at the top order.  An n-gram whose context is not there is left out."""
    below_tokens, below_parents, below_ahead, below_suffixes = below
    tokens, parents, counts, raws = out
    vocab, width, raw_is_count = setting
    mask, keep = (1 << width) - 1, len(ahead) > 0
    heads, firsts, seconds = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    for block in range(span[0], span[1], BLOCK):
        size = min(BLOCK, span[1] - block)
        for i in range(size):  # no branch waits for memory here, so these reads overlap
            heads[i] = below_ahead[block + i]
            e = 0 if heads[i] < 0 else heads[i] & _LOW_AT
            firsts[i], seconds[i] = records[e, 0], records[e, 1]
        for i in range(size):
            f, head, following, second, more = block + i, heads[i], firsts[i], seconds[i], (heads[i] >> _AT) & _LOW_LEFT
            if head < 0:
                following, second, more = ~(~head >> width), (1 << 32) | (~head & mask), np.int64(~head & mask != vocab)
            context, token = below_parents[f], below_tokens[f]
            for e in range(more):
                if e:
                    following, second = records[(head & _LOW_AT) + e, 0], records[(head & _LOW_AT) + e, 1]
                first, raw = second & _LOW32, (second >> 32) & _LOW32
                j, end = cursor[first], bound[first]
                if j < end:
                    j += below_suffixes[j] < context
                while j < end and below_suffixes[j] < context:
                    j += 1
                cursor[first] = j
                if j == end or below_suffixes[j] != context:
                    continue
                at = place[first]
                place[first] = at + 1
                tokens[at], parents[at], raws[at] = token, j, raw
                counts[at] = raw if raw_is_count < 0 or raw_is_count == first else left_of(following)
                if keep:
                    ahead[at], suffixes[at] = following, f
