"""Compiled look-ups in a static model: every n-gram in one open-addressing table, found by its exact key.

An n-gram's key is the place of its first n-1 words in the table and its last word, so keys are compared in full and nothing rests on a
hash.  1-grams stand at the place of their word.  A place holds the log10 probability and the log10 backoff weight beside the key, as in
KenLM's probing model (Heafield 2011, "KenLM: Faster and Smaller Language Model Queries"), whose keys are hashes.

A walk keeps the places of the 1-gram … (N-1)-gram that end at the last word, -1 where there is none: column k of its state.
"""

from typing import NamedTuple

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit
from ngram.online.hashing import index_slot

ENTRY = np.dtype([("key", "<i8"), ("p", "<f8"), ("b", "<f8")])
EMPTY = -1
WORD_BITS = 25
LANES = 16  # walks side by side: each waits for memory, they do not wait for each other


class Index(NamedTuple):
    """entries (S,) ENTRY.  begin, slots (order,) int64: where each order's part begins, and its size, from order 2 on a power of two.
    words (V,) int64: place of each token's 1-gram, -1 for none; share (V,) float64: added to its log10 probability.
    settings (2,) int64: order, bos."""

    entries: Array
    begin: Array
    slots: Array
    words: Array
    share: Array
    settings: Array


@njit
def insert(entries: Array, begin: int, slots: int, contexts: Array, words: Array, log10_p: Array, log10_b: Array, places: Array) -> None:
    """Puts the n-grams of one order, n ≥ 2, into their part of the table; places (M,) int64 receives where each went.

    contexts, words (M,) int64: places of the first n-1 words, and of the last word's 1-gram."""
    for i in range(len(words)):
        key = (contexts[i] << WORD_BITS) | words[i]
        at = index_slot(key, slots)
        while entries[begin + at]["key"] != EMPTY:
            at = (at + 1) & (slots - 1)
        places[i] = begin + at
        entries[begin + at]["key"] = key
        entries[begin + at]["p"] = log10_p[i]
        entries[begin + at]["b"] = log10_b[i]


@njit
def _find_on(index: Index, n: int, home: int, key: int) -> int:
    """Place of a key of order n whose home holds another one, -1 when it is not there."""
    begin, mask = index.begin[n - 1], index.slots[n - 1] - 1
    at = home
    while True:
        at = begin + ((at - begin + 1) & mask)
        found = index.entries[at]["key"]
        if found == key:
            return at
        if found == EMPTY:
            return -1


@njit(forceinline=True)
def _touch(index: Index, states: Array, homes: Array, seen: Array, g: int, word: int) -> None:
    """Loads what lane g needs for `word`, with no branch behind the loads, so that the cache misses overlap."""
    for k in range(1, index.settings[0]):
        place = states[g, k]
        home = index.begin[k]
        if place >= 0:
            home += index_slot((place << WORD_BITS) | word, index.slots[k])
        homes[g, k], seen[g, k] = home, index.entries[home]["key"]


@njit(forceinline=True)
def _advance(index: Index, states: Array, homes: Array, seen: Array, g: int, word: int) -> tuple[float, int]:
    """(log10 probability of `word`, words of the longest n-gram found) after lane g's state, which moves on."""
    order, entries = index.settings[0], index.entries
    p, length = entries[word]["p"], 1
    for k in range(1, order):
        place, at = states[g, k], -1
        if place >= 0:
            p += entries[place]["b"]
            key = (place << WORD_BITS) | word
            if seen[g, k] == key:
                at = homes[g, k]
            elif seen[g, k] != EMPTY:
                at = _find_on(index, k + 1, homes[g, k], key)
            if at >= 0:
                p, length = entries[at]["p"], k + 1
        homes[g, k] = at
    for k in range(order - 1, 1, -1):
        states[g, k] = homes[g, k - 1]
    if order > 1:
        states[g, 1] = word
    return p, length


@njit
def _restart(index: Index, states: Array, g: int, token: int) -> None:
    """After BOS nothing before it is looked at."""
    if token == index.settings[1]:
        for k in range(2, index.settings[0]):
            states[g, k] = -1


@njit
def score_range(index: Index, tokens: Array, start: int, stop: int, log10_p: Array, lengths: Array) -> None:
    """log10 probabilities of tokens[start:stop] → (n,) float64, NaN where a token has no 1-gram; words of the longest n-gram → (n,) uint8."""
    lanes = LANES if stop - start >= LANES * 16 else 1
    part = (stop - start + lanes - 1) // lanes
    width = index.settings[0] + 1
    states, homes, seen = np.full((lanes, width), -1, np.int64), np.empty((lanes, width), np.int64), np.empty((lanes, width), np.int64)
    for i in range(1 - index.settings[0], part):
        for g in range(lanes):
            t = start + g * part + i
            if 0 <= t < stop:
                _touch(index, states, homes, seen, g, max(0, index.words[tokens[t]]))
        for g in range(lanes):
            t = start + g * part + i
            if not 0 <= t < stop:
                continue
            word = index.words[tokens[t]]
            p, length = _advance(index, states, homes, seen, g, max(0, word))
            if word < 0:
                p = np.nan
                states[g, :] = -1
            if i >= 0:
                log10_p[t - start] = p + index.share[tokens[t]]
                if len(lengths):
                    lengths[t - start] = length
            _restart(index, states, g, tokens[t])


@njit
def step(index: Index, state: Array, token: int, after: Array) -> tuple[float, int]:
    """(log10 probability, words of the longest n-gram) of one token after a state (order + 1,) int64; `after` receives the next state."""
    homes, seen, states = np.empty((1, len(state)), np.int64), np.empty((1, len(state)), np.int64), np.empty((1, len(state)), np.int64)
    states[0] = state
    word = index.words[token]
    _touch(index, states, homes, seen, 0, word)
    p, length = _advance(index, states, homes, seen, 0, word)
    _restart(index, states, 0, token)
    after[:] = states[0]
    return p + index.share[token], length
