"""Compiled steps from a run to the columns of a table: docs/architecture.md says how n-grams come into another order without being sorted again.

A record of an n-gram is an int64: place of its list << 18 | first token; in the highest order raw count << 18 | first token; of one that occurred once,
~(tokens to its left, the nearest lowest << 18 | first token), which is negative.  A list: raw count << 20 | left neighbours << 1 | whether PAD is one
more, then their records.  An entry, an n-gram in its bucket: its record, with the last token for the first; the rows of its suffix and of the
suffix's context, uint32.  Shapes: V tokens, G groups of tokens.
"""

import numpy as np

from ngram.arrays import U32_MAX, Array
from ngram.compiled import njit
from ngram.counting.kernels import FULL, exact_count
from ngram.table import TOKEN_BITS

BLOCK = 1024  # entries whose lists are fetched together
TAIL_BITS = 62 - TOKEN_BITS  # of the tokens to the left of an n-gram that occurred once
LEFT_BITS = 20
_LOW_TOKEN = (1 << TOKEN_BITS) - 1


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
def walk(run: Array, shifts: tuple[Array, Array], setting: Array, records: Array, at: Array, groups: Array, tally: Array, coc: Array) -> None:
    """The records of all orders in backward order, but of those n-grams that prolong one that occurred once: they follow from its record.

    run: columns as in merge_runs; shifts: keys.slot_shifts.  setting (5,): highest order, BOS, bits of a slot, lowest order whose n-grams that
    occurred once keep all tokens to their left, bits of one of these.  at (top + 2,): where each order's records go on.  groups (V,): of each
    token.  tally (top, G, V): n-grams by group of their second token and by first token.  coc (top, 5): by adjusted count, 1…4."""
    hi, lo, counts, over_index, over_count = run
    top, bos, bits, least, width = setting
    pad, vocab, seen, after = (1 << bits) - 1, len(groups), 0, 0
    opened, begin, padded = np.zeros((3, top + 2), np.int64)
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
        alone = max(before, after, least - 1) + 1 if count == 1 else top + 1  # from this order on its n-grams occur nowhere else
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
            if n < alone:
                opened[n], begin[n], padded[n], depth = seen, at[n + 1], 0, n
                at[n + 1] += 1
            else:
                tail |= first << by
                by = TOKEN_BITS if n == alone else by + width
                coc[n - 1, 1] += 1
        seen += count
        if by:
            records[at[alone]] = ~tail
            at[alone] += 1
        for n in range(depth, after, -1):
            first, raw, left = slot(hi[i], lo[i], n, bits), min(seen - opened[n], U32_MAX), at[n + 1] - begin[n] - 1
            adjusted = raw if n == top or (n > 1 and first == bos) else left + padded[n]
            if adjusted < 5:
                coc[n - 1, adjusted] += 1
            if n < top:
                records[begin[n]] = raw << LEFT_BITS | left << 1 | padded[n]
            records[at[n]] = (raw if n == top else begin[n]) << TOKEN_BITS | first
            at[n] += 1


@njit(forceinline=True)
def _append(entries: Array, places: Array, first: int, entry: tuple[int, int, int]) -> None:
    to = places[first]
    places[first] = to + 1
    entries[0][to], entries[1][to], entries[2][to] = entry


@njit
def place(
    records: Array, entries: Array, grown: Array, group: Array, setting: Array, buckets: Array, below: Array, places: Array, out: Array, over: Array
) -> int:
    """The rows of one order whose first token is in a group (first, behind the last), and the entries of the next order that prolong them.

    records: as from `walk`.  entries: (records, suffixes, contexts) of this order, of which suffixes move to the rows and contexts become parents;
    grown, places (V,): the next one's to fill, and where each bucket goes on.
    setting (5,): V, bits of a token left of an n-gram that occurred once, order, highest order, BOS.  buckets: (starts, filled, ends) (G, V), by
    group of the second token and first token: where entries and rows begin, entries end, and the room for rows ends, on return the rows.
    below: (suffixes, starts, ends) of the order below.  out: (tokens, counts, raw) to fill.
    over (·, 2): receives rows and counts over 65,535; returns how many.  An n-gram without its context is left out; a free row has raw = 0."""
    vocab, width, n, top, bos = setting
    starts, filled, ends = buckets
    theirs, their_starts, their_ends = below
    words, suffixes, parents = entries
    tokens, counts, raws = out
    mask, k = (1 << width) - 1, 0
    lists, facts, neighbours, unused = np.empty((4, BLOCK), np.int64)
    for a in range(group[0], group[1]):
        for g in range(len(starts)):
            at, j, end = starts[g, a], their_starts[g, a], their_ends[g, a]
            for block in range(at, filled[g, a], BLOCK):
                size, m = min(BLOCK, filled[g, a] - block), 0
                for i in range(size if n < top else 0):
                    lists[m] = words[block + i] >> TOKEN_BITS
                    m += lists[m] >= 0
                for i in range(m):  # no branch waits for memory here, so these reads overlap; most lists end within two lines of the cache
                    facts[i], neighbours[i], unused[i] = records[lists[i]], records[lists[i] + 1], records[lists[i] + 5]
                m = 0
                for i in range(size):
                    word, context = words[block + i], parents[block + i]
                    if j < end:
                        j += theirs[j] < context
                    while j < end and theirs[j] < context:
                        j += 1
                    if j == end or theirs[j] != context:
                        m += word >= 0
                        continue
                    raw, token = word >> TOKEN_BITS, word & _LOW_TOKEN
                    count = raw
                    if word < 0:
                        raw, count, token, tail = 1, 1, token ^ _LOW_TOKEN, ~raw
                        first = tail & mask
                        if n < top and first != vocab:
                            _append(grown, places, first, (~(tail >> width << TOKEN_BITS | token), at, j))
                    elif n < top:
                        begin, fact, neighbour = raw + 1, facts[m], neighbours[m]
                        raw, left = fact >> LEFT_BITS, (fact & ((1 << LEFT_BITS) - 1)) >> 1
                        count = raw if n > 1 and a == bos else left + (fact & 1)
                        m += 1
                        for e in range(begin, begin + left):
                            if e > begin:
                                neighbour = records[e]
                            flip = neighbour >> 63  # all ones of one that occurred once
                            first = (neighbour ^ flip) & _LOW_TOKEN
                            _append(grown, places, first, ((((neighbour ^ flip) & ~_LOW_TOKEN) | token) ^ flip, at, j))
                    if at < block + i:
                        suffixes[at] = suffixes[block + i]
                    tokens[at], parents[at], counts[at], raws[at] = token, j, min(count, FULL), raw
                    if count > FULL:
                        over[k, 0], over[k, 1] = at, count
                        k += 1
                    at += 1
            free, ends[g, a] = slice(at, ends[g, a]), at
            parents[free] = counts[free] = raws[free] = 0
    return k
