"""Numba kernels of the online cache: probabilities and features from the trie, and counting by update exclusion."""

from typing import NamedTuple

import numpy as np

from ngram.arrays import F32, F64, I64, U32_MAX, Array
from ngram.compiled import njit
from ngram.online import trie
from ngram.online.trie import CHILDREN, COUNT, DEPTH, EMPTY, FIRST, LOG, MORE, ONES, PRUNED, SIZE, SPARE, TOKEN, TOTAL, TWOS, State

BLOCKS, NODES, LISTS, SERIAL, FORMER, NEEDED = range(6)  # meta of RowParts


class RowParts(NamedTuple):
    """What n targets' distributions are made of, each before any of its block is counted: B blocks, K = order - 1, L lists, E entries.

    A distribution begins as its block's row of unigram (B, V).  Each context, the shortest first, multiplies it by its share (L,), which it leaves
    to shorter ones, and adds its children: cells (E,), list · V + token, and values (E,).  lists (K + 1, n): row k of contexts of k + 1 tokens, the
    last of blocks; list 0, with share 1, is empty.  starts (L + 1,): where lists begin.  begins (B,): first targets of the blocks.
    features (n, F) float32, or (0, F).  meta (6,): blocks that have begun, nodes that were there, lists, the cache's lists before these, -1: no two
    contexts share one, lists of earlier blocks, and entries needed.  float64 and int64."""

    lists: I64
    shares: F64
    starts: I64
    cells: I64
    values: F64
    unigram: F64
    begins: I64
    features: F32
    meta: I64


@njit(forceinline=True)
def backoff(state: State, contexts: Array, n: int, context: int) -> float:
    """Mass, in counts, that a seen context leaves to the shorter one; n: order of its children; contexts: the nodes, or the root."""
    d = state.discounts
    discounted = d[n - 1, 1] * contexts[context, ONES] + d[n - 1, 2] * contexts[context, TWOS] + d[n - 1, 3] * contexts[context, MORE]
    return discounted + contexts[context, PRUNED]


@njit(forceinline=True)
def kept_mass(state: State, n: int, count: int) -> float:
    """What is left of a count of order n after its discount."""
    return max(count - state.discounts[n - 1, min(count, 3)], 0.0)


@njit(forceinline=True)
def target_probability(state: State, cursor: Array, place: Array, token: int) -> float:
    """p(token | context at the cursor), whose places are resolved.

    The arithmetic is that of `fill_from_parts`, operation by operation, so both agree to the last bit."""
    p = 1.0 / state.settings[1]
    total = state.root[0, TOTAL]
    if total > 0:
        scale = 1.0 / total
        p = backoff(state, state.root, 1, 0) * scale * p
        p += kept_mass(state, 1, np.int64(state.unigrams[token])) * scale
    for k in range(1, cursor[DEPTH] + 1):
        context = cursor[k]
        total = np.int64(state.nodes[context, TOTAL])
        if total > 0:
            scale = 1.0 / total
            p = backoff(state, state.nodes, k + 1, context) * scale * p
            if place[k] >= 0:
                p += kept_mass(state, k + 1, np.int64(state.pool[place[k], COUNT])) * scale
    return p


@njit(forceinline=True)
def fill_features(state: State, cursor: Array, out: Array, i: int) -> None:
    """Features of the context (see cache.FEATURES) → row i of out (·, len(FEATURES)) float32."""
    nodes = state.nodes
    longest, below, sure, escape = 0, 0, 0, 1.0
    for k in range(1, cursor[DEPTH] + 1):
        context = cursor[k]
        if nodes[context, TOTAL] > 0:
            longest, below = k, longest
            sure += nodes[context, SIZE] & CHILDREN == 1
            if k > 1:
                escape *= backoff(state, nodes, k + 1, context) / nodes[context, TOTAL]
    out[i, 0], out[i, 7], out[i, 8] = longest, sure, -np.log(max(escape, 1e-9))
    for k, at in ((longest, 1), (below, 4)):
        out[i, at], out[i, at + 1], out[i, at + 2] = 0.0, 0.0, 1.0
        if k > 0:
            context = cursor[k]
            total = np.float64(nodes[context, TOTAL])
            out[i, at] = np.log1p(total)
            out[i, at + 1] = np.log1p(np.float64(nodes[context, SIZE] & CHILDREN))
            out[i, at + 2] = backoff(state, nodes, k + 1, context) / total


@njit(forceinline=True)
def _raise_total(nodes: Array, context: int, count: int) -> None:
    """Totals of a context one of whose children went from `count` to count + 1."""
    nodes[context, TOTAL] += 1
    if count < 3:
        nodes[context, ONES + count] += 1  # ones, twos, more
        if count > 0:
            nodes[context, ONES + count - 1] -= 1


@njit(forceinline=True)
def count_token(state: State, cursor: Array, place: Array, token: int) -> None:
    """Counts `token` after the context at the cursor: from the longest order down, to the first already seen.

    Kneser–Ney counts by update exclusion: a shorter n-gram gains a left neighbour exactly when the longer one is
    new.  A context whose total has reached 2^32 - 1 counts no further, so its row still sums to 1."""
    order = state.settings[0]
    nodes, pool = state.nodes, state.pool
    state.meta[trie.COUNTED] += 1
    for k in range(cursor[DEPTH], 0, -1):
        context = cursor[k]
        if place[k] < 0:
            place[k] = trie.insert(state, context, token, k == order - 1)
        count = np.int64(pool[place[k], COUNT])
        if nodes[context, TOTAL] < U32_MAX:
            pool[place[k], COUNT] = count + 1
            _raise_total(nodes, context, count)
        if count > 0:
            return
    if state.unigrams[token] < U32_MAX:
        _raise_total(state.root, 0, np.int64(state.unigrams[token]))
        state.unigrams[token] += 1


@njit
def fill_unigram_row(state: State, row: Array) -> None:
    """Order 1 → row (V,) float64."""
    total = state.root[0, TOTAL]
    scale = 1.0 / total if total > 0 else 0.0
    for w in range(len(row)):
        row[w] = 1.0 / len(row)
        if total > 0:
            row[w] = backoff(state, state.root, 1, 0) * scale * row[w] + kept_mass(state, 1, np.int64(state.unigrams[w])) * scale


@njit
def list_contexts(state: State, cursor: Array, t: int, i: int, parts: RowParts) -> bool:
    """Fills lists[:, i] for target t with what was there before any of its block was counted; False where there is no room.

    A context is listed where they first meet it: nothing was counted in it before.  One that they have made was not there, nor a longer one.
    Column SPARE of a node: the last list that was made of it, counted over all of the cache's."""
    nodes, pool, meta = state.nodes, state.pool, parts.meta
    while meta[BLOCKS] < len(parts.begins) and parts.begins[meta[BLOCKS]] <= t:
        fill_unigram_row(state, parts.unigram[meta[BLOCKS]])
        meta[BLOCKS], meta[NODES], meta[FORMER] = meta[BLOCKS] + 1, state.meta[trie.N_NODES], meta[LISTS]
    parts.lists[len(parts.lists) - 1, i] = meta[BLOCKS] - 1
    for k in range(1, cursor[DEPTH] + 1):
        context = cursor[k]
        if context >= meta[NODES]:
            break
        if parts.lists[k - 1, i] > 0:
            continue  # before room was made
        at = np.int64(nodes[context, SPARE]) - meta[SERIAL]
        if at <= meta[FORMER] or meta[SERIAL] < 0:
            at, first = meta[LISTS] + 1, np.int64(nodes[context, FIRST])
            to, end = parts.starts[at], first + (1 << np.int64(nodes[context, SIZE] >> LOG))
            meta[NEEDED] = to + end - first
            if meta[NEEDED] > len(parts.cells):
                return False
            total = np.int64(nodes[context, TOTAL])
            if total > 0:
                scale = 1.0 / total
                parts.shares[at] = backoff(state, nodes, k + 1, context) * scale
                for i_child in range(first, end):  # an unused entry is written over by the next: a branch that nobody can predict costs more
                    count, token = np.int64(pool[i_child, COUNT]), np.int64(pool[i_child, TOKEN])
                    parts.cells[to] = at * state.settings[1] + token
                    parts.values[to] = kept_mass(state, k + 1, count) * scale
                    to += token != EMPTY
            parts.starts[at + 1], meta[LISTS] = to, at
            if meta[SERIAL] >= 0:
                nodes[context, SPARE] = meta[SERIAL] + at
        parts.lists[k - 1, i] = at
    return True


@njit
def count_range(
    state: State, tokens: Array, start: int, known: int, stop: int, learn: bool, cursor: Array, place: Array, prob: Array, features: Array,
    parts: RowParts, asked: RowParts
) -> int:
    """Scores (when prob has entries) and then, with `learn`, counts each token in turn; returns where it stopped for want of room, -1 where what
    stands before `start` was not counted.  parts: of all targets; asked: of some, each a block.

    The order of the calls in the loop is the guarantee that no score has seen its own token.  Looks at no token from `known` on."""
    if cursor[DEPTH] < 0 and trie.seek(state, tokens, start, cursor, place) and learn:
        return -1
    one = np.searchsorted(asked.begins, start)
    for t in range(start, stop):
        if learn and not trie.has_room(state, state.settings[0]):
            return t
        if len(parts.lists) and not list_contexts(state, cursor, t, t - parts.begins[0], parts):
            return t
        if one < len(asked.begins) and asked.begins[one] == t:
            if not list_contexts(state, cursor, t, one, asked):
                return t
            fill_features(state, cursor, asked.features, one)
            one += 1
        if len(features):
            fill_features(state, cursor, features, t - start)
        if t >= known:
            break
        token = np.int64(tokens[t])
        trie.touch(state, cursor, place, token)
        trie.resolve(state, cursor, place, token)
        if len(prob):
            prob[t - start] = target_probability(state, cursor, place, token)
        if learn:
            count_token(state, cursor, place, token)
        trie.advance(state, cursor, place, token)
    return stop


@njit
def fill_from_parts(parts: RowParts, first: int, rows: Array) -> None:
    """The distributions of targets first, first + 1, … → rows (n, V); see RowParts."""
    size = rows.shape[1]
    for i in range(len(rows)):
        block = parts.lists[-1, first + i]
        for w in range(size):
            rows[i, w] = parts.unigram[block, w]
        for k in range(len(parts.lists) - 1):
            at = parts.lists[k, first + i]
            if at > 0:
                for w in range(size):
                    rows[i, w] *= parts.shares[at]
                for e in range(parts.starts[at], parts.starts[at + 1]):
                    rows[i, parts.cells[e] - at * size] += parts.values[e]
