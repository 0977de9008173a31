"""Match model: what followed the longest earlier occurrence of the present context, and how often that was right.

The confidence in a candidate is the share of candidates of that length that were right so far.  A context never reaches past a BOS.
(Mahoney 2005, PAQ; Cleary, Teahan & Witten 1995, "Unbounded length contexts for PPM".)
"""

from functools import partialmethod
from typing import NamedTuple

import numpy as np

from ngram.arrays import F64, I64, Array, Tokens, digest, read_only, token_type
from ngram.compiled import njit
from ngram.online.hashing import index_slot, mix_hash
from ngram.online.stream_cache import ChunkScores

WINDOW = 48  # tokens of history that may be looked at, in this module and in ngram/mixture
MIN_LENGTHS = (12, 5)  # of the two indices: a long match is rarer and surer than the most recent short one
BUCKETS = 20  # of match length
INDEX_BITS = 18  # log2 of slots an index begins with
FEATURES: tuple[str, ...] = ("match_length", "match_confidence")


@njit
def history_start(tokens: Array, t: int, bos: int) -> int:
    """First position that position t may look at: the nearest BOS before it, at most WINDOW tokens back."""
    low = t
    while low > 0 and t - low < WINDOW and (low == t or tokens[low] != bos):
        low -= 1
    return low


@njit
def length_bucket(length: int) -> int:
    """0…BUCKETS-1."""
    return length if length < 16 else min(16 + (length - 16) // 8, BUCKETS - 1)


@njit
def context_slot(tokens: Array, t: int, low: int, least: int, slots: int) -> int:
    """Slot of the `least` tokens before t in an index of `slots`, or -1 when the history is shorter."""
    if t - low < least:
        return -1
    h = mix_hash(0, least)
    for back in range(1, least + 1):
        h = mix_hash(h, np.int64(tokens[t - back]) + 1)
    return index_slot(h, slots)


@njit
def find_match(index: Array, past: Array, size: int, tokens: Array, t: int, low: int, least: int) -> tuple[int, int]:
    """(token that followed, verified length) of the latest occurrence of the last `least` tokens, or (-1, 0).

    index (slots,) int64: position after the context in past[:size], plus 1; 0 is empty."""
    slot = context_slot(tokens, t, low, least, len(index))
    if slot < 0:
        return -1, 0
    at = index[slot] - 1
    if at < 0 or at >= size:
        return -1, 0
    length = 0
    while length < at and t - length > low and past[at - 1 - length] == tokens[t - 1 - length]:
        length += 1
    if length < least:
        return -1, 0
    return np.int64(past[at]), length


@njit
def remember(indices: Array, past: Array, size: int, tokens: Array, t: int, low: int, least: Array) -> None:
    """Stores tokens[t] as past[size] and points each index at it.  indices (2, slots) int64."""
    past[size] = tokens[t]
    for m in range(len(least)):
        slot = context_slot(tokens, t, low, least[m], indices.shape[1])
        if slot >= 0:
            indices[m, slot] = size + 1


class MatchState(NamedTuple):
    """What a match model has learned, and its settings.

    indices (2, slots) int64: see `find_match`.  hits, tries (BUCKETS,) float64: how often a candidate of that length was
    right, and how often there was one.  least (2,) int64: MIN_LENGTHS.  settings (1,) int64: bos."""

    indices: I64
    hits: F64
    tries: F64
    least: I64
    settings: I64


def new_state(bos: int) -> MatchState:
    """Nothing learned: one success in two tries at every length."""
    indices = np.zeros((len(MIN_LENGTHS), 1 << INDEX_BITS), np.int64)
    hits, tries = np.full(BUCKETS, 1.0), np.full(BUCKETS, 2.0)
    return MatchState(indices, hits, tries, np.array(MIN_LENGTHS, np.int64), np.array([bos], np.int64))


@njit(forceinline=True)
def look(state: MatchState, past: Array, size: int, tokens: Array, t: int, low: int) -> tuple[int, int, float]:
    """(candidate or -1, verified length, confidence) at position t, whose history begins at `low`.  The first index that knows the context decides."""
    token, length, sure = -1, 0, 0.0
    for m in range(len(state.least)):
        if token < 0:
            token, length = find_match(state.indices[m], past, size, tokens, t, low, state.least[m])
    if token >= 0:
        bucket = length_bucket(length)
        sure = state.hits[bucket] / state.tries[bucket]
    return token, length, sure


@njit(forceinline=True)
def learn_token(state: MatchState, past: Array, at: int, tokens: Array, t: int, low: int, candidate: int, length: int) -> None:
    """Takes tokens[t] as past[at], and whether the candidate that was seen before it was right."""
    if candidate >= 0:
        bucket = length_bucket(length)
        state.hits[bucket] += candidate == tokens[t]
        state.tries[bucket] += 1.0
    remember(state.indices, past, at, tokens, t, low, state.least)


@njit
def _score_range(
    state: MatchState, past: Array, size: int, tokens: Array, start: int, stop: int, learn: bool, vocab: int, prob: Array, features: Array, said: Array
) -> None:
    """Scores tokens[start:stop] into prob (n,) and features (n, 2) where they have room; with `learn`, each is then learned.

    said (n, 2): candidates, which are -1 where there is none, and the confidence in them."""
    for t in range(start, stop):
        low = history_start(tokens, t, state.settings[0])
        candidate, length, sure = look(state, past, size, tokens, t, low)
        if len(prob):
            said[t - start, 0], said[t - start, 1] = candidate, sure
            prob[t - start] = (1.0 - sure) / vocab + (sure if candidate == tokens[t] else 0.0)
            features[t - start, 0] = np.log1p(np.float64(length))
            features[t - start, 1] = sure
        if learn:
            learn_token(state, past, size, tokens, t, low, candidate, length)
            size += 1


def rows_of(said_n2: F64, vocab_size: int) -> F64:
    """(n, V) distributions of what a model said."""
    rows_nV = np.repeat((1.0 - said_n2[:, 1:]) / vocab_size, vocab_size, axis=1)
    there = np.flatnonzero(said_n2[:, 0] >= 0)
    rows_nV[there, said_n2[there, 0].astype(np.int64)] += said_n2[there, 1]
    return rows_nV


class MatchModel:
    """A part for ScoreFirst: p = s·[the token that followed] + (1-s)/V, with s the share of past successes at that length.

    Without a match p = 1/V, so a mixture should weigh it by its features."""

    def __init__(self, vocab_size: int, bos: int) -> None:
        self.vocab_size, self.bos = vocab_size, bos
        self.state = new_state(bos)
        self.past, self.counted = np.zeros(1 << 12, token_type(vocab_size)), 0

    def score(self, tokens: Tokens, start: int, stop: int, *, learn: bool = False, wanted: bool = True) -> ChunkScores:
        """Scores of tokens[start:stop], 1 ≤ start, where they are wanted; with `learn`, each token is then learned."""
        stream, size = read_only(tokens, self.vocab_size), (stop - start) * wanted
        if learn and self.counted + stop - start > len(self.past):
            self.past = np.concatenate([self.past, np.zeros(max(len(self.past), stop - start), self.past.dtype)])
        scores = ChunkScores(np.empty(size), np.empty((size, len(FEATURES)), np.float32), self.counted, np.empty((size, 2)))
        _score_range(self.state, self.past, self.counted, stream, start, stop, learn, self.vocab_size, scores.prob, scores.features, scores.said)
        self.counted += (stop - start) * learn
        return scores

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        """Learns tokens[start:stop]."""
        self.score(tokens, start, stop, learn=True, wanted=False)

    # The same as one-token chunks, in one kernel.
    score_then_update = partialmethod(score, learn=True)

    def row(self, tokens: Tokens, t: int) -> F64:
        """(V,) float64 distribution of the token at position t, given what stands before it."""
        stream = read_only(tokens, self.vocab_size)
        candidate, _, sure = look(self.state, self.past, self.counted, stream, t, history_start(stream, t, self.bos))
        return rows_of(np.array([[candidate, sure]]), self.vocab_size)[0]

    def digest(self) -> str:
        """xxh3_128 of all state, as hex."""
        state = self.state
        return digest(np.array([self.counted]), state.indices, self.past[: self.counted], state.hits, state.tries)
