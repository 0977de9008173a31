# mypy: disable-error-code="arg-type,assignment,return-value,index,attr-defined,operator"
"""Numba kernels of the online cache: find, score, count, full rows.

The trie lives in two flat arrays.  A node is a context; its children are one block of `pool`, which is a small
open-addressing table keyed by the token itself, so keys are exact, a full row is read from consecutive memory, and a
context's first children need no more than one cache line.  The child (context of k tokens, w) names the node of the
context of k+1 tokens at the next position: the same probes score a token and advance past it.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

Array = Any  # kernels are typed by numba, not by the checker

TOTAL, ONES, TWOS, MORE, PRUNED, FIRST, SIZE, SPARE = range(8)  # columns of a node record: 32 bytes, half a cache line
TOKEN, COUNT, NODE = range(3)  # columns of a pool entry
N_NODES, POOL_USED, COUNTED, FREE = range(4)  # meta; from FREE on: heads of the lists of free blocks, by log2
MAX_LOG = 18  # blocks of 2^17 entries hold the largest vocabulary
META_SIZE = FREE + MAX_LOG + 1
EMPTY = (1 << 32) - 1  # token of an unused pool entry
DEPTH = 9  # cursor[g, k] is the node of lane g's context of k tokens; cursor[g, DEPTH] how many there are
LANES = 8  # walks side by side; 8 × 9 misses in flight are about what a core can hold
LOOK_AHEAD = 1024  # tokens whose nodes stay in a 1 MB cache
U32_MAX = (1 << 32) - 1
N_FEATURES = 9


class State(NamedTuple):
    """Everything the kernels touch.

    nodes (cap, 8) uint32: total, children with count 1, 2, 3+, pruned mass, first pool index, number of children +
    2^16 · log2 of the block.  Nodes 0…V-1 are the unigrams, the contexts of one token.
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


@njit(nogil=True, forceinline=True)
def home(token: int, log: int) -> int:
    """Where a token's search begins in a block of 2^log entries: Fibonacci hashing (Knuth, TAOCP 3, 6.4)."""
    return (token * 0x9E3779B1 & 0xFFFFFFFF) >> (32 - log)


@njit(nogil=True, forceinline=True)
def find(pool: Array, first: int, log: int, token: int) -> int:
    """Pool index of a token in a block, -1 when it is not there."""
    mask = (1 << log) - 1
    at = home(token, log)
    for _ in range(1 << log):
        found = pool[first + at, TOKEN]
        if found == token:
            return first + at
        if found == EMPTY:
            return -1
        at = (at + 1) & mask
    return -1


@njit(nogil=True, forceinline=True)
def touch(state: State, cursor: Array, place: Array, g: int, token: int) -> None:
    """Loads, with no branch behind the loads, all that lane g needs for `token`: so the cache misses overlap.

    Leaves the first place to look in place[g, DEPTH + k] and the token found there in place[g, k]."""
    nodes, pool = state.nodes, state.pool
    for k in range(1, cursor[g, DEPTH] + 1):
        context = cursor[g, k]
        at = np.int64(nodes[context, FIRST]) + home(token, np.int64(nodes[context, SIZE] >> 16))
        place[g, DEPTH + k] = at
        place[g, k] = pool[at, TOKEN]


@njit(nogil=True, forceinline=True)
def resolve(state: State, cursor: Array, place: Array, g: int, token: int) -> None:
    """After `touch`: place[g, k] = where (context of k tokens, token) is, or -1, for all contexts at hand."""
    nodes = state.nodes
    for k in range(1, cursor[g, DEPTH] + 1):
        if place[g, k] == token:
            place[g, k] = place[g, DEPTH + k]
        elif place[g, k] == EMPTY:
            place[g, k] = -1
        else:
            context = cursor[g, k]
            place[g, k] = find(state.pool, np.int64(nodes[context, FIRST]), np.int64(nodes[context, SIZE] >> 16), token)


@njit(nogil=True, forceinline=True)
def advance(state: State, cursor: Array, place: Array, g: int, token: int) -> None:
    """Moves lane g over `token`, whose places are resolved."""
    order, bos = state.settings[0], state.settings[2]
    depth = 0
    if order > 1:
        depth = 1
        if token != bos:
            limit = min(cursor[g, DEPTH] + 1, order - 1)
            while depth < limit and place[g, depth] >= 0:
                depth += 1
        for k in range(depth, 1, -1):
            cursor[g, k] = state.pool[place[g, k - 1], NODE]
        cursor[g, 1] = token
    cursor[g, DEPTH] = depth


@njit(nogil=True, forceinline=True)
def backoff(state: State, n: int, context: int) -> float:
    """Mass, in counts, that a seen context leaves to the shorter one; n: order of its children."""
    nodes, d = state.nodes, state.discounts
    discounted = d[n - 1, 1] * nodes[context, ONES] + d[n - 1, 2] * nodes[context, TWOS] + d[n - 1, 3] * nodes[context, MORE]
    return discounted + nodes[context, PRUNED]


@njit(nogil=True, forceinline=True)
def root_backoff(state: State) -> float:
    """The same for order 1."""
    root, d = state.root, state.discounts
    return d[0, 1] * root[0, ONES] + d[0, 2] * root[0, TWOS] + d[0, 3] * root[0, MORE] + root[0, PRUNED]


@njit(nogil=True, forceinline=True)
def kept_mass(state: State, n: int, count: int) -> float:
    """What is left of a count of order n after its discount."""
    return max(count - state.discounts[n - 1, min(count, 3)], 0.0)


@njit(nogil=True, forceinline=True)
def target_probability(state: State, cursor: Array, place: Array, g: int, token: int, by_order: Array, i: int) -> float:
    """p(token | context); row i of by_order (·, order + 1), if it has any, receives p with orders up to 0, 1, ….

    The arithmetic is that of `fill_row`, operation by operation, so both agree to the last bit."""
    p = 1.0 / state.settings[1]
    wanted = len(by_order) > 0
    if wanted:
        by_order[i, :] = p
    total = state.root[0, TOTAL]
    if total > 0:
        scale = 1.0 / total
        p = root_backoff(state) * scale * p
        p += kept_mass(state, 1, np.int64(state.unigrams[token])) * scale
    if wanted:
        by_order[i, 1:] = p
    for k in range(1, cursor[g, DEPTH] + 1):
        context = cursor[g, k]
        total = np.int64(state.nodes[context, TOTAL])
        if total > 0:
            scale = 1.0 / total
            p = backoff(state, k + 1, context) * scale * p
            if place[g, k] >= 0:
                p += kept_mass(state, k + 1, np.int64(state.pool[place[g, k], COUNT])) * scale
        if wanted:
            by_order[i, k + 1 :] = p
    return p


@njit(nogil=True, forceinline=True)
def fill_features(state: State, cursor: Array, g: int, out: Array, i: int) -> None:
    """Features of the context (see online.FEATURES) → row i of out (·, N_FEATURES) float32."""
    nodes = state.nodes
    longest, below, sure, escape = 0, 0, 0, 1.0
    for k in range(1, cursor[g, DEPTH] + 1):
        context = cursor[g, k]
        if nodes[context, TOTAL] > 0:
            longest, below = k, longest
            sure += nodes[context, SIZE] & 0xFFFF == 1
            if k > 1:
                escape *= backoff(state, k + 1, context) / nodes[context, TOTAL]
    out[i, 0], out[i, 7], out[i, 8] = longest, sure, -np.log(max(escape, 1e-9))
    for rank in range(2):
        k = longest if rank == 0 else below
        at = 1 + 3 * rank
        out[i, at], out[i, at + 1], out[i, at + 2] = 0.0, 0.0, 1.0
        if k > 0:
            context = cursor[g, k]
            total = np.float64(nodes[context, TOTAL])
            out[i, at] = np.log1p(total)
            out[i, at + 1] = np.log1p(np.float64(nodes[context, SIZE] & 0xFFFF))
            out[i, at + 2] = backoff(state, k + 1, context) / total


@njit(nogil=True)
def seek(state: State, tokens: Array, start: int, cursor: Array, place: Array, create: bool) -> bool:
    """Puts lane 0 on the context of position `start`; True when every context of the history exists.

    create: adds missing contexts with count 0 (the caller has made room), for updates that skip positions."""
    order, bos = state.settings[0], state.settings[2]
    low = start
    while low > 0 and start - low < order - 1 and (low == start or tokens[low] != bos):
        low -= 1
    cursor[0, DEPTH] = 0
    for t in range(low, start):
        token = np.int64(tokens[t])
        touch(state, cursor, place, 0, token)
        resolve(state, cursor, place, 0, token)
        if create and token != bos:
            for k in range(1, min(cursor[0, DEPTH], order - 2) + 1):
                if place[0, k] < 0:
                    place[0, k] = insert(state, cursor[0, k], token, False)
        advance(state, cursor, place, 0, token)
    return cursor[0, DEPTH] == start - low


@njit(nogil=True)
def score_range(state: State, tokens: Array, start: int, stop: int, prob: Array, features: Array, by_order: Array) -> None:
    """Probabilities of tokens[start:stop] with nothing changed.  features and by_order have as many rows as prob or none.

    With an empty prob nothing is scored, but all that these tokens need has come into the processor's caches.
    Lanes walk equal parts side by side: each token of a walk waits for memory, the walks do not wait for each other.
    A lane starts order-1 tokens early, with no context, and has the right one when its part begins."""
    order = state.settings[0]
    lanes = LANES if stop - start >= LANES * 16 else 1
    part = (stop - start + lanes - 1) // lanes
    cursor = np.zeros((lanes, DEPTH + 1), np.int64)
    place = np.empty((lanes, 2 * DEPTH), np.int64)
    for step in range(1 - order, part):
        for g in range(lanes):
            t = start + g * part + step
            if 0 <= t < stop:
                touch(state, cursor, place, g, np.int64(tokens[t]))
        for g in range(lanes):
            t = start + g * part + step
            if 0 <= t < stop:
                token = np.int64(tokens[t])
                resolve(state, cursor, place, g, token)
                if step >= 0 and len(prob):
                    prob[t - start] = target_probability(state, cursor, place, g, token, by_order, t - start)
                    if len(features):
                        fill_features(state, cursor, g, features, t - start)
                advance(state, cursor, place, g, token)


@njit(nogil=True, forceinline=True)
def has_room(state: State, inserts: int) -> bool:
    """Whether so many children can be added: nodes, and pool for as many moved blocks of the largest size."""
    meta = state.meta
    return meta[N_NODES] + inserts <= len(state.nodes) and meta[POOL_USED] + inserts * 4 * (state.settings[1] + 2) <= len(state.pool)


@njit(nogil=True, forceinline=True)
def log_capacity(children: int) -> int:
    """log2 of the block for so many children: full up to 4, at most 3/4 full beyond."""
    log = 0
    while (1 << log) < children or (log > 2 and 4 * children > 3 << log):
        log += 1
    return log


@njit(nogil=True)
def _grow_block(state: State, context: int, log: int) -> None:
    """Moves a context's children into a fresh block of 2^log entries and keeps the old block for reuse."""
    nodes, pool, meta = state.nodes, state.pool, state.meta
    old, size = np.int64(nodes[context, FIRST]), np.int64(nodes[context, SIZE])
    fresh = meta[FREE + log]
    if fresh > 0:
        meta[FREE + log] = pool[fresh, COUNT]
    else:
        fresh = meta[POOL_USED]
        meta[POOL_USED] += 1 << log
    for i in range(fresh, fresh + (1 << log)):
        pool[i, TOKEN], pool[i, COUNT], pool[i, NODE] = EMPTY, 0, 0
    if old > 0:
        for i in range(old, old + (1 << (size >> 16))):
            token = np.int64(pool[i, TOKEN])
            if token != EMPTY:
                at = free_entry(pool, fresh, log, token)
                pool[at, TOKEN], pool[at, COUNT], pool[at, NODE] = token, pool[i, COUNT], pool[i, NODE]
        pool[old, COUNT] = meta[FREE + (size >> 16)]
        meta[FREE + (size >> 16)] = old
    nodes[context, FIRST] = fresh
    nodes[context, SIZE] = (size & 0xFFFF) | (log << 16)


@njit(nogil=True, forceinline=True)
def free_entry(pool: Array, first: int, log: int, token: int) -> int:
    """Pool index where a token that is not in the block goes; the block has room."""
    mask = (1 << log) - 1
    at = home(token, log)
    while pool[first + at, TOKEN] != EMPTY:
        at = (at + 1) & mask
    return first + at


@njit(nogil=True, forceinline=True)
def insert(state: State, context: int, token: int, top: bool) -> int:
    """Adds a child that is not there, with count 0; returns its pool index.  The context's totals are the caller's."""
    nodes, pool, meta = state.nodes, state.pool, state.meta
    size = np.int64(nodes[context, SIZE])
    children, log = (size & 0xFFFF) + 1, size >> 16
    if children == 1 or children > 1 << log or (log > 2 and 4 * children > 3 << log):
        log = log_capacity(children)
        _grow_block(state, context, log)
    at = free_entry(pool, np.int64(nodes[context, FIRST]), log, token)
    nodes[context, SIZE] = children | (log << 16)
    name = 0
    if not top:
        name = meta[N_NODES]
        meta[N_NODES] += 1
        for column in range(8):
            nodes[name, column] = 0
    pool[at, TOKEN], pool[at, COUNT], pool[at, NODE] = token, 0, name
    return at


@njit(nogil=True, forceinline=True)
def _raise_total(nodes: Array, context: int, count: int) -> None:
    """Totals of a context one of whose children went from `count` to count + 1."""
    nodes[context, TOTAL] += 1
    if count < 3:
        nodes[context, ONES + count] += 1  # ones, twos, more
        if count > 0:
            nodes[context, ONES + count - 1] -= 1


@njit(nogil=True, forceinline=True)
def count_token(state: State, cursor: Array, place: Array, token: int) -> None:
    """Counts `token` after the context at the cursor: from the longest order down, to the first already seen.

    Kneser–Ney counts by update exclusion: a shorter n-gram gains a left neighbour exactly when the longer one is
    new.  A context whose total has reached 2^32 - 1 counts no further, so its row still sums to 1."""
    order = state.settings[0]
    nodes, pool = state.nodes, state.pool
    state.meta[COUNTED] += 1
    for k in range(cursor[0, DEPTH], 0, -1):
        context = cursor[0, k]
        if place[0, k] < 0:
            place[0, k] = insert(state, context, token, k == order - 1)
        count = np.int64(pool[place[0, k], COUNT])
        if nodes[context, TOTAL] < U32_MAX:
            pool[place[0, k], COUNT] = count + 1
            _raise_total(nodes, context, count)
        if count > 0:
            return
    if state.unigrams[token] < U32_MAX:
        _raise_total(state.root, 0, np.int64(state.unigrams[token]))
        state.unigrams[token] += 1


@njit(nogil=True)
def count_range(
    state: State, tokens: Array, start: int, stop: int, cursor: Array, place: Array, prob: Array, features: Array, by_order: Array
) -> int:
    """Scores (when prob has entries) and then counts each token in turn; returns where it stopped for want of room.

    The order of the calls in the loop is the guarantee that no score has seen its own token; looking a block ahead
    before only warms the processor's caches."""
    none, none_f, none_o = np.empty(0, np.float64), np.empty((0, 0), np.float32), np.empty((0, 0), np.float64)
    for t in range(start, stop):
        if not has_room(state, state.settings[0]):
            return t
        if (t - start) % LOOK_AHEAD == 0 and stop - t >= LANES * 16:
            score_range(state, tokens, t, min(stop, t + LOOK_AHEAD), none, none_f, none_o)
        token = np.int64(tokens[t])
        touch(state, cursor, place, 0, token)
        resolve(state, cursor, place, 0, token)
        if len(prob):
            i = t - start
            prob[i] = target_probability(state, cursor, place, 0, token, by_order, i)
            if len(features):
                fill_features(state, cursor, 0, features, i)
        count_token(state, cursor, place, token)
        advance(state, cursor, place, 0, token)
    return stop


@njit(nogil=True, forceinline=True)
def fill_row(state: State, cursor: Array, unigram_row: Array, row: Array) -> None:
    """The whole distribution after the context at the cursor → row (V,) float64; see target_probability."""
    row[:] = unigram_row
    nodes, pool = state.nodes, state.pool
    for k in range(1, cursor[0, DEPTH] + 1):
        context = cursor[0, k]
        total = np.int64(nodes[context, TOTAL])
        if total == 0:
            continue
        scale = 1.0 / total
        row *= backoff(state, k + 1, context) * scale
        first = np.int64(nodes[context, FIRST])
        for i in range(first, first + (1 << np.int64(nodes[context, SIZE] >> 16))):
            if pool[i, TOKEN] != EMPTY:
                row[pool[i, TOKEN]] += kept_mass(state, k + 1, np.int64(pool[i, COUNT])) * scale


@njit(nogil=True)
def fill_unigram_row(state: State, row: Array) -> None:
    """Order 1 → row (V,) float64."""
    row[:] = 1.0 / state.settings[1]
    total = state.root[0, TOTAL]
    if total > 0:
        scale = 1.0 / total
        row *= root_backoff(state) * scale
        for w in range(len(row)):
            row[w] += kept_mass(state, 1, np.int64(state.unigrams[w])) * scale


@njit(nogil=True)
def fill_rows(state: State, histories: Array, rows: Array, features: Array) -> None:
    """Distributions after histories (P, H) uint16, PAD on the left → rows (P, V) or (0, V), features (P, F) or (0, F)."""
    cursor = np.zeros((1, DEPTH + 1), np.int64)
    place = np.empty((1, 2 * DEPTH), np.int64)
    unigram_row = np.empty(state.settings[1], np.float64)
    fill_unigram_row(state, unigram_row)
    width = histories.shape[1]
    for i in range(histories.shape[0]):
        low = 0
        while low < width and histories[i, low] == 65535:
            low += 1
        seek(state, histories[i, low:], width - low, cursor, place, False)
        if len(rows):
            fill_row(state, cursor, unigram_row, rows[i])
        if len(features):
            fill_features(state, cursor, 0, features, i)


@njit(nogil=True)
def pool_size(parents: Array) -> int:
    """Pool entries that the children of one order take; parents (M,) in rising order."""
    total, i = 0, 0
    while i < len(parents):
        start = i
        while i < len(parents) and parents[i] == parents[start]:
            i += 1
        total += 1 << log_capacity(i - start)
    return total


@njit(nogil=True)
def seed_order(state: State, tokens: Array, parents: Array, counts: Array, parent_base: int, own_base: int) -> bool:
    """Adds one order of a table, n ≥ 2, sorted by (parent, token); False when a context's total passes 2^32 - 1.

    own_base: node of the first of these n-grams, -1 at the top order."""
    nodes, pool = state.nodes, state.pool
    i = 0
    while i < len(tokens):
        start = i
        while i < len(tokens) and parents[i] == parents[start]:
            i += 1
        context, log = parent_base + np.int64(parents[start]), log_capacity(i - start)
        nodes[context, SIZE] = i - start
        _grow_block(state, context, log)
        first, total = np.int64(nodes[context, FIRST]), 0
        for j in range(start, i):
            count = np.int64(counts[j])
            at = free_entry(pool, first, log, np.int64(tokens[j]))
            pool[at, TOKEN], pool[at, COUNT], pool[at, NODE] = tokens[j], count, own_base + j if own_base >= 0 else 0
            total += count
            if count > 0:
                nodes[context, ONES + min(count, 3) - 1] += 1
        if total > U32_MAX:
            return False
        nodes[context, TOTAL] = total
    return True
