"""Numba kernels of the online cache: whole distributions from the trie.

The arithmetic is that of kernels.target_probability, operation by operation, so a row and the score of a target agree to the last bit."""

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit
from ngram.online.kernels import RowParts, backoff, fill_features, kept_mass, root_backoff
from ngram.online.trie import COUNT, DEPTH, FIRST, LOG, SIZE, TOKEN, TOTAL, State, seek, step


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

    Looks at no token behind stop - 2."""
    cursor, place = np.zeros((1, DEPTH + 1), np.int64), np.empty((1, 2 * DEPTH), np.int64)
    unigram_row = np.empty(state.settings[1], np.float64)
    row = np.zeros(len(unigram_row) + 1)
    fill_unigram_row(state, unigram_row)
    seek(state, tokens, start, cursor, place)
    for t in range(start, stop):
        fill_row(state, cursor, 0, unigram_row, row)
        for w in range(len(unigram_row)):
            rows[t - start, w] = row[w]
        if len(features):
            fill_features(state, cursor, 0, features, t - start)
        if t < stop - 1:
            step(state, cursor, place, np.int64(tokens[t]))


@njit
def fill_from_parts(parts: RowParts, first: int, rows: Array) -> None:
    """The distributions of targets first, first + 1, … of the block → rows (n, V); the same additions as in `fill_row`."""
    size = len(parts.unigram)
    for i in range(len(rows)):
        for w in range(size):
            rows[i, w] = parts.unigram[w]
        for k in range(len(parts.lists)):
            at = parts.lists[k, first + i]
            if at > 0:
                for w in range(size):
                    rows[i, w] *= parts.shares[at]
                for e in range(parts.starts[at], parts.starts[at + 1]):
                    rows[i, parts.cells[e] - at * size] += parts.values[e]
