# mypy: disable-error-code="arg-type,assignment,return-value,index,attr-defined"
"""Numba kernels of the online cache: find, score, count, full rows.

The trie lives in a few flat arrays (`State`).  A child is found through one open-addressing table keyed exactly by
(context node, token), so the probes of one token at all orders are independent and their cache misses overlap;
the node of (context of k tokens, w) is the context of k+1 tokens of the next position, so the same probes also advance.
The children of a context also lie side by side in `pool`, from which full rows are read.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import config, njit

Array = Any  # kernels are typed by numba, not by the checker

TOTAL, ONES, TWOS, MORE, PRUNED, FIRST, SIZE, POSITION = range(8)  # columns of a node record: 32 bytes, half a cache line
N_NODES, N_SLOTS, POOL_USED, COUNTED, FREE = range(5)  # meta; from FREE on: heads of the lists of free blocks, by log2
META_SIZE = FREE + 17
DEPTH = 9  # cursor[g, k] is the node of lane g's context of k tokens; cursor[g, DEPTH] how many there are
LANES = 8  # walks side by side; 8 × 9 misses in flight are about what a core can hold
LOOK_AHEAD = 1024  # tokens whose nodes stay in a 1 MB cache
U32_MAX = (1 << 32) - 1
N_FEATURES = 9
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)


class State(NamedTuple):
    """Everything the kernels touch.

    slots (2·S,) int64: key or 0, then id·2^32 + count.  key = (context + 1)·2^16 + token.  Below the top order id is
    the child's node, at the top order (which has no node) its position in the context's block.
    nodes (cap, 8) uint32: total, children with count 1, 2, 3+, pruned mass, first pool index, size + 2^16·capacity,
    position in the parent's block.  Nodes 0…V-1 are the unigrams.
    pool_tokens (cap,) uint16, pool_counts (cap,) uint32: blocks of children.
    unigrams (V,) uint32: counts of order 1;  root (1, 5) int64: total, ones, twos, more, pruned of order 1.
    meta (META_SIZE,) int64;  discounts (order, 4) float64, column min(count, 3);  settings (4,) int64: order,
    vocabulary, bos, 64 - log2 S."""

    slots: Array
    nodes: Array
    pool_tokens: Array
    pool_counts: Array
    unigrams: Array
    root: Array
    meta: Array
    discounts: Array
    settings: Array


if config.DISABLE_JIT:  # plain integers: NumPy's would warn about the overflow that is wanted here

    def home_slot(key: int, shift: int) -> int:
        return int((int(key) * _MULTIPLIER & (1 << 64) - 1) >> int(shift))

else:
    _FACTOR = np.uint64(_MULTIPLIER)

    @njit(nogil=True, forceinline=True)
    def home_slot(key: int, shift: int) -> int:
        return np.int64((np.uint64(key) * _FACTOR) >> np.uint64(shift))


@njit(nogil=True, forceinline=True)
def find(slots: Array, key: int, i: int) -> int:
    """Index into `slots` of the key, or -1 - index of the free slot where it belongs.  i: its home slot."""
    mask = (len(slots) >> 1) - 1
    while True:
        found = slots[2 * i]
        if found == key:
            return 2 * i
        if found == 0:
            return -1 - 2 * i
        i = (i + 1) & mask


@njit(nogil=True, forceinline=True)
def touch(state: State, cursor: Array, place: Array, g: int, token: int) -> None:
    """Loads, with no branch behind the loads, all that lane g needs for `token`: so the cache misses overlap.

    Leaves home slots in place[g, DEPTH + k], the key found there in place[g, k]."""
    slots, nodes, shift = state.slots, state.nodes, state.settings[3]
    for k in range(1, cursor[g, DEPTH] + 1):
        home = home_slot(((cursor[g, k] + 1) << 16) | token, shift)
        place[g, DEPTH + k] = home
        place[g, k] = slots[2 * home]
        place[g, 2 * DEPTH + k] = nodes[cursor[g, k], TOTAL]


@njit(nogil=True, forceinline=True)
def resolve(state: State, cursor: Array, place: Array, g: int, token: int) -> None:
    """After `touch`: place[g, k] = where (context of k tokens, token) is or belongs, for all contexts at hand."""
    for k in range(1, cursor[g, DEPTH] + 1):
        key = ((cursor[g, k] + 1) << 16) | token
        home = place[g, DEPTH + k]
        place[g, k] = 2 * home if place[g, k] == key else find(state.slots, key, home)


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
            cursor[g, k] = state.slots[place[g, k - 1] + 1] >> 32
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
                p += kept_mass(state, k + 1, state.slots[place[g, k] + 1] & U32_MAX) * scale
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
                    place[0, k] = insert(state, cursor[0, k], token, 0, False)
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
    place = np.empty((lanes, 3 * DEPTH), np.int64)
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
    """Whether so many children can be added: slots at most 5/8 full, nodes, and pool for as many moved blocks."""
    meta = state.meta
    widest = 2 * min(state.settings[1], 65535)
    return (
        meta[N_SLOTS] + inserts <= (len(state.slots) >> 4) * 5
        and meta[N_NODES] + inserts <= len(state.nodes)
        and meta[POOL_USED] + inserts * widest <= len(state.pool_tokens)
    )


@njit(nogil=True, forceinline=True)
def _block_of(state: State, capacity: int) -> int:
    """First pool index of a free block of that capacity: an old one where there is one, else new."""
    meta = state.meta
    rank = 0
    while (1 << rank) < capacity:
        rank += 1
    head = meta[FREE + rank]
    if head >= 0 and (1 << rank) == capacity:
        meta[FREE + rank] = np.int64(state.pool_counts[head]) - 1
        return head
    meta[POOL_USED] += capacity
    return meta[POOL_USED] - capacity


@njit(nogil=True, forceinline=True)
def _add_child(state: State, context: int, token: int, count: int) -> int:
    """Appends a child to the context's block, moving the block when it is full; returns the child's position."""
    nodes, pool_tokens, pool_counts, meta = state.nodes, state.pool_tokens, state.pool_counts, state.meta
    first = np.int64(nodes[context, FIRST])
    size, capacity = np.int64(nodes[context, SIZE] & 0xFFFF), np.int64(nodes[context, SIZE] >> 16)
    if size == capacity:
        wider = 1
        while wider <= size:
            wider *= 2
        wider = min(wider, 65535)
        fresh = _block_of(state, wider)
        for j in range(size):
            pool_tokens[fresh + j] = pool_tokens[first + j]
            pool_counts[fresh + j] = pool_counts[first + j]
        for j in range(fresh + size + 1, fresh + wider):  # the digest covers all of the pool
            pool_tokens[j], pool_counts[j] = 0, 0
        rank = 0
        while (1 << rank) < capacity:
            rank += 1
        if capacity > 0 and (1 << rank) == capacity:
            pool_counts[first] = meta[FREE + rank] + 1
            meta[FREE + rank] = first
        first, capacity = fresh, wider
        nodes[context, FIRST] = first
    pool_tokens[first + size] = token
    pool_counts[first + size] = count
    nodes[context, SIZE] = (size + 1) | (capacity << 16)
    return size


@njit(nogil=True, forceinline=True)
def insert(state: State, context: int, token: int, count: int, top: bool) -> int:
    """Adds a child that is not there; returns its index into slots.  The context's totals are the caller's."""
    meta = state.meta
    position = _add_child(state, context, token, count)
    if top:
        name = position
    else:
        name = meta[N_NODES]
        meta[N_NODES] += 1
        state.nodes[name, :] = 0
        state.nodes[name, POSITION] = position
    key = ((context + 1) << 16) | token
    where = -1 - find(state.slots, key, home_slot(key, state.settings[3]))
    state.slots[where] = key
    state.slots[where + 1] = (name << 32) | count
    meta[N_SLOTS] += 1
    return where


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
    nodes, slots = state.nodes, state.slots
    state.meta[COUNTED] += 1
    for k in range(cursor[0, DEPTH], 0, -1):
        context = cursor[0, k]
        top = k == order - 1
        if place[0, k] < 0:
            place[0, k] = insert(state, context, token, 0, top)
        word = slots[place[0, k] + 1]
        count, name = word & U32_MAX, word >> 32
        if nodes[context, TOTAL] < U32_MAX:
            slots[place[0, k] + 1] = word + 1
            position = name if top else np.int64(nodes[name, POSITION])
            state.pool_counts[np.int64(nodes[context, FIRST]) + position] = count + 1
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
    nodes, pool_tokens, pool_counts = state.nodes, state.pool_tokens, state.pool_counts
    for k in range(1, cursor[0, DEPTH] + 1):
        context = cursor[0, k]
        total = np.int64(nodes[context, TOTAL])
        if total == 0:
            continue
        scale = 1.0 / total
        row *= backoff(state, k + 1, context) * scale
        first = np.int64(nodes[context, FIRST])
        for j in range(first, first + np.int64(nodes[context, SIZE] & 0xFFFF)):
            row[pool_tokens[j]] += kept_mass(state, k + 1, np.int64(pool_counts[j])) * scale


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
    place = np.empty((1, 3 * DEPTH), np.int64)
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
def seed_order(state: State, n: int, tokens: Array, parents: Array, counts: Array, parent_base: int, own_base: int, top: bool) -> bool:
    """Adds one order of a table, n ≥ 2, sorted by (parent, token); False when a context's total passes 2^32 - 1."""
    nodes, meta = state.nodes, state.meta
    shift = state.settings[3]
    first_row, base = 0, meta[POOL_USED]
    for i in range(len(tokens)):
        context = parent_base + np.int64(parents[i])
        if i == 0 or parents[i] != parents[i - 1]:
            first_row = i
            nodes[context, FIRST] = base + i
        position, count = i - first_row, np.int64(counts[i])
        state.pool_tokens[base + i] = tokens[i]
        state.pool_counts[base + i] = count
        nodes[context, SIZE] = (position + 1) * 65537  # size = capacity
        total = np.int64(nodes[context, TOTAL]) + count
        if total > U32_MAX:
            return False
        nodes[context, TOTAL] = total
        if count > 0:
            nodes[context, ONES if count == 1 else (TWOS if count == 2 else MORE)] += 1
        name = position
        if not top:
            name = own_base + i
            nodes[name, POSITION] = position
        key = ((context + 1) << 16) | np.int64(tokens[i])
        where = -1 - find(state.slots, key, home_slot(key, shift))
        state.slots[where] = key
        state.slots[where + 1] = (name << 32) | count
    meta[POOL_USED] += len(tokens)
    meta[N_SLOTS] += len(tokens)
    return True


@njit(nogil=True)
def rehash(old: Array, new: Array, shift: int) -> None:
    """Moves all entries of a slot table into a larger, empty one."""
    for i in range(0, len(old), 2):
        if old[i] != 0:
            where = -1 - find(new, old[i], home_slot(old[i], shift))
            new[where] = old[i]
            new[where + 1] = old[i + 1]
