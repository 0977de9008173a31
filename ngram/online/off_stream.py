"""Numba kernels for what a cache that moves along one stream does not need: rows after given histories, and contexts that were skipped."""

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit
from ngram.online.kernels import backoff, fill_features, fill_unigram_row
from ngram.online.trie import COUNT, DEPTH, FIRST, LOG, SIZE, TOKEN, TOTAL, State, advance, insert, resolve, touch

LANES = 16  # walks side by side: each waits for memory, but not for the others; 4 and 8 were slower when measured


@njit
def seek_making(state: State, tokens: Array, start: int, cursor: Array, place: Array) -> None:
    """As `seek`, and adds missing contexts with count 0, for updates that skip positions; the caller has made room."""
    order, bos = state.settings[0], state.settings[2]
    cursor[DEPTH] = 0
    for t in range(max(0, start - order + 1), start):
        token = np.int64(tokens[t])
        touch(state, cursor, place, token)
        resolve(state, cursor, place, token)
        for k in range(1, min(cursor[DEPTH], order - 2) + 1):
            if place[k] < 0 and token != bos:
                place[k] = insert(state, cursor[k], token, False)
        advance(state, cursor, place, token)


@njit(forceinline=True)
def fill_row(state: State, cursor: Array, unigram_row: Array, row: Array) -> None:
    """The whole distribution after the context at the cursor → row (V + 1,) float64; see target_probability.

    Unused entries of a block add their 0 to the last place: a branch that nobody can predict costs more."""
    nodes, pool, d = state.nodes, state.pool, state.discounts
    size = len(unigram_row)
    for w in range(size):
        row[w] = unigram_row[w]
    for k in range(1, cursor[DEPTH] + 1):
        context = cursor[k]
        total = np.int64(nodes[context, TOTAL])
        if total == 0:
            continue
        scale = 1.0 / total
        share = backoff(state, nodes, k + 1, context) * scale
        for w in range(size):
            row[w] *= share
        one, two, more = d[k, 1], d[k, 2], d[k, 3]
        first = np.int64(nodes[context, FIRST])
        for at in range(first, first + (1 << np.int64(nodes[context, SIZE] >> LOG))):
            count = np.int64(pool[at, COUNT])
            discount = more if count > 2 else two if count == 2 else one  # of a count of 0: nothing is kept either way
            row[min(np.int64(pool[at, TOKEN]), size)] += max(count - discount, 0.0) * scale


@njit
def fill_rows(state: State, histories: Array, rows: Array, features: Array) -> None:
    """Distributions after histories (P, H), PAD on the left → rows (P, V) or (0, V), features (P, F) or (0, F).

    A row depends on its own history alone."""
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
                if histories[begin + g, j] < len(unigram_row):
                    touch(state, cursor[g], place[g], np.int64(histories[begin + g, j]))
            for g in range(lanes):
                if histories[begin + g, j] < len(unigram_row):
                    resolve(state, cursor[g], place[g], np.int64(histories[begin + g, j]))
                    advance(state, cursor[g], place[g], np.int64(histories[begin + g, j]))
        for g in range(lanes):
            if len(rows):
                fill_row(state, cursor[g], unigram_row, row)
                for w in range(len(unigram_row)):
                    rows[begin + g, w] = row[w]
            if len(features):
                fill_features(state, cursor[g], features, begin + g)
