"""Numba kernels that put the n-grams of a table into an empty trie, one order after the other."""

import numpy as np

from ngram.arrays import U32_MAX, Array
from ngram.compiled import njit
from ngram.online.trie import COUNT, EMPTY, FIRST, NODE, ONES, SIZE, TOKEN, TOTAL, State, find, grow_block, log_capacity


@njit
def pool_size(parents: Array) -> int:
    """Pool entries that the children of one order take; parents (M,) in rising order."""
    total, i = 0, 0
    while i < len(parents):
        start = i
        while i < len(parents) and parents[i] == parents[start]:
            i += 1
        total += 1 << log_capacity(i - start, 0)
    return total


@njit
def seed_order(state: State, tokens: Array, parents: Array, counts: Array, parent_base: int, own_base: int) -> bool:
    """Adds one order of a table, n ≥ 2, sorted by (parent, token); False when a context's total passes 2^32 - 1.

    own_base: node of the first of these n-grams, -1 at the top order."""
    nodes, pool = state.nodes, state.pool
    i = 0
    while i < len(tokens):
        start = i
        while i < len(tokens) and parents[i] == parents[start]:
            i += 1
        context, log = parent_base + np.int64(parents[start]), log_capacity(i - start, 0)
        nodes[context, SIZE] = i - start
        grow_block(state, context, log)
        first, total = np.int64(nodes[context, FIRST]), 0
        for j in range(start, i):
            count = np.int64(counts[j])
            at = find(pool, first, log, np.int64(tokens[j]), EMPTY)
            pool[at, TOKEN], pool[at, COUNT], pool[at, NODE] = tokens[j], count, own_base + j if own_base >= 0 else 0
            total += count
            if count > 0:
                nodes[context, ONES + min(count, 3) - 1] += 1
        if total > U32_MAX:
            return False
        nodes[context, TOTAL] = total
    return True
