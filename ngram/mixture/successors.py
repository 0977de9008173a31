"""Successor lists: for each context what has followed it, how often, and how lately.

A context is a hash (see hashing.py for why that is sound here), its list a block of a pool.  Two numbers a successor:
`count`, the Kneser–Ney count, which only grows; and `recent`, which is scaled down whenever the list's sum has grown large
enough, so that the newest text counts most.  Fading counts: the non-stationary states of the PAQ compressors (Mahoney 2005).
"""

from typing import Any, NamedTuple

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit
from ngram.online.hashing import index_slot

FIRST, SIZE, CAPACITY, PRUNED = range(4)  # columns of a block record
SLOTS, POOL = range(2)  # columns of fill
UNIT = 16  # `recent` of one occurrence
U32_MAX = (1 << 32) - 1


class Lists(NamedTuple):
    """keys (S,) int64: hash or 0.  blocks (S, 4) uint32: first pool index, size, capacity, pruned mass.
    tokens (cap,), count (cap,) uint32, recent (cap,) uint16: the pool.  fill (2,) int64: slots and pool in use."""

    keys: Array
    blocks: Array
    tokens: Array
    count: Array
    recent: Array
    fill: Array


def empty(slots: int, pool: int, kind: Any) -> Lists:
    """No contexts, room for `slots` (a power of two) and `pool` entries; kind: dtype of tokens."""
    return Lists(
        np.zeros(slots, np.int64), np.zeros((slots, 4), np.uint32), np.zeros(pool, kind), np.zeros(pool, np.uint32),
        np.zeros(pool, np.uint16), np.zeros(2, np.int64),
    )  # fmt: skip


@njit
def find_slot(keys: Array, key: int) -> int:
    """Slot of the key, or -1 - the free slot where it belongs."""
    i = index_slot(key, len(keys))
    while keys[i] != key:
        if keys[i] == 0:
            return -1 - i
        i = (i + 1) & (len(keys) - 1)
    return i


@njit
def has_room(lists: Lists, contexts: int, vocab: int) -> bool:
    """Whether `contexts` contexts can each appear or grow by one successor."""
    return lists.fill[SLOTS] + contexts <= (len(lists.keys) >> 3) * 5 and lists.fill[POOL] + contexts * (2 * vocab + 4) <= len(lists.tokens)


@njit
def rehash(old: Lists, new: Lists) -> None:
    """Moves all contexts to a larger table."""
    for i in range(len(old.keys)):
        if old.keys[i] != 0:
            j = -1 - find_slot(new.keys, old.keys[i])
            new.keys[j] = old.keys[i]
            new.blocks[j, :] = old.blocks[i, :]


@njit
def add_context(lists: Lists, key: int, capacity: int) -> int:
    """A new context with an empty block; returns its slot."""
    i = -1 - find_slot(lists.keys, key)
    lists.keys[i] = key
    lists.blocks[i, FIRST] = lists.fill[POOL]
    lists.blocks[i, SIZE] = 0
    lists.blocks[i, CAPACITY] = capacity
    lists.fill[SLOTS] += 1
    lists.fill[POOL] += capacity
    return i


@njit
def add_successor(lists: Lists, slot: int, token: int) -> int:
    """A new successor with counts 0, in a block half as large again if need be; returns its pool index."""
    block = lists.blocks[slot]
    first, size = np.int64(block[FIRST]), np.int64(block[SIZE])
    if size == block[CAPACITY]:
        fresh = lists.fill[POOL]
        capacity = size + max(1, size // 2)
        for j in range(size):
            lists.tokens[fresh + j] = lists.tokens[first + j]
            lists.count[fresh + j] = lists.count[first + j]
            lists.recent[fresh + j] = lists.recent[first + j]
        lists.fill[POOL] += capacity
        block[FIRST], block[CAPACITY] = fresh, capacity
        first = fresh
    at = first + size
    lists.tokens[at], lists.count[at], lists.recent[at] = token, 0, 0
    block[SIZE] = size + 1
    return at


@njit
def find_successor(lists: Lists, slot: int, token: int) -> int:
    """Pool index of a successor, or -1."""
    first = np.int64(lists.blocks[slot, FIRST])
    for j in range(first, first + np.int64(lists.blocks[slot, SIZE])):
        if lists.tokens[j] == token:
            return j
    return -1


@njit
def raise_count(lists: Lists, at: int) -> None:
    """Counts one more occurrence, up to 2^32 - 1."""
    if lists.count[at] < U32_MAX:
        lists.count[at] += 1


@njit
def raise_recent(lists: Lists, slot: int, at: int, before: int, limit: int, fade: int) -> None:
    """One more occurrence; when the list's sum (`before`, then + UNIT) passes the limit, everything fades to fade / 256,
    what has just come half as much."""
    lists.recent[at] += UNIT
    if before + UNIT <= limit:
        return
    first = np.int64(lists.blocks[slot, FIRST])
    for j in range(first, first + np.int64(lists.blocks[slot, SIZE])):
        value = np.int64(lists.recent[j])
        lists.recent[j] = value - ((value * (256 - fade)) >> 9) if j == at else (value * fade) >> 8


@njit
def seed_order(lists: Lists, hashes: Array, parents: Array, tokens: Array, counts: Array, pruned: Array, share: float) -> None:
    """One order of a table, sorted by (parent, token).  hashes (contexts,) int64 of its contexts.

    `recent` of a list is filled up to `share` units in proportion to the counts, no successor above its count."""
    for c in range(len(hashes)):
        if pruned[c] > 0 and find_slot(lists.keys, hashes[c]) < 0:  # also where no successor was kept
            lists.blocks[add_context(lists, hashes[c], 0), PRUNED] = pruned[c]
    i = 0
    while i < len(tokens):
        stop, total = i, 0
        while stop < len(tokens) and parents[stop] == parents[i]:
            total += np.int64(counts[stop])
            stop += 1
        slot = find_slot(lists.keys, hashes[parents[i]])
        if slot < 0:
            slot = add_context(lists, hashes[parents[i]], 0)
        lists.blocks[slot, FIRST] = lists.fill[POOL]  # two contexts of one hash: the later takes it over
        lists.blocks[slot, SIZE], lists.blocks[slot, CAPACITY] = stop - i, stop - i
        lists.fill[POOL] += stop - i
        for j in range(i, stop):
            at = np.int64(lists.blocks[slot, FIRST]) + j - i
            lists.tokens[at], lists.count[at] = tokens[j], counts[j]
            if total > 0:
                lists.recent[at] = min(np.int64(counts[j] * min(float(UNIT), share / total)), 60000)
        i = stop
