"""Compiled look-ups in a static model: every n-gram in one table, found by its exact key.

An n-gram's key is the place of its first n-1 words in the table and its last word, so keys are compared in full and nothing rests on a
hash.  1-grams stand at the place of their word.  The other orders' places are in buckets of eight keys, one line of the processor's cache: a look-up
reads one bucket and compares all of it at once; a bucket that is full may go on in the next one.  The log10 probability and the log10 backoff weight
of a place are read only where its key was found.  KenLM's probing model (Heafield 2011, "KenLM: Faster and Smaller Language Model Queries") keeps
both beside the key, and its keys are hashes.

A walk keeps the places of the 1-gram … (N-1)-gram that end at the last word, -1 where there is none: columns 1 to N-1 of its state, whose column 0
is the longest of them.
"""

from typing import Any, NamedTuple

import numpy as np

from ngram.arrays import I64, Array
from ngram.compiled import njit
from ngram.probing import home, prefetch

EMPTY = -1
BUCKET = 8  # keys of 8 bytes: a line of 64
WORD_BITS = 25
LOAD = 0.6  # share of the places of an order that are taken: fuller tables are smaller, and have more buckets that go on in the next one
LANES = 16  # walks side by side: each waits for memory, they do not wait for each other
AHEAD = 16  # n-grams between asking for the bucket of one and putting it there
_LINE_BYTES = 64


class Index(NamedTuple):
    """keys (S,) int64, EMPTY where there is none; values (S, 2) float64: log10 probability and log10 backoff weight of each place.
    begin, buckets (order,) int64: the place where each order begins, and from order 2 on its buckets.
    words (V,) int64: place of each token's 1-gram, -1 for none; share (V,) float64: added to its log10 probability.
    settings (2,) int64: order, bos."""

    keys: Array
    values: Array
    begin: Array
    buckets: Array
    words: Array
    share: Array
    settings: Array


def buckets_for(ngrams: int) -> int:
    """How many buckets an order of so many n-grams gets: at least one place stays empty, where searches end."""
    return int(ngrams / (LOAD * BUCKET)) + 1


def aligned(places: int, kind: Any) -> Array:
    """(places,) of 8 bytes each, uninitialised, whose buckets begin where lines of the cache do."""
    raw = np.empty(places + _LINE_BYTES // 8, np.int64)
    begin = (-raw.ctypes.data % _LINE_BYTES) // 8
    return raw[begin : begin + places].view(kind)


def empty_state(order: int) -> I64:
    """(order + 1,) the state of a walk behind nothing."""
    return np.array([0] + order * [EMPTY])


@njit
def insert(index: Index, n: int, contexts: Array, words: Array, log10_p: Array, log10_b: Array, places: Array) -> None:
    """Puts the n-grams of order n ≥ 2 into their part of the table; places (M,) int64 receives where each went.

    contexts, words (M,) int64: places of the first n-1 words, and of the last word's 1-gram."""
    keys, begin, buckets = index.keys, index.begin[n - 1], index.buckets[n - 1]
    for i in range(len(words)):
        if i + AHEAD < len(words):
            prefetch(keys, begin + BUCKET * home((contexts[i + AHEAD] << WORD_BITS) | words[i + AHEAD], buckets))
        key = (contexts[i] << WORD_BITS) | words[i]
        at = begin + BUCKET * home(key, buckets)
        while keys[at] != EMPTY:
            at += 1
            if at == begin + BUCKET * buckets:
                at = begin
        places[i], keys[at] = at, key
        index.values[at, 0], index.values[at, 1] = log10_p[i], log10_b[i]


@njit(forceinline=True)
def _in_bucket(keys: Array, bucket: int, key: int) -> int:
    """Place of a key in the bucket that begins at `bucket`, -1 when it is not there."""
    found = -1
    for place in range(BUCKET):
        if keys[bucket + place] == key:
            found = bucket + place
    return found


@njit
def _find_on(index: Index, n: int, bucket: int, key: int) -> int:
    """Place of a key of order n that is not in the full bucket that its search begins with, -1 when it is not there."""
    begin = index.begin[n - 1]
    while True:
        bucket += BUCKET
        if bucket == begin + BUCKET * index.buckets[n - 1]:
            bucket = begin
        found = _in_bucket(index.keys, bucket, key)
        if found >= 0 or index.keys[bucket + BUCKET - 1] == EMPTY:
            return found


@njit(forceinline=True)
def _touch(index: Index, states: Array, homes: Array, g: int, word: int) -> None:
    """Asks for the buckets that lane g needs for `word`."""
    for k in range(1, states[g, 0] + 1):
        homes[g, k] = index.begin[k] + BUCKET * home((states[g, k] << WORD_BITS) | word, index.buckets[k])
        prefetch(index.keys, homes[g, k])


@njit(forceinline=True)
def _advance(index: Index, states: Array, homes: Array, g: int, word: int) -> tuple[float, int]:
    """(log10 probability of `word`, words of the longest n-gram found) after lane g's state, which moves on."""
    order, keys, values = index.settings[0], index.keys, index.values
    deepest, p, length, ends_here = states[g, 0], values[word, 0], 1, word
    for k in range(1, deepest + 1):
        place, at = states[g, k], -1
        states[g, k] = ends_here
        if place >= 0:
            p += values[place, 1]
            key = (place << WORD_BITS) | word
            at = _in_bucket(keys, homes[g, k], key)
            if at < 0 and keys[homes[g, k] + BUCKET - 1] != EMPTY:
                at = _find_on(index, k + 1, homes[g, k], key)
            if at >= 0:
                p, length = values[at, 0], k + 1
        ends_here = at
    if deepest + 1 < order:
        states[g, deepest + 1] = ends_here
    states[g, 0] = min(length, order - 1)
    return p, length


@njit(forceinline=True)
def _restart(index: Index, states: Array, g: int, token: int) -> None:
    """After BOS nothing before it is looked at."""
    if token == index.settings[1]:
        states[g, 0] = min(states[g, 0], 1)


@njit
def score_range(index: Index, tokens: Array, start: int, stop: int, log10_p: Array, lengths: Array) -> None:
    """log10 probabilities of tokens[start:stop] → (n,) float64, NaN where a token has no 1-gram; words of the longest n-gram → (n,) uint8."""
    lanes = LANES if stop - start >= LANES * 16 else 1
    part = (stop - start + lanes - 1) // lanes
    states, homes = np.zeros((lanes, index.settings[0] + 1), np.int64), np.empty((lanes, index.settings[0] + 1), np.int64)
    for i in range(1 - index.settings[0], part):
        for g in range(lanes):
            t = start + g * part + i
            if 0 <= t < stop:
                _touch(index, states, homes, g, max(0, index.words[tokens[t]]))
        for g in range(lanes):
            t = start + g * part + i
            if not 0 <= t < stop:
                continue
            word = index.words[tokens[t]]
            p, length = _advance(index, states, homes, g, max(0, word))
            if word < 0:
                p = np.nan
                states[g, 0] = 0
            if i >= 0:
                log10_p[t - start] = p + index.share[tokens[t]]
                if len(lengths):
                    lengths[t - start] = length
            _restart(index, states, g, tokens[t])


@njit
def step(index: Index, before: Array, token: int, after: Array) -> tuple[float, int]:
    """(log10 probability, words of the longest n-gram) of one token after a state (order + 1,) int64; `after` receives the next state."""
    homes, states = np.empty((1, len(before)), np.int64), np.empty((1, len(before)), np.int64)
    states[0] = before
    word = index.words[token]
    _touch(index, states, homes, 0, word)
    p, length = _advance(index, states, homes, 0, word)
    _restart(index, states, 0, token)
    after[:] = EMPTY  # states that mean the same are equal
    for k in range(states[0, 0] + 1):
        after[k] = states[0, k]
    return p + index.share[token], length
