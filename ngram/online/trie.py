"""Numba kernels of the growing trie: find a child, move along a text, add a child.

docs/architecture.md says how the trie lies in memory.
"""

from typing import NamedTuple

import numpy as np

from ngram.arrays import U32_MAX, Array
from ngram.compiled import njit

TOTAL, ONES, TWOS, MORE, PRUNED, FIRST, SIZE, SPARE = range(8)  # columns of a node record: 32 bytes, half a cache line
TOKEN, COUNT, NODE = range(3)  # columns of a pool entry
N_NODES, POOL_USED, COUNTED, FREE = range(4)  # meta; from FREE on: heads of the lists of free blocks, by log2
MAX_LOG = 20  # blocks of 2^19 entries hold the largest vocabulary
META_SIZE = FREE + MAX_LOG + 1
EMPTY = U32_MAX  # token of an unused pool entry
DEPTH = 9  # cursor[k] is the node of the context of k tokens; cursor[DEPTH] how many there are
LOG = 24
CHILDREN = (1 << LOG) - 1


class State(NamedTuple):
    """Everything the kernels touch.

    nodes (cap, 8) uint32: total, children with count 1, 2, 3+, pruned mass, first pool index, number of children +
    2^LOG · log2 of the block, last list in RowParts.  Nodes 0…V-1 are the unigrams, the contexts of one token.
    pool (cap, 3) uint32: token, count, node of each child (no node at the top order); entry 0 stays empty: the block
    of the childless.
    unigrams (V,) uint32: counts of order 1;  root (1, 5) int64: total, ones, twos, more, pruned of order 1.
    meta (META_SIZE,) int64;  discounts (order, 4) float64, column min(count, 3);  settings (3,) int64: order,
    vocabulary, bos."""

    nodes: Array
    pool: Array
    unigrams: Array
    root: Array
    meta: Array
    discounts: Array
    settings: Array


@njit(forceinline=True)
def home(token: int, log: int) -> int:
    """Where a token's search begins in a block of 2^log entries: Fibonacci hashing (Knuth, TAOCP 3, 6.4)."""
    return (token * 0x9E3779B1 & 0xFFFFFFFF) >> (32 - log)


@njit(forceinline=True)
def find(pool: Array, first: int, log: int, token: int, wanted: int) -> int:
    """Pool index of what is `wanted` in a block, the token or EMPTY, where the token's search meets it; -1 when it is not there."""
    mask = (1 << log) - 1
    at = home(token, log)
    for _ in range(1 << log):
        found = pool[first + at, TOKEN]
        if found == wanted:
            return first + at
        if found == EMPTY:
            return -1
        at = (at + 1) & mask
    return -1


@njit(forceinline=True)
def touch(state: State, cursor: Array, place: Array, token: int) -> None:
    """Loads, with no branch behind the loads, all that `token` needs: so the cache misses overlap.

    Leaves the first place to look in place[DEPTH + k] and the token found there in place[k]."""
    nodes, pool = state.nodes, state.pool
    for k in range(1, cursor[DEPTH] + 1):
        context = cursor[k]
        at = np.int64(nodes[context, FIRST]) + home(token, np.int64(nodes[context, SIZE] >> LOG))
        place[DEPTH + k] = at
        place[k] = pool[at, TOKEN]


@njit(forceinline=True)
def resolve(state: State, cursor: Array, place: Array, token: int) -> None:
    """After `touch`: place[k] = where (context of k tokens, token) is, or -1, for all contexts at hand."""
    nodes = state.nodes
    for k in range(1, cursor[DEPTH] + 1):
        if place[k] == token:
            place[k] = place[DEPTH + k]
        elif place[k] == EMPTY:
            place[k] = -1
        else:
            context = cursor[k]
            place[k] = find(state.pool, np.int64(nodes[context, FIRST]), np.int64(nodes[context, SIZE] >> LOG), token, token)


@njit(forceinline=True)
def advance(state: State, cursor: Array, place: Array, token: int) -> None:
    """Moves the cursor over `token`, whose places are resolved."""
    order, bos = state.settings[0], state.settings[2]
    depth = 0
    if order > 1:
        depth = 1
        if token != bos:
            limit = min(cursor[DEPTH] + 1, order - 1)
            while depth < limit and place[depth] >= 0:
                depth += 1
        for k in range(depth, 1, -1):
            cursor[k] = state.pool[place[k - 1], NODE]
        cursor[1] = token
    cursor[DEPTH] = depth


@njit(forceinline=True)
def has_room(state: State, inserts: int) -> bool:
    """Whether so many children can be added: nodes, and pool for as many moved blocks of the largest size."""
    meta = state.meta
    return meta[N_NODES] + inserts <= len(state.nodes) and meta[POOL_USED] + inserts * 4 * (state.settings[1] + 2) <= len(state.pool)


@njit(forceinline=True)
def log_capacity(children: int, log: int) -> int:
    """log2 of the block for so many children, and at least `log`: full up to 4, at most 3/4 full beyond."""
    while (1 << log) < children or (log > 2 and 4 * children > 3 << log):
        log += 1
    return log


@njit(forceinline=True)
def _take_block(state: State, log: int) -> int:
    """Pool index of a block of 2^log entries: one that was moved away from, where there is one, else a new one."""
    meta = state.meta
    fresh = meta[FREE + log]
    if fresh > 0:
        meta[FREE + log] = state.pool[fresh, COUNT]
    else:
        fresh = meta[POOL_USED]
        meta[POOL_USED] += 1 << log
    return fresh


@njit
def grow_block(state: State, context: int, log: int) -> None:
    """Moves a context's children into a fresh block of 2^log entries and keeps the old block for reuse."""
    nodes, pool, meta = state.nodes, state.pool, state.meta
    old, size = np.int64(nodes[context, FIRST]), np.int64(nodes[context, SIZE])
    fresh = _take_block(state, log)
    for i in range(fresh, fresh + (1 << log)):
        pool[i, TOKEN], pool[i, COUNT], pool[i, NODE] = EMPTY, 0, 0
    if old > 0:
        for i in range(old, old + (1 << (size >> LOG))):
            token = np.int64(pool[i, TOKEN])
            if token != EMPTY:
                at = find(pool, fresh, log, token, EMPTY)
                pool[at, TOKEN], pool[at, COUNT], pool[at, NODE] = token, pool[i, COUNT], pool[i, NODE]
        pool[old, COUNT] = meta[FREE + (size >> LOG)]
        meta[FREE + (size >> LOG)] = old
    nodes[context, FIRST] = fresh
    nodes[context, SIZE] = (size & CHILDREN) | (log << LOG)


@njit(forceinline=True)
def insert(state: State, context: int, token: int, top: bool) -> int:
    """Adds a child that is not there, with count 0; returns its pool index.  The context's totals are the caller's."""
    nodes, pool, meta = state.nodes, state.pool, state.meta
    size = np.int64(nodes[context, SIZE])
    children, log = (size & CHILDREN) + 1, size >> LOG
    if children == 1:  # most often: the context is new as well
        at = _take_block(state, 0)
        nodes[context, FIRST] = at
    else:
        if log_capacity(children, log) > log:
            log += 1
            grow_block(state, context, log)
        at = find(pool, np.int64(nodes[context, FIRST]), log, token, EMPTY)
    nodes[context, SIZE] = children | (log << LOG)
    name = 0
    if not top:
        name = meta[N_NODES]
        meta[N_NODES] += 1
        nodes[name, :] = 0
    pool[at, TOKEN], pool[at, COUNT], pool[at, NODE] = token, 0, name
    return at


@njit
def seek(state: State, tokens: Array, start: int, cursor: Array, place: Array) -> int:
    """Puts the cursor on the context of position `start`; returns how many tokens of history lack a context."""
    order, bos = state.settings[0], state.settings[2]
    low = start
    while low > 0 and start - low < order - 1 and (low == start or tokens[low] != bos):
        low -= 1
    cursor[DEPTH] = 0
    for t in range(low, start):
        token = np.int64(tokens[t])
        touch(state, cursor, place, token)
        resolve(state, cursor, place, token)
        advance(state, cursor, place, token)
    return start - low - cursor[DEPTH]
