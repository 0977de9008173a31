"""Whole distributions as their parts: what a device needs to build the rows of many contexts by itself.

A row is made order by order: what the shorter contexts say, times the share that the context leaves to them, plus what it adds for
each of its children.  Contexts repeat among neighbouring targets, so their children are listed once.

Shapes: n targets, K context lengths (order - 1), L lists, E entries of all lists, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ngram.arrays import F64, I64, Array, Tokens
from ngram.compiled import njit
from ngram.online.kernels import LANES, backoff, resolve_lanes
from ngram.online.rows import fill_unigram_row
from ngram.online.stream_cache import StreamCache
from ngram.online.trie import CHILDREN, COUNT, DEPTH, EMPTY, FIRST, LOG, SIZE, TOKEN, TOTAL, State, advance, home
from ngram.threads import COUNT as THREADS
from ngram.threads import each

LISTS = 256  # that are worth a thread
MOST_THREADS = 4


class SparseRows(NamedTuple):
    """The distributions of consecutive targets; `kernels.target_probability` says how they follow from it.

    unigram (V,) float64: the row of a target without context.  shares (K, n) float64: what the context of k + 1 tokens leaves to
    shorter ones, 1 where there is none.  lists (K, n) int64: its list, 0 (which is empty) where there is none.
    starts (L + 1,) int64: where each list begins; its last place is spare.  tokens (E,) int32 and values (E,) float64: what is added to
    which entry."""

    unigram: F64
    shares: F64
    lists: I64
    starts: I64
    tokens: Array
    values: F64

    def lengths(self) -> I64:
        """(L,) entries of each list."""
        found: I64 = np.diff(self.starts) - 1
        return found


@njit
def _find_contexts(state: State, tokens: Array, start: int, stop: int, shares: Array, lists: Array, contexts: Array, starts: Array) -> int:
    """Fills shares and lists (K, n); contexts (L, 2): node and length of each list's context, and starts; returns L, list 0 included."""
    order = state.settings[0]
    lanes = max(1, min(LANES, (stop - start) // 8))
    part = (stop - start + lanes - 1) // lanes
    cursor = np.zeros((lanes, DEPTH + 1), np.int64)
    place = np.empty((lanes, 2 * DEPTH), np.int64)
    log = 4
    while (1 << log) < 2 * len(contexts):
        log += 1
    known = np.zeros(1 << log, np.int64)  # list numbers, hashed by node
    found = 1
    starts[0], starts[1] = 0, 1
    for i in range(1 - order, part):
        resolve_lanes(state, tokens, cursor, place, start, part, i, stop - 1)
        for g in range(lanes):
            t = start + g * part + i
            if 0 <= t < stop:
                if i >= 0:
                    for k in range(1, order):
                        shares[k - 1, t - start], lists[k - 1, t - start] = 1.0, 0
                    for k in range(1, cursor[g, DEPTH] + 1):
                        context = cursor[g, k]
                        total = np.int64(state.nodes[context, TOTAL])
                        if total == 0:
                            continue
                        shares[k - 1, t - start] = backoff(state, k + 1, context) * (1.0 / total)
                        at = home(context, log)
                        while known[at] > 0 and contexts[known[at], 0] != context:
                            at = (at + 1) & ((1 << log) - 1)
                        if known[at] == 0:
                            known[at] = found
                            contexts[found, 0], contexts[found, 1] = context, k
                            starts[found + 1] = starts[found] + np.int64(state.nodes[context, SIZE] & CHILDREN) + 1
                            found += 1
                        lists[k - 1, t - start] = known[at]
                if t < stop - 1:
                    advance(state, cursor, place, g, np.int64(tokens[t]))
    return found


@njit
def _fill_lists(state: State, contexts: Array, starts: Array, begin: int, end: int, tokens: Array, values: Array) -> None:
    """Children of the contexts of lists begin … end-1.

    An unused entry of a block is written, too, and then written over: a branch that nobody can predict costs more."""
    nodes, pool, d = state.nodes, state.pool, state.discounts
    for i in range(begin, end):
        context, k, to = contexts[i, 0], contexts[i, 1], starts[i]
        scale = 1.0 / np.int64(nodes[context, TOTAL])
        one, two, more = d[k, 1], d[k, 2], d[k, 3]
        first = np.int64(nodes[context, FIRST])
        for at in range(first, first + (1 << np.int64(nodes[context, SIZE] >> LOG))):
            count = np.int64(pool[at, COUNT])
            discount = more if count > 2 else two if count == 2 else one  # of a count of 0: nothing is kept either way
            tokens[to] = pool[at, TOKEN]
            values[to] = max(count - discount, 0.0) * scale
            to += pool[at, TOKEN] != EMPTY


def sparse_rows(cache: StreamCache, tokens: Tokens, start: int, stop: int, memory: Callable[[int], F64] = np.empty) -> SparseRows:
    """The distributions of targets start … stop-1 by the cache as it is.  memory: makes the arrays of the lists' entries."""
    size, lengths = stop - start, cache.order - 1
    shares, lists = np.empty((lengths, size)), np.empty((lengths, size), np.int64)
    contexts, starts = np.empty((1 + lengths * size, 2), np.int64), np.empty(2 + lengths * size, np.int64)
    stream = cache._stream(tokens, start, stop, unknown=1)
    found = _find_contexts(cache.state, stream, start, stop, shares, lists, contexts, starts)
    entries = int(starts[found])
    values, children = memory(entries), memory(-(-entries // 2)).view(np.int32)[:entries]
    edges = np.linspace(1, found, 1 + max(1, min(THREADS, MOST_THREADS, found // LISTS))).astype(int)
    each(lambda i: _fill_lists(cache.state, contexts, starts, edges[i], edges[i + 1], children, values), range(len(edges) - 1))
    unigram = np.empty(cache.vocab_size)
    fill_unigram_row(cache.state, unigram)
    return SparseRows(unigram, shares, lists, starts[: found + 1], children, values)


@njit
def dense_rows(parts: SparseRows, begin: int, end: int, rows: Array) -> None:
    """The rows of targets begin … end-1, counted from the first, → rows (end - begin, V) float64: the bits of `rows.fill_row`."""
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
