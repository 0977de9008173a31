"""Blend: network, n-gram cache, match model and gate as one part of ScoreFirst.

The network's scores are computed ahead (evaluate.py, adapt.py); cache, match model and gate learn from what has been scored.
The gate learns once a chunk; the others by whole chunks too, or after every token (`cache_by_chunk=False`), which is the same
as one-token chunks and goes through ScoreFirst.score_then_update.

Shapes: n targets of a chunk, N tokens of the stream, K experts (EXPERTS).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ngram import match, online
from ngram.gate import F32, F64, Gate, mix
from ngram.match import MatchModel, MatchScores
from ngram.online import ChunkScores
from ngram.score_first import ScoreFirst, Tokens

NEURAL_FEATURES = ("neural_entropy", "neural_max_logp")
EXPERTS = ("neural", "ngram", "match")
GATE_FEATURES: tuple[str, ...] = (*NEURAL_FEATURES, *online.FEATURES, *match.FEATURES)


@dataclass(frozen=True)
class NeuralScores:
    """The network's view of targets 1 … N-1; entry i belongs to target i + 1.

    nll_nats (N-1,) float64; entropy (N-1,) float32, nats; max_logp (N-1,) float32, nats, the likeliest token's."""

    nll_nats: F64
    entropy: F32
    max_logp: F32

    def features(self, start: int, stop: int) -> F32:
        """(n, 2) float32, the NEURAL_FEATURES of targets start … stop-1."""
        return np.stack([self.entropy[start - 1 : stop - 1], self.max_logp[start - 1 : stop - 1]], axis=1)


class Cache(Protocol):
    """What Blend needs of ngram.online.OnlineCache."""

    def score(self, tokens: Tokens, start: int, stop: int) -> ChunkScores: ...

    def update(self, tokens: Tokens, start: int, stop: int) -> None: ...

    def score_then_update(self, tokens: Tokens, start: int, stop: int) -> ChunkScores: ...

    def digest(self) -> str: ...


@dataclass(frozen=True)
class BlendScores:
    """Probabilities of n targets by each expert (n, K) and mixed (n,); weights (n, K), the experts' shares; float64."""

    probs: F64
    mixed: F64
    weights: F64


class Blend:
    """A Part: p = Σ w_k p_k over EXPERTS, with w from the gate.

    match None: the match model has no say, the others share its weight.  collect: keep every chunk's features and expert
    probabilities (for fitting a gate)."""

    def __init__(self, neural: NeuralScores, cache: Cache, match: MatchModel | None, gate: Gate, *, collect: bool = False) -> None:
        self.neural, self.cache, self.match, self.gate, self.collect = neural, cache, match, gate, collect
        self.collected: list[tuple[F32, F64]] = []
        self.seconds = {"cache": 0.0, "gate": 0.0}  # of work
        self._scored: tuple[F32, F64] | None = None  # of the pending chunk; no score depends on it, so no digest sees it

    def score(self, tokens: Tokens, start: int, stop: int) -> BlendScores:
        with self._timed("cache"):
            ngram = self.cache.score(tokens, start, stop)
            copied = self.match.score(tokens, start, stop) if self.match is not None else None
        return self._combine(ngram, copied, start, stop)

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        with self._timed("cache"):
            self.cache.update(tokens, start, stop)
            if self.match is not None:
                self.match.update(tokens, start, stop)
        self._teach_gate()

    def score_then_update(self, tokens: Tokens, start: int, stop: int) -> BlendScores:
        """One-token chunks for cache and match model, one chunk start … stop-1 for the gate."""
        with self._timed("cache"):
            ngram = self.cache.score_then_update(tokens, start, stop)
            copied = self.match.score_then_update(tokens, start, stop) if self.match is not None else None
        scores = self._combine(ngram, copied, start, stop)
        self._teach_gate()
        return scores

    def digest(self) -> str:
        return self.cache.digest() + (self.match.digest() if self.match is not None else "") + self.gate.digest()

    def _combine(self, ngram: ChunkScores, copied: MatchScores | None, start: int, stop: int) -> BlendScores:
        told = copied.features if copied is not None else np.zeros((stop - start, len(match.FEATURES)), np.float32)
        features_NF = np.concatenate([self.neural.features(start, stop), ngram.features, told], axis=1)
        probs_NK = np.empty((stop - start, len(EXPERTS)))
        probs_NK[:, 0], probs_NK[:, 1] = np.exp(-self.neural.nll_nats[start - 1 : stop - 1]), ngram.prob
        with self._timed("gate"):
            weights_NK = self.gate.weights(features_NF)
        if copied is not None:
            probs_NK[:, 2] = copied.prob
        else:
            weights_NK = share_out(weights_NK)
            probs_NK[:, 2] = mix(weights_NK[:, :2], probs_NK[:, :2])  # as the others say: the gate learns nothing from it
        self._scored = features_NF, probs_NK
        if self.collect:
            self.collected.append(self._scored)
        return BlendScores(probs_NK, mix(weights_NK, probs_NK), weights_NK)

    def _teach_gate(self) -> None:
        assert self._scored is not None
        with self._timed("gate"):
            self.gate.update(*self._scored)
        self._scored = None

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - began


def share_out(weights_NK: F64) -> F64:
    """The weights without the last expert, which has none, to the sum 1 again."""
    kept = weights_NK.copy()
    kept[:, -1] = 0.0
    return kept / kept.sum(axis=1, keepdims=True)


def run(order: ScoreFirst, part: str, chunk_tokens: int, *, cache_by_chunk: bool) -> BlendScores:
    """Scores the whole stream of `order`: entry i is target i + 1."""
    size = len(order.tokens) - 1
    out = BlendScores(np.empty((size, len(EXPERTS))), np.empty(size), np.empty((size, len(EXPERTS))))
    for start, stop in order.chunks(chunk_tokens):
        if cache_by_chunk or order.frozen:
            result = order.score(start, stop)[part]
            if not order.frozen and stop < len(order.tokens):
                order.update(start, stop)
        else:
            result = order.score_then_update(start, stop)[part]
        for whole, piece in ((out.probs, result.probs), (out.mixed, result.mixed), (out.weights, result.weights)):
            whole[start - 1 : stop - 1] = piece
    return out
