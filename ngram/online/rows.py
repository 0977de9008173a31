"""Numba kernels of the online cache: whole distributions from the trie.

The arithmetic is that of kernels.target_probability, operation by operation, so a row and the score of a target agree to the last bit."""

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit
from ngram.online.kernels import LANES, backoff, fill_features, kept_mass, resolve_lanes, root_backoff
from ngram.online.trie import COUNT, DEPTH, FIRST, LOG, SIZE, TOKEN, TOTAL, State, advance


@njit(forceinline=True)
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
        for at in range(first, first + (1 << np.int64(nodes[context, SIZE] >> LOG))):
            count = np.int64(pool[at, COUNT])
            discount = more if count > 2 else two if count == 2 else one  # of a count of 0: nothing is kept either way
            row[min(np.int64(pool[at, TOKEN]), size)] += max(count - discount, 0.0) * scale


@njit
def fill_unigram_row(state: State, row: Array) -> None:
    """Order 1 → row (V,) float64."""
    total = state.root[0, TOTAL]
    scale = 1.0 / total if total > 0 else 0.0
    for w in range(len(row)):
        row[w] = 1.0 / len(row)
        if total > 0:
            row[w] = root_backoff(state) * scale * row[w] + kept_mass(state, 1, np.int64(state.unigrams[w])) * scale


@njit
def row_range(state: State, tokens: Array, start: int, stop: int, rows: Array, features: Array) -> None:
    """The distributions that tokens[start:stop] are drawn from → rows (n, V), features (n, F) or (0, F), with nothing changed.

    Looks at no token behind stop - 2.  Lanes walk equal parts side by side, as in `score_range`: a step of the walk a row instead of a whole history."""
    lanes = max(1, min(LANES, (stop - start) // 8))
    part = (stop - start + lanes - 1) // lanes
    cursor = np.zeros((lanes, DEPTH + 1), np.int64)
    place = np.empty((lanes, 2 * DEPTH), np.int64)
    unigram_row = np.empty(state.settings[1], np.float64)
    row = np.zeros(len(unigram_row) + 1)
    fill_unigram_row(state, unigram_row)
    for i in range(1 - state.settings[0], part):
        resolve_lanes(state, tokens, cursor, place, start, part, i, stop - 1)
        for g in range(lanes):
            t = start + g * part + i
            if 0 <= t < stop:
                if i >= 0:
                    fill_row(state, cursor, g, unigram_row, row)
                    for w in range(len(unigram_row)):
                        rows[t - start, w] = row[w]
                    if len(features):
                        fill_features(state, cursor, g, features, t - start)
                if t < stop - 1:
                    advance(state, cursor, place, g, np.int64(tokens[t]))
