# mypy: disable-error-code="arg-type,assignment,return-value,index,attr-defined,operator"
"""Numba kernels of the online cache: probabilities, features and rows from the trie, and counting by update exclusion."""

import numpy as np
from numba import njit

from ngram.table import PAD
from ngram.trie import (
    COUNT,
    COUNTED,
    DEPTH,
    FIRST,
    MORE,
    ONES,
    PRUNED,
    SIZE,
    TOKEN,
    TOTAL,
    TWOS,
    U32_MAX,
    Array,
    State,
    advance,
    has_room,
    insert,
    resolve,
    seek,
    seek_making,
    touch,
)

LANES = 16  # walks side by side; 4 and 8 were slower when measured
LOOK_AHEAD = 1024  # tokens whose nodes stay in a 1 MB cache


@njit(nogil=True, error_model="numpy", forceinline=True)
def backoff(state: State, n: int, context: int) -> float:
    """Mass, in counts, that a seen context leaves to the shorter one; n: order of its children."""
    nodes, d = state.nodes, state.discounts
    discounted = d[n - 1, 1] * nodes[context, ONES] + d[n - 1, 2] * nodes[context, TWOS] + d[n - 1, 3] * nodes[context, MORE]
    return discounted + nodes[context, PRUNED]


@njit(nogil=True, error_model="numpy", forceinline=True)
def root_backoff(state: State) -> float:
    """The same for order 1."""
    root, d = state.root, state.discounts
    return d[0, 1] * root[0, ONES] + d[0, 2] * root[0, TWOS] + d[0, 3] * root[0, MORE] + root[0, PRUNED]


@njit(nogil=True, error_model="numpy", forceinline=True)
def kept_mass(state: State, n: int, count: int) -> float:
    """What is left of a count of order n after its discount."""
    return max(count - state.discounts[n - 1, min(count, 3)], 0.0)


@njit(nogil=True, error_model="numpy", forceinline=True)
def target_probability(state: State, cursor: Array, place: Array, g: int, token: int, by_order: Array, i: int) -> float:
    """p(token | context); row i of by_order (·, order + 1), if it has any, receives p with orders up to 0, 1, ….

    The arithmetic is that of `fill_row`, operation by operation, so both agree to the last bit."""
    p = 1.0 / state.settings[1]
    wanted = len(by_order) > 0
    if wanted:
        by_order[i, 0] = p
    total = state.root[0, TOTAL]
    if total > 0:
        scale = 1.0 / total
        p = root_backoff(state) * scale * p
        p += kept_mass(state, 1, np.int64(state.unigrams[token])) * scale
    if wanted:
        for n in range(1, by_order.shape[1]):
            by_order[i, n] = p
    for k in range(1, cursor[g, DEPTH] + 1):
        context = cursor[g, k]
        total = np.int64(state.nodes[context, TOTAL])
        if total > 0:
            scale = 1.0 / total
            p = backoff(state, k + 1, context) * scale * p
            if place[g, k] >= 0:
                p += kept_mass(state, k + 1, np.int64(state.pool[place[g, k], COUNT])) * scale
        if wanted:
            for n in range(k + 1, by_order.shape[1]):
                by_order[i, n] = p
    return p


@njit(nogil=True, error_model="numpy", forceinline=True)
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


@njit(nogil=True, error_model="numpy", forceinline=True)
def resolve_lanes(state: State, tokens: Array, cursor: Array, place: Array, start: int, part: int, i: int, stop: int) -> None:
    """Touches, then resolves the i-th token of every lane that has one: lane g walks the part that begins at start + g · part."""
    for g in range(len(cursor)):
        t = start + g * part + i
        if 0 <= t < stop:
            touch(state, cursor, place, g, np.int64(tokens[t]))
    for g in range(len(cursor)):
        t = start + g * part + i
        if 0 <= t < stop:
            resolve(state, cursor, place, g, np.int64(tokens[t]))


@njit(nogil=True, error_model="numpy")
def score_range(state: State, tokens: Array, start: int, stop: int, prob: Array, features: Array, by_order: Array) -> None:
    """Probabilities of tokens[start:stop] with nothing changed.  features and by_order have as many rows as prob or none.

    Lanes walk equal parts side by side: each token of a walk waits for memory, the walks do not wait for each other.
    A lane starts order-1 tokens early, with no context, and has the right one when its part begins."""
    order = state.settings[0]
    lanes = LANES if stop - start >= LANES * 16 else 1
    part = (stop - start + lanes - 1) // lanes
    cursor = np.zeros((lanes, DEPTH + 1), np.int64)
    place = np.empty((lanes, 2 * DEPTH), np.int64)
    for i in range(1 - order, part):
        resolve_lanes(state, tokens, cursor, place, start, part, i, stop)
        for g in range(lanes):
            t = start + g * part + i
            if 0 <= t < stop:
                token = np.int64(tokens[t])
                if i >= 0:
                    prob[t - start] = target_probability(state, cursor, place, g, token, by_order, t - start)
                    if len(features):
                        fill_features(state, cursor, g, features, t - start)
                advance(state, cursor, place, g, token)


@njit(nogil=True, error_model="numpy")
def look_ahead(state: State, tokens: Array, start: int, stop: int) -> None:
    """The walk of `score_range` without scores: what these tokens need comes into the processor's caches."""
    part = (stop - start + LANES - 1) // LANES
    cursor = np.zeros((LANES, DEPTH + 1), np.int64)
    place = np.empty((LANES, 2 * DEPTH), np.int64)
    for i in range(1 - state.settings[0], part):
        resolve_lanes(state, tokens, cursor, place, start, part, i, stop)
        for g in range(LANES):
            t = start + g * part + i
            if 0 <= t < stop:
                advance(state, cursor, place, g, np.int64(tokens[t]))


@njit(nogil=True, error_model="numpy", forceinline=True)
def _raise_total(nodes: Array, context: int, count: int) -> None:
    """Totals of a context one of whose children went from `count` to count + 1."""
    nodes[context, TOTAL] += 1
    if count < 3:
        nodes[context, ONES + count] += 1  # ones, twos, more
        if count > 0:
            nodes[context, ONES + count - 1] -= 1


@njit(nogil=True, error_model="numpy", forceinline=True)
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


@njit(nogil=True, error_model="numpy")
def count_range(
    state: State, tokens: Array, start: int, stop: int, cursor: Array, place: Array, prob: Array, features: Array, by_order: Array
) -> int:
    """Scores (when prob has entries) and then counts each token in turn; returns where it stopped for want of room.

    The order of the calls in the loop is the guarantee that no score has seen its own token; looking a block ahead
    before only warms the processor's caches."""
    for t in range(start, stop):
        if not has_room(state, state.settings[0]):
            return t
        if (t - start) % LOOK_AHEAD == 0 and stop - t >= LANES * 16:
            look_ahead(state, tokens, t, min(stop, t + LOOK_AHEAD))
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


@njit(nogil=True, error_model="numpy")
def count_column(state: State, streams_ST: Array, rows: Array, at: int, column: int, cursor: Array, place: Array) -> int:
    """Counts the token in `column` of streams rows[at], rows[at + 1], … in turn, each after all before it; column ≥ 1.

    The same as `count_range` over [column, column + 1) of one stream after another.  Returns the index in `rows` where it
    stopped for want of room."""
    order = state.settings[0]
    for i in range(at, len(rows)):
        if not has_room(state, order * order + order):
            return i
        tokens = streams_ST[rows[i]]
        if seek(state, tokens, column, cursor, place):
            seek_making(state, tokens, column, cursor, place)
        token = np.int64(tokens[column])
        touch(state, cursor, place, 0, token)
        resolve(state, cursor, place, 0, token)
        count_token(state, cursor, place, token)
    return len(rows)


@njit(nogil=True, error_model="numpy", forceinline=True)
def fill_row(state: State, cursor: Array, g: int, unigram_row: Array, row: Array) -> None:
    """The whole distribution after lane g's context → row (V + 1,) float64; see target_probability.

    Unused entries of a block add their 0 to the last place: a branch that nobody can predict costs more."""
    nodes, pool, d = state.nodes, state.pool, state.discounts
    size = len(unigram_row)
    for w in range(size):
        row[w] = unigram_row[w]
    for k in range(1, cursor[g, DEPTH] + 1):
        context = cursor[g, k]
        total = np.int64(nodes[context, TOTAL])
        if total == 0:
            continue
        scale = 1.0 / total
        share = backoff(state, k + 1, context) * scale
        for w in range(size):
            row[w] *= share
        one, two, more = d[k, 1], d[k, 2], d[k, 3]
        first = np.int64(nodes[context, FIRST])
        for at in range(first, first + (1 << np.int64(nodes[context, SIZE] >> 16))):
            count = np.int64(pool[at, COUNT])
            discount = more if count > 2 else two if count == 2 else one  # of a count of 0: nothing is kept either way
            row[min(np.int64(pool[at, TOKEN]), size)] += max(count - discount, 0.0) * scale


@njit(nogil=True, error_model="numpy")
def fill_unigram_row(state: State, row: Array) -> None:
    """Order 1 → row (V,) float64."""
    total = state.root[0, TOTAL]
    scale = 1.0 / total if total > 0 else 0.0
    for w in range(len(row)):
        row[w] = 1.0 / len(row)
        if total > 0:
            row[w] = root_backoff(state) * scale * row[w] + kept_mass(state, 1, np.int64(state.unigrams[w])) * scale


@njit(nogil=True, error_model="numpy")
def row_range(state: State, tokens: Array, start: int, stop: int, rows: Array) -> None:
    """The distributions that tokens[start:stop] are drawn from → rows (n, V), with nothing changed.

    Lanes walk equal parts side by side, as in `score_range`: a step of the walk a row instead of a whole history."""
    lanes = max(1, min(LANES, (stop - start) // 8))
    part = (stop - start + lanes - 1) // lanes
    cursor = np.zeros((lanes, DEPTH + 1), np.int64)
    place = np.empty((lanes, 2 * DEPTH), np.int64)
    unigram_row = np.empty(state.settings[1], np.float64)
    row = np.zeros(len(unigram_row) + 1)
    fill_unigram_row(state, unigram_row)
    for i in range(1 - state.settings[0], part):
        resolve_lanes(state, tokens, cursor, place, start, part, i, stop)
        for g in range(lanes):
            t = start + g * part + i
            if 0 <= t < stop:
                if i >= 0:
                    fill_row(state, cursor, g, unigram_row, row)
                    for w in range(len(unigram_row)):
                        rows[t - start, w] = row[w]
                advance(state, cursor, place, g, np.int64(tokens[t]))


@njit(nogil=True, error_model="numpy")
def fill_rows(state: State, histories: Array, rows: Array, features: Array) -> None:
    """Distributions after histories (P, H) uint16, PAD on the left → rows (P, V) or (0, V), features (P, F) or (0, F).

    A row depends on its own history alone; lanes only wait for memory side by side, as in `score_range`."""
    cursor = np.zeros((LANES, DEPTH + 1), np.int64)
    place = np.empty((LANES, 2 * DEPTH), np.int64)
    unigram_row = np.empty(state.settings[1], np.float64)
    row = np.zeros(len(unigram_row) + 1)
    fill_unigram_row(state, unigram_row)
    for begin in range(0, histories.shape[0], LANES):
        lanes = min(LANES, histories.shape[0] - begin)
        for g in range(lanes):
            cursor[g, DEPTH] = 0
        for j in range(histories.shape[1]):
            for g in range(lanes):
                if histories[begin + g, j] != PAD:
                    touch(state, cursor, place, g, np.int64(histories[begin + g, j]))
            for g in range(lanes):
                if histories[begin + g, j] != PAD:
                    resolve(state, cursor, place, g, np.int64(histories[begin + g, j]))
                    advance(state, cursor, place, g, np.int64(histories[begin + g, j]))
        for g in range(lanes):
            if len(rows):
                fill_row(state, cursor, g, unigram_row, row)
                for w in range(len(unigram_row)):
                    rows[begin + g, w] = row[w]
            if len(features):
                fill_features(state, cursor, g, features, begin + g)
