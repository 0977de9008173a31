"""Numba kernels of the online cache: whole distributions from the trie.

The arithmetic is that of kernels.target_probability, operation by operation, so a row and the score of a target agree to the last bit."""

from typing import NamedTuple

import numpy as np

from ngram.arrays import F64, I64, Array
from ngram.compiled import njit
from ngram.online.kernels import LANES, backoff, fill_features, kept_mass, resolve_lanes, root_backoff
from ngram.online.trie import CHILDREN, COUNT, DEPTH, EMPTY, FIRST, LOG, SIZE, TOKEN, TOTAL, State, advance, home


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


class RowParts(NamedTuple):
    """The distributions of n targets, as what they are made of: K = order - 1 context lengths, L lists, E entries.

    A row begins as unigram (V,) float64.  Each context, the shortest first, multiplies it by shares (K, n) float64, which it leaves to shorter
    ones, and adds values (E,) float64 to the entries tokens (E,) int32 of its list: lists (K, n) int64, 0 for the empty one, where there is no
    context.  starts (L + 1,) int64: where lists begin; the last entry of each is spare."""

    unigram: F64
    shares: F64
    lists: I64
    starts: I64
    tokens: Array
    values: F64


@njit
def find_contexts(state: State, tokens: Array, start: int, stop: int, parts: tuple[Array, ...], contexts: Array, features: Array) -> int:
    """Fills shares, lists and starts, node and length (L, 2) of each list's context, and features (n, F) or (0, F).  Returns L.

    Looks at no token behind stop - 2.  Lanes walk equal parts, as in `score_range`."""
    shares, lists, starts = parts
    shares[:], lists[:] = 1.0, 0
    lanes = max(1, min(LANES, (stop - start) // 8))
    part = (stop - start + lanes - 1) // lanes
    cursor = np.zeros((lanes, DEPTH + 1), np.int64)
    place = np.empty((lanes, 2 * DEPTH), np.int64)
    log, found = 4, 1
    while (1 << log) < 2 * len(contexts):
        log += 1
    known = np.zeros(1 << log, np.int64)  # lists by the hash of their context's node
    starts[0], starts[1] = 0, 1
    for i in range(1 - state.settings[0], part):
        resolve_lanes(state, tokens, cursor, place, start, part, i, stop - 1)
        for g in range(lanes):
            t = start + g * part + i
            if not 0 <= t < stop:
                continue
            for k in range(1, cursor[g, DEPTH] + 1 if i >= 0 else 0):
                context = cursor[g, k]
                total = np.int64(state.nodes[context, TOTAL])
                if total == 0:
                    continue
                shares[k - 1, t - start] = backoff(state, k + 1, context) * (1.0 / total)
                at = home(context, log)
                while known[at] > 0 and contexts[known[at], 0] != context:
                    at = (at + 1) & ((1 << log) - 1)
                if known[at] == 0:
                    known[at], contexts[found, 0], contexts[found, 1] = found, context, k
                    starts[found + 1] = starts[found] + np.int64(state.nodes[context, SIZE] & CHILDREN) + 1
                    found += 1
                lists[k - 1, t - start] = known[at]
            if i >= 0 and len(features):
                fill_features(state, cursor, g, features, t - start)
            if t < stop - 1:
                advance(state, cursor, place, g, np.int64(tokens[t]))
    return found


@njit
def fill_lists(state: State, contexts: Array, starts: Array, begin: int, end: int, tokens: Array, values: Array) -> None:
    """The children of contexts begin … end-1; unused entries of a block are written over, see `fill_row`."""
    nodes, pool, d = state.nodes, state.pool, state.discounts
    for i in range(begin, end):
        context, k, to = contexts[i, 0], contexts[i, 1], starts[i]
        scale, first = 1.0 / np.int64(nodes[context, TOTAL]), np.int64(nodes[context, FIRST])
        one, two, more = d[k, 1], d[k, 2], d[k, 3]
        for at in range(first, first + (1 << np.int64(nodes[context, SIZE] >> LOG))):
            count = np.int64(pool[at, COUNT])
            tokens[to] = pool[at, TOKEN] & np.uint32(0x7FFFFFFF)  # EMPTY must fit, too
            values[to] = max(count - (more if count > 2 else two if count == 2 else one), 0.0) * scale
            to += pool[at, TOKEN] != EMPTY


@njit
def fill_from_parts(parts: RowParts, begin: int, end: int, rows: Array) -> None:
    """Rows begin … end-1 → rows (end - begin, V) float64."""
    for i in range(begin, end):
        row = rows[i - begin]
        row[:] = parts.unigram
        for k in range(len(parts.lists)):
            at = parts.lists[k, i]
            if at > 0:
                share = parts.shares[k, i]
                for w in range(len(row)):
                    row[w] *= share
                for e in range(parts.starts[at], parts.starts[at + 1] - 1):
                    row[parts.tokens[e]] += parts.values[e]
