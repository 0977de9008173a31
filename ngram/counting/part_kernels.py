"""Compiled steps from a run to a table, part by part: an n-gram's context begins with the same token, so the n-grams of a few first tokens are a
table of their own, and memory is needed for one such part at a time.

A run is sorted by n-grams read backwards.  One walk over it meets the n-grams of all orders; those of the part are written down with their keys
turned round (first token in the most significant bits), sorted, and joined with the order below, which is sorted alike.

A record is three uint64: the turned key, hi and lo, and raw count << 32 | adjusted count.  Shapes: M records of an order, V tokens.
"""

import numpy as np

from ngram.arrays import U32_MAX, Array
from ngram.compiled import njit
from ngram.counting.kernels import FULL, exact_count
from ngram.counting.table_kernels import slot

LEFT_OUT = -1  # row of a record that is not in the table
_LOW32, _S32 = np.uint64(0xFFFFFFFF), np.uint64(32)


@njit
def walk(
    run: Array, shifts: tuple[Array, Array], setting: Array, state: tuple[Array, Array, Array], part: Array, records: Array, at: Array, facts: Array
) -> None:  # fmt: skip
    """The next entries of a run; an empty run closes the n-grams that are still open.

    setting (5,) int64: highest order, BOS, bits of a slot, order of the run, whether PAD stands for as many left neighbours as it was
    counted (of a run whose rare entries were cut) and not for one.  state: (key (2,) uint64 of the last entry, opened, left (order + 2,)
    int64): positions counted before the open n-gram of each order began, opened[0] being those counted so far, and its left neighbours.
    records (·, 3): receives the n-grams of orders 2… whose first token is in part[0]…part[1]-1, at[n] being the next free place of order n; without
    room for any, facts = (count_of_counts (orders, 5), tally (orders, V), unigrams (V, 2)) int64 are filled instead: n-grams by small adjusted
    count, n-grams by first token, raw and adjusted count of single tokens."""
    hi, lo, counts, over_index, over_count = run
    last, opened, left = state
    count_of_counts, tally, unigrams = facts
    top, bos, bits, size, cut = setting[0], setting[1], setting[2], len(hi), setting[4] > 0
    pad, width, shift, noting = (1 << bits) - 1, np.uint64(bits), np.uint64(64 - bits), len(records) == 0
    least, beyond = np.uint64(part[0]), np.uint64(part[1])
    for i in range(size if size else 1):
        shared = 0
        if size:
            # An n-gram of the part has only entries with that token in that place, so entries without any of its tokens are no part of one.
            rest_hi, rest_lo, wanted = hi[i], lo[i], noting
            for _ in range(1, top):
                rest_hi = (rest_hi << width) | (rest_lo >> shift)
                rest_lo <<= width
                wanted |= (rest_hi >> shift >= least) & (rest_hi >> shift < beyond)
            if not wanted:
                continue
            first_bits, second_bits = hi[i] ^ last[0], lo[i] ^ last[1]
            for by in shifts[0]:
                shared += first_bits >> by == 0
            if first_bits == 0:
                for by in shifts[1]:
                    shared += second_bits >> by == 0
        rest_hi, rest_lo = last[0], last[1]
        for n in range(1, top + 1 if opened[0] else 0):
            first = np.int64(rest_hi >> shift)
            rest_hi = (rest_hi << width) | (rest_lo >> shift)
            rest_lo <<= width
            if n <= shared or (not noting and (n == 1 or first < part[0] or first >= part[1])):
                continue
            if first == pad and n > 1:
                break  # the history was shorter than n-1 tokens
            raw = opened[0] - opened[n]
            adjusted = min(raw if n == top or (n > 1 and first == bos) else left[n], U32_MAX)
            raw = min(raw, U32_MAX)
            if noting:
                tally[n - 1, first] += 1
                if adjusted < 5:
                    count_of_counts[n - 1, adjusted] += 1
                if n == 1:
                    unigrams[first, 0], unigrams[first, 1] = raw, adjusted
                continue
            turned_hi, turned_lo = np.uint64(0), np.uint64(0)
            for k in range(1, n + 1):
                turned_lo = (turned_hi << shift) | (turned_lo >> width)
                turned_hi = (np.uint64(slot(last[0], last[1], k, bits)) << shift) | (turned_hi >> width)
            place = at[n]
            records[place, 0], records[place, 1] = turned_hi, turned_lo
            records[place, 2] = np.uint64(raw) << _S32 | np.uint64(adjusted)
            at[n] = place + 1
        if size:
            count = exact_count(counts, i, over_index, over_count)
            for n in range(shared + 1, top + 1):
                opened[n], left[n] = opened[0], count if cut and slot(hi[i], lo[i], n + 1, bits) == pad else 1
            left[shared] += count if cut and slot(hi[i], lo[i], shared + 1, bits) == pad else 1
            opened[0] += count
            last[0], last[1] = hi[i], lo[i]


@njit
def sort_records(records: Array, other: Array, n: int, bits: int, vocab: int) -> bool:
    """Sorts records of order n, which come sorted by their last token, into `records`, or into `other` where this returns True.

    One stable pass a token, the last but one first."""
    source, target, swapped, size = records, other, False, len(records)
    begin = np.empty(vocab + 1, np.int64)
    for k in range(n - 1, 0, -1):
        begin[:] = 0
        for i in range(size):
            begin[slot(source[i, 0], source[i, 1], k, bits) + 1] += 1
        if size and begin[slot(source[0, 0], source[0, 1], k, bits) + 1] == size:
            continue
        for d in range(vocab):
            begin[d + 1] += begin[d]
        for i in range(size):
            token = slot(source[i, 0], source[i, 1], k, bits)
            place = begin[token]
            begin[token] = place + 1
            target[place, 0], target[place, 1], target[place, 2] = source[i, 0], source[i, 1], source[i, 2]
        source, target, swapped = target, source, not swapped
    return swapped


@njit
def join(
    records: Array, n: int, setting: Array, mask: Array, below: Array, rows_below: Array, rows: Array, out: Array, pruned: Array, over: Array
) -> tuple[int, int]:  # fmt: skip
    """The records of order n that stay, as columns of a table; returns how many, and how many of their counts do not fit 16 bits.

    setting (4,) int64: bits of a slot, smallest raw count that stays, first row of this order and of the one below.  mask (2,) uint64: of the
    first n-1 tokens.  below: the sorted records of order n-1, and rows_below (·,) int64 their rows in the table (not read at n = 2, where the
    row is the token).  rows (M,) receives the same for this order; out: (tokens, parents, counts, raw) of those that stay; pruned
    (contexts,) int64: adjusted counts of those that go, added to their contexts, whose row is counted from the first.
    over (2, ·): rows and counts over 65,535.  A record whose context is not in the table is left out."""
    bits, least, first_row, first_below = setting
    tokens, parents, counts, raws = out
    j, m, k = 0, 0, 0
    for i in range(len(records)):
        key_hi, key_lo, value = records[i, 0], records[i, 1], records[i, 2]
        rows[i] = LEFT_OUT
        context = slot(key_hi, key_lo, 1, bits)
        if n > 2:
            head_hi, head_lo = key_hi & mask[0], key_lo & mask[1]
            while j < len(below) and (below[j, 0] < head_hi or (below[j, 0] == head_hi and below[j, 1] < head_lo)):
                j += 1
            if j == len(below) or below[j, 0] != head_hi or below[j, 1] != head_lo or rows_below[j] == LEFT_OUT:
                continue
            context = rows_below[j]
        raw, adjusted = np.int64(value >> _S32), np.int64(value & _LOW32)
        if raw < least:
            pruned[context - first_below] += adjusted
            continue
        tokens[m], parents[m], counts[m], raws[m] = slot(key_hi, key_lo, n, bits), context, min(adjusted, FULL), raw
        if adjusted > FULL:
            over[0, k], over[1, k] = first_row + m, adjusted
            k += 1
        rows[i] = first_row + m
        m += 1
    return m, k
