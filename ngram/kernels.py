# mypy: disable-error-code="arg-type,assignment,return-value,index,attr-defined"
"""Numba kernels of counting: tokens → keys → sorted runs → merged runs → columns of the table.

Arrays in, arrays out; the caller allocates and validates; every kernel releases the GIL, so that counting can run on a
thread beside a training loop.  Counts are stored as min(count, 65535); 65535 means "look in the overflow columns"
(index, exact count), so nothing wraps and nothing is lost.
"""

from typing import Any

import numpy as np
from numba import njit

U32_MAX = (1 << 32) - 1
FULL = 65535  # a stored count with this value has its exact count in the overflow columns

_S16 = np.uint64(16)
_S48 = np.uint64(48)
_LOW16 = np.uint64(0xFFFF)
_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
_BOS_TAIL = np.uint64(0x0000FFFFFFFFFFFF)  # BOS in the first slot leaves PAD in the other three

Array = Any  # kernels are typed by numba, not by the checker


@njit(nogil=True)
def fill_keys(rows: Array, history: int, vocab: int, bos: int, masks: Array, keys: Array, at: int) -> int:
    """Keys of the counted positions of rows (B, history + T) uint16, written to keys (cap, 2) uint64 from index `at`.

    PAD in a row is no token: it closes the history and is never counted.  Returns the new fill, or -1 - flat index
    of the first token outside the vocabulary."""
    mask_hi, mask_lo = masks[0], masks[1]
    length = rows.shape[1]
    for b in range(rows.shape[0]):
        past_hi, past_lo = _ONES, _ONES
        for j in range(length):
            token = np.uint64(rows[b, j])
            if token == _LOW16:
                past_hi, past_lo = _ONES, _ONES
                continue
            if token >= np.uint64(vocab):
                return -1 - (b * length + j)
            past_lo = ((past_hi & _LOW16) << _S48) | (past_lo >> _S16)
            past_hi = (token << _S48) | (past_hi >> _S16)
            if j >= history:
                keys[at, 0] = past_hi & mask_hi
                keys[at, 1] = past_lo & mask_lo
                at += 1
            if token == np.uint64(bos):
                past_hi = (token << _S48) | _BOS_TAIL
                past_lo = _ONES
    return at


@njit(nogil=True)
def sort_keys(keys: Array, scratch: Array, n: int, order: int, vocab: int) -> bool:
    """Sorts the first n keys (n, 2) by radix, one pass a token from the oldest on; True when the result is in scratch."""
    radix = vocab + 1  # PAD, the largest value, is the last digit
    starts = np.zeros((order, radix), np.int64)
    for i in range(n):
        for slot in range(order):
            digit = (keys[i, slot >> 2] >> np.uint64(48 - 16 * (slot & 3))) & _LOW16
            starts[slot, min(np.int64(digit), vocab)] += 1
    source, target, swapped = keys, scratch, False
    for back in range(order):
        slot = order - 1 - back
        total, largest = 0, 0
        for d in range(radix):
            size = starts[slot, d]
            largest = max(largest, size)
            starts[slot, d] = total
            total += size
        if largest == n:
            continue
        word, shift = slot >> 2, np.uint64(48 - 16 * (slot & 3))
        for i in range(n):
            digit = min(np.int64((source[i, word] >> shift) & _LOW16), vocab)
            place = starts[slot, digit]
            starts[slot, digit] = place + 1
            target[place, 0] = source[i, 0]
            target[place, 1] = source[i, 1]
        source, target, swapped = target, source, not swapped
    return swapped


@njit(nogil=True)
def group_keys(keys: Array, n: int, hi: Array, lo: Array, counts: Array, over_index: Array, over_count: Array) -> tuple[int, int]:
    """Distinct keys of sorted keys (n, 2) with their counts; returns (number of keys, number of overflow entries)."""
    m, k, i = 0, 0, 0
    while i < n:
        start = i
        key_hi, key_lo = keys[i, 0], keys[i, 1]
        i += 1
        while i < n and keys[i, 0] == key_hi and keys[i, 1] == key_lo:
            i += 1
        hi[m], lo[m] = key_hi, key_lo
        counts[m] = min(i - start, FULL)
        if i - start >= FULL:
            over_index[k], over_count[k] = m, i - start
            k += 1
        m += 1
    return m, k


@njit(nogil=True)
def exact_count(counts: Array, i: int, over_index: Array, over_count: Array) -> int:
    """Exact count of entry i of a run."""
    if counts[i] != FULL:
        return np.int64(counts[i])
    return over_count[np.searchsorted(over_index, i)]


@njit(nogil=True)
def merge_runs(a: Array, b: Array, out: Array) -> tuple[int, int]:
    """Merges two sorted runs, adding counts of equal keys.

    a, b, out: tuples (hi, lo, counts, over_index, over_count); out has room for both.  The loop has no
    unpredictable branch: which side is smaller is a coin toss, and a mispredicted branch costs more than the rest.
    Returns (number of keys, number of overflow entries)."""
    a_hi, a_lo, a_counts, a_index, a_exact = a
    b_hi, b_lo, b_counts, b_index, b_exact = b
    hi, lo, counts, over_index, over_count = out
    i, j, m, k = 0, 0, 0, 0
    while i < len(a_hi) and j < len(b_hi):
        ah, al, bh, bl = a_hi[i], a_lo[i], b_hi[j], b_lo[j]
        same = ah == bh
        take_a = (ah < bh) | (same & (al <= bl))
        take_b = (bh < ah) | (same & (bl <= al))
        hi[m] = ah if take_a else bh
        lo[m] = al if take_a else bl
        ca = np.int64(a_counts[i]) * take_a
        cb = np.int64(b_counts[j]) * take_b
        total = ca + cb
        if total >= FULL:  # rare
            exact = (exact_count(a_counts, i, a_index, a_exact) if take_a else 0) + (
                exact_count(b_counts, j, b_index, b_exact) if take_b else 0
            )
            over_index[k], over_count[k] = m, exact
            k += 1
            total = FULL
        counts[m] = total
        m += 1
        i += take_a
        j += take_b
    m, k = _copy_tail(a, i, out, m, k)
    return _copy_tail(b, j, out, m, k)


@njit(nogil=True)
def _copy_tail(source: Array, i: int, out: Array, m: int, k: int) -> tuple[int, int]:
    """Appends entries i… of a run to `out`, which holds m keys and k overflow entries."""
    s_hi, s_lo, s_counts, s_index, s_exact = source
    hi, lo, counts, over_index, over_count = out
    while i < len(s_hi):
        hi[m], lo[m], counts[m] = s_hi[i], s_lo[i], s_counts[i]
        if s_counts[i] == FULL:
            over_index[k], over_count[k] = m, exact_count(s_counts, i, s_index, s_exact)
            k += 1
        m += 1
        i += 1
    return m, k


@njit(nogil=True)
def _find_from(list_hi: Array, list_lo: Array, cursor: int, key_hi: int, key_lo: int) -> int:
    """First index ≥ cursor whose key is ≥ (key_hi, key_lo), by galloping: the caller asks in rising order."""
    size = len(list_hi)
    step, low, high = 1, cursor, cursor
    while high < size and (list_hi[high] < key_hi or (list_hi[high] == key_hi and list_lo[high] < key_lo)):
        low = high + 1
        high += step
        step *= 2
    high = min(high, size)
    while low < high:
        mid = (low + high) >> 1
        if list_hi[mid] < key_hi or (list_hi[mid] == key_hi and list_lo[mid] < key_lo):
            low = mid + 1
        else:
            high = mid
    return low


@njit(nogil=True)
def scan_order(
    run: Array, masks: Array, n: int, top: int, bos: int, min_raw: int, parents: Array, kept: Array, pruned: Array
) -> tuple[int, Array]:
    """One order of the table from a run: raw counts, adjusted counts, the threshold and who the parents are.

    run: as in merge_runs.  masks: (3, 2) uint64, keeping n-1, n and n+1 slots.  parents: (hi, lo, forward index) of
    the kept n-grams of order n-1, sorted by key.  kept: (hi, lo, parent, adjusted, raw) to fill.  pruned (M_{n-1},)
    int64 receives the adjusted counts of what is dropped.  Returns (number kept, count-of-counts 1…4 of all)."""
    hi, lo, counts, over_index, over_count = run
    parent_hi, parent_lo, parent_forward = parents
    out_hi, out_lo, out_parent, out_adjusted, out_raw = kept
    coc = np.zeros(5, np.int64)
    last_slot = n - 1
    m, cursor, i = 0, 0, 0
    target = _ONES
    while i < len(hi):
        key_hi, key_lo = hi[i] & masks[1, 0], lo[i] & masks[1, 1]
        raw, left = 0, 0
        wide_hi, wide_lo = np.uint64(0), np.uint64(0)
        while i < len(hi) and hi[i] & masks[1, 0] == key_hi and lo[i] & masks[1, 1] == key_lo:
            new_hi, new_lo = hi[i] & masks[2, 0], lo[i] & masks[2, 1]
            if left == 0 or new_hi != wide_hi or new_lo != wide_lo:
                left += 1
                wide_hi, wide_lo = new_hi, new_lo
            raw += exact_count(counts, i, over_index, over_count)
            i += 1
        first = ((key_hi if last_slot < 4 else key_lo) >> np.uint64(48 - 16 * (last_slot & 3))) & _LOW16
        if first == _LOW16:
            continue  # the history was shorter than n-1 tokens
        adjusted = raw if n == top or (n > 1 and first == np.uint64(bos)) else left
        coc[adjusted if adjusted < 5 else 0] += 1
        if key_hi >> _S48 != target:
            target = key_hi >> _S48
            cursor = 0
        want_hi = ((key_hi << _S16) | (key_lo >> _S48)) & masks[0, 0]
        want_lo = (key_lo << _S16) & masks[0, 1]
        cursor = _find_from(parent_hi, parent_lo, cursor, want_hi, want_lo)
        if cursor == len(parent_hi) or parent_hi[cursor] != want_hi or parent_lo[cursor] != want_lo:
            continue  # its context was dropped, or never counted: rows cut out of a stream
        if raw < min_raw:
            pruned[parent_forward[cursor]] += adjusted
            continue
        out_hi[m], out_lo[m], out_parent[m] = key_hi, key_lo, parent_forward[cursor]
        out_adjusted[m], out_raw[m] = min(adjusted, U32_MAX), min(raw, U32_MAX)
        m += 1
    return m, coc[1:]


@njit(nogil=True)
def sort_forward(kept: Array, m: int, contexts: int, forward: Array, columns: Array) -> None:
    """Stable counting sort of m kept n-grams by parent; they come sorted by token, so (parent, token) results.

    forward (m,) uint32 receives each one's new index; columns: (tokens, parents, adjusted, raw) to fill."""
    hi, _, parent, adjusted, raw = kept
    tokens, parents, out_adjusted, out_raw = columns
    place = np.zeros(contexts + 1, np.int64)
    for i in range(m):
        place[parent[i] + 1] += 1
    for c in range(contexts):
        place[c + 1] += place[c]
    for i in range(m):
        at = place[parent[i]]
        place[parent[i]] = at + 1
        forward[i] = at
        tokens[at] = hi[i] >> _S48
        parents[at] = parent[i]
        out_adjusted[at] = adjusted[i]
        out_raw[at] = raw[i]
