"""Numba kernels of counting: tokens → keys → sorted runs → merged runs.

Arrays in, arrays out; the caller allocates and validates.  Counts of 65535 and more are in the overflow columns (run.Run), so nothing wraps.
"""

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit

FULL = 65535

NO_KEY = _ONES = np.uint64(2**64 - 1)  # of a position that is not counted: PAD is never a target


@njit
def fill_keys(rows: Array, history: int, vocab: int, bos: int, layout: Array, tokens: Array, keys: Array, at: int) -> int:
    """Tokens and keys of rows (B, history + T), written from index `at` of tokens (cap,) and keys (cap, 2) uint64.

    The first `history` tokens of a row are not counted, nor is PAD, which closes the history: their key is NO_KEY twice, and
    PAD becomes `vocab` in tokens.  layout (4,) uint64: masks of a key, bits of a slot, PAD.  Returns the number counted, or
    -1 - flat index of the first token outside the vocabulary, or of one that as context would look like PAD."""
    mask_hi, mask_lo, bits, pad = layout
    top = np.uint64(64) - bits
    no_token, length, counted = _ONES >> top, rows.shape[1], 0
    for b in range(len(rows)):
        past_hi = past_lo = _ONES
        for j in range(length):
            token = np.uint64(rows[b, j])
            keys[at, 0] = keys[at, 1] = NO_KEY
            if token == pad:
                past_hi = past_lo = _ONES
                tokens[at] = vocab
                at += 1
                continue
            if token >= np.uint64(vocab):
                return -1 - (b * length + j)
            tokens[at] = token
            past_lo = (past_hi << top) | (past_lo >> bits)
            past_hi = (token << top) | (past_hi >> bits)
            if j >= history:
                keys[at, 0], keys[at, 1] = past_hi & mask_hi, past_lo & mask_lo
                counted += 1
            at += 1
            if token == np.uint64(bos):
                past_hi, past_lo = (token << top) | (_ONES >> bits), _ONES
            if token == no_token and j + 1 < length and np.uint64(rows[b, j + 1]) != pad:
                return -1 - (b * length + j)
    return counted


@njit
def sort_positions(tokens: Array, n: int, order: int, vocab: int, positions: Array, other: Array) -> bool:
    """The positions 0…n-1 in the order of their keys, in `positions`, or in `other` where this returns True.

    Positions sorted by their last k tokens, moved on by one and sorted stably by token, are sorted by their last k+1 tokens: one
    pass a token, on 4 bytes a position instead of a key.  What lies before a BOS, a PAD or the row is not looked at by any
    key, so it only decides between equal keys.  tokens (n,) ≤ vocab; positions, other (n,) uint32."""
    begin = np.zeros(vocab + 2, np.int64)
    for t in range(n):
        begin[np.int64(tokens[t]) + 1] += 1
    begin = np.cumsum(begin)
    place = begin.copy()
    for t in range(n):
        positions[place[tokens[t]]] = t
        place[tokens[t]] += 1
    source, target, swapped = positions, other, False
    for _ in range(1, order):
        place[:] = begin
        target[place[tokens[0]]] = 0  # nothing stands before it
        place[tokens[0]] += 1
        for i in range(n):
            t = np.int64(source[i]) + 1
            if t < n:
                token = tokens[t]
                at = place[token]
                place[token] = at + 1
                target[at] = t
        source, target, swapped = target, source, not swapped
    return swapped


@njit
def group_keys(keys: Array, hi: Array, lo: Array, counts: Array, over_index: Array, over_count: Array) -> tuple[int, int]:
    """Distinct keys with their counts; returns (number of keys, number of overflow entries).  keys (n, 2) uint64 in rising
    order, with NO_KEY anywhere between."""
    m, k, size = -1, 0, 0
    last_hi = last_lo = NO_KEY
    for i in range(len(keys)):
        key_hi, key_lo = keys[i, 0], keys[i, 1]
        if key_hi == NO_KEY:
            continue
        if key_hi == last_hi and key_lo == last_lo:
            size += 1
        else:
            m += 1
            hi[m], lo[m] = key_hi, key_lo
            last_hi, last_lo, size = key_hi, key_lo, 1
        counts[m] = min(size, FULL)
        if size >= FULL:
            k += size == FULL
            over_index[k - 1], over_count[k - 1] = m, size
    return m + 1, k


@njit
def exact_count(counts: Array, i: int, over_index: Array, over_count: Array) -> int:
    if counts[i] != FULL:
        return np.int64(counts[i])
    return over_count[np.searchsorted(over_index, i)]


@njit
def merge_runs(a: Array, b: Array, out: Array) -> tuple[int, int]:
    """Merges two sorted runs, adding counts of equal keys.

    a, b, out: tuples (hi, lo, counts, over_index, over_count); out has room for both.  The loop
    has no branch that nobody can predict.  Returns (number of keys, number of overflow entries)."""
    a_hi, a_lo, a_counts, a_index, a_exact = a
    b_hi, b_lo, b_counts, b_index, b_exact = b
    hi, lo, counts, over_index, over_count = out
    i = j = m = k = 0
    while i < len(a_hi) and j < len(b_hi):
        ah, al, bh, bl = a_hi[i], a_lo[i], b_hi[j], b_lo[j]
        same = ah == bh
        take_a = (ah < bh) | (same & (al <= bl))
        take_b = (bh < ah) | (same & (bl <= al))
        hi[m] = ah if take_a else bh
        lo[m] = al if take_a else bl
        total = np.int64(a_counts[i]) * take_a + np.int64(b_counts[j]) * take_b
        if total >= FULL:  # rare
            exact = take_a * exact_count(a_counts, i, a_index, a_exact) + take_b * exact_count(b_counts, j, b_index, b_exact)
            over_index[k], over_count[k] = m, exact
            k += 1
            total = FULL
        counts[m] = total
        m += 1
        i += take_a
        j += take_b
    for rest in range(2):  # what is left of one of them
        t_hi, t_lo, t_counts, t_index, t_exact = b if rest else a
        for t in range(j if rest else i, len(t_hi)):
            hi[m], lo[m], counts[m] = t_hi[t], t_lo[t], t_counts[t]
            if t_counts[t] == FULL:
                over_index[k], over_count[k] = m, exact_count(t_counts, t, t_index, t_exact)
                k += 1
            m += 1
    return m, k
