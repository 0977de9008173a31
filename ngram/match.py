# mypy: disable-error-code="arg-type,assignment,return-value,index,attr-defined,operator,no-any-return"
"""Match model: what followed the longest earlier occurrence of the present context, and how often that was right.

Beyond the order of the counts a text that repeats itself is predicted by copying.  The last k tokens are looked up in an
index of what was learned so far, and the candidate is compared token by token, so no hash collision is ever believed.
Confidence is past success at the same length.  A context never reaches past a BOS.  (The match model of the PAQ
compressors, Mahoney 2005; Cleary, Teahan & Witten 1995, "Unbounded length contexts for PPM".)
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from numba import njit

from ngram.hashing import index_slot, mix_hash
from ngram.table import F64, U16

Array = Any

WINDOW = 48  # tokens of history that may be looked at, in this module and in mixing.py
MIN_LENGTHS = (12, 5)  # of the two indices: a long match is rarer and surer than the most recent short one
BUCKETS = 20  # of match length
INDEX_BITS = 18  # log2 of slots an index begins with
FEATURES: tuple[str, ...] = ("match_length", "match_confidence")


@njit(nogil=True)
def history_start(tokens: Array, t: int, bos: int) -> int:
    """First position that position t may look at: the nearest BOS before it, at most WINDOW tokens back."""
    low = t
    while low > 0 and t - low < WINDOW and (low == t or tokens[low] != bos):
        low -= 1
    return low


@njit(nogil=True)
def length_bucket(length: int) -> int:
    """0…BUCKETS-1."""
    if length < 16:
        return length
    return min(16 + (length - 16) // 8, BUCKETS - 1)


@njit(nogil=True)
def context_slot(tokens: Array, t: int, low: int, least: int, slots: int) -> int:
    """Slot of the `least` tokens before t in an index of `slots`, or -1 when the history is shorter."""
    if t - low < least:
        return -1
    h = mix_hash(0, least)
    for back in range(1, least + 1):
        h = mix_hash(h, np.int64(tokens[t - back]) + 1)
    return index_slot(h, slots)


@njit(nogil=True)
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


@njit(nogil=True)
def remember(indices: Array, past: Array, size: int, tokens: Array, t: int, low: int, least: Array) -> None:
    """Appends tokens[t] to past[:size] and points each index at it.  indices (2, slots) int64."""
    past[size] = tokens[t]
    for m in range(len(least)):
        slot = context_slot(tokens, t, low, least[m], indices.shape[1])
        if slot >= 0:
            indices[m, slot] = size + 1


@njit(nogil=True)
def _candidate(indices: Array, past: Array, size: int, tokens: Array, t: int, low: int, least: Array) -> tuple[int, int]:
    """The first index that knows the context decides."""
    for m in range(len(least)):
        token, length = find_match(indices[m], past, size, tokens, t, low, least[m])
        if token >= 0:
            return token, length
    return -1, 0


@njit(nogil=True)
def _run(
    indices: Array, past: Array, size: int, hits: Array, tries: Array, least: Array, vocab: int, bos: int,
    tokens: Array, start: int, stop: int, learn: bool, prob: Array, features: Array,
) -> None:  # fmt: skip
    """Scores tokens[start:stop] into prob (n,) and features (n, 2) where they have room; with `learn`, each is then learned."""
    for t in range(start, stop):
        low = history_start(tokens, t, bos)
        token, length = _candidate(indices, past, size, tokens, t, low, least)
        bucket = length_bucket(length)
        sure = hits[bucket] / tries[bucket] if token >= 0 else 0.0
        if len(prob):
            prob[t - start] = (1.0 - sure) / vocab + (sure if token == tokens[t] else 0.0)
            features[t - start, 0] = np.log1p(np.float64(length))
            features[t - start, 1] = sure
        if learn:
            if token >= 0:
                hits[bucket] += token == tokens[t]
                tries[bucket] += 1.0
            remember(indices, past, size, tokens, t, low, least)
            size += 1


@njit(nogil=True)
def _learn_column(
    indices: Array, flat: Array, hits: Array, tries: Array, least: Array, bos: int, tokens: Array, column: int, active: Array,
    candidate: Array, bucket: Array,
) -> None:  # fmt: skip
    """The active streams' tokens of a column, in stream order.  flat: tokens (S, T) as one past, position s·T + column."""
    for s in active:
        if candidate[s] >= 0:
            hits[bucket[s]] += candidate[s] == tokens[s, column]
            tries[bucket[s]] += 1.0
        remember(indices, flat, s * tokens.shape[1] + column, tokens[s], column, history_start(tokens[s], column, bos), least)


@njit(nogil=True)
def _fill_column(
    indices: Array, flat: Array, hits: Array, tries: Array, least: Array, bos: int, tokens: Array, column: int,
    candidate: Array, bucket: Array, rows: Array, features: Array,
) -> None:  # fmt: skip
    """Distributions (S, V) and features (S, 2) of the tokens of a column, given the columns before it."""
    for s in range(len(rows)):
        token, length = -1, 0
        if column > 0:
            token, length = _candidate(indices, flat, len(flat), tokens[s], column, history_start(tokens[s], column, bos), least)
        candidate[s], bucket[s] = token, length_bucket(length)
        sure = hits[bucket[s]] / tries[bucket[s]] if token >= 0 else 0.0
        rows[s, :] = (1.0 - sure) / rows.shape[1]
        if token >= 0:
            rows[s, token] += sure
        features[s, 0], features[s, 1] = np.log1p(np.float64(length)), sure


@dataclass(frozen=True)
class MatchScores:
    """prob (n,) float64 of each target; features (n, 2) float32, see FEATURES: functions of the context alone."""

    prob: F64
    features: npt.NDArray[np.float32]


class MatchModel:
    """A part for ScoreFirst: p = s·[the token that followed] + (1-s)/V, with s the share of past successes at that length.

    Without a match p = 1/V, so a mixture should weigh it by its features.  Learns from the scored text alone, unless
    `update` is given earlier text."""

    def __init__(self, vocab_size: int, bos: int) -> None:
        self.vocab_size, self.bos = vocab_size, bos
        self.indices = np.zeros((len(MIN_LENGTHS), 1 << INDEX_BITS), np.int64)
        self.past = np.zeros(1 << 12, np.uint16)
        self.size = 0
        self.hits, self.tries = np.full(BUCKETS, 1.0), np.full(BUCKETS, 2.0)
        self._least = np.array(MIN_LENGTHS, np.int64)

    def score(self, tokens: U16, start: int, stop: int) -> MatchScores:
        return self._call(tokens, start, stop, False, stop - start)

    def update(self, tokens: U16, start: int, stop: int) -> None:
        self._call(tokens, start, stop, True, 0)

    def score_then_update(self, tokens: U16, start: int, stop: int) -> MatchScores:
        """The same as one-token chunks, in one kernel."""
        return self._call(tokens, start, stop, True, stop - start)

    def rows(self, tokens: U16, positions: npt.ArrayLike) -> F64:
        """(P, V) float64 distributions of the tokens at `positions`, given what stands before them."""
        wanted = np.asarray(positions, np.int64)
        rows = np.empty((len(wanted), self.vocab_size))
        for row, t in zip(rows, wanted, strict=True):
            low = history_start(tokens, t, self.bos)
            token, length = _candidate(self.indices, self.past, self.size, tokens, t, low, self._least)
            bucket = length_bucket(length)
            sure = self.hits[bucket] / self.tries[bucket] if token >= 0 else 0.0
            row[:] = (1.0 - sure) / self.vocab_size
            if token >= 0:
                row[token] += sure
        return rows

    def digest(self) -> str:
        """xxh3_128 of all state, as hex."""
        hasher = xxhash.xxh3_128(np.array([self.size], np.int64).data)
        for part in (self.indices, self.past[: self.size], self.hits, self.tries):
            hasher.update(np.ascontiguousarray(part).view(np.uint8).reshape(-1).data)
        return hasher.hexdigest()

    def _call(self, tokens: U16, start: int, stop: int, learn: bool, size: int) -> MatchScores:
        stream = np.ascontiguousarray(tokens, np.uint16).view()
        stream.flags.writeable = False  # as in OnlineCache: one compiled kernel for mapped files and for memory
        if learn and self.size + stop - start > len(self.past):
            self.past = np.concatenate([self.past, np.zeros(max(len(self.past), stop - start), np.uint16)])
        scores = MatchScores(np.empty(size), np.empty((size, len(FEATURES)), np.float32))
        _run(
            self.indices, self.past, self.size, self.hits, self.tries, self._least, self.vocab_size, self.bos,
            stream, start, stop, learn, scores.prob, scores.features,
        )  # fmt: skip
        self.size += (stop - start) * learn
        return scores


class MatchColumns:
    """The match model for S streams that advance side by side and share what they learn, as the cache does.

    tokens: (S, T) uint16, filled by the caller a column at a time.  With one stream this is MatchModel on it."""

    def __init__(self, tokens: U16, bos: int) -> None:
        self.tokens, self.bos = tokens, bos
        self._indices = np.zeros((len(MIN_LENGTHS), 1 << INDEX_BITS), np.int64)
        self._hits, self._tries = np.full(BUCKETS, 1.0), np.full(BUCKETS, 2.0)
        self._least = np.array(MIN_LENGTHS, np.int64)
        self._candidate, self._bucket = np.full(len(tokens), -1, np.int64), np.zeros(len(tokens), np.int64)

    def fill(self, column: int, out_SV: F64, out_SF: npt.NDArray[np.float32]) -> None:
        """Distributions and features of a column, of which nothing is known, given those before it."""
        _fill_column(
            self._indices, self.tokens.reshape(-1), self._hits, self._tries, self._least, self.bos, self.tokens, column,
            self._candidate, self._bucket, out_SV, out_SF,
        )  # fmt: skip

    def learn(self, column: int, active: npt.NDArray[np.int64]) -> None:
        """The active streams' tokens of the column that was filled last."""
        _learn_column(
            self._indices, self.tokens.reshape(-1), self._hits, self._tries, self._least, self.bos, self.tokens, column, active,
            self._candidate, self._bucket,
        )  # fmt: skip
