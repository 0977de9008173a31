"""Blend: network, n-gram cache and gate as one part of ScoreFirst.

The network's scores are frozen and computed ahead (evaluate.py); the cache and the gate learn from what has been scored.
The gate learns once a chunk; the cache by whole chunks too, or after every token (`cache_by_chunk=False`), which is the same
as one-token chunks and goes through ScoreFirst.score_then_update.

Shapes: n targets of a chunk, N tokens of the stream, K = 2 experts (network, n-grams).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ngram.gate import F32, F64, Gate, mix
from ngram.online import FEATURES, ChunkScores
from ngram.score_first import ScoreFirst, Tokens

NEURAL_FEATURES = ("neural_entropy", "neural_max_logp")
GATE_FEATURES: tuple[str, ...] = (*NEURAL_FEATURES, *FEATURES)


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
    """Probabilities of n targets: each expert's and the mixture's, float64; weight: the n-grams' share."""

    neural: F64
    ngram: F64
    mixed: F64
    weight: F64


class Blend:
    """A Part: p = w·p_ngram + (1-w)·p_network with w from the gate.

    collect: keep every chunk's features and expert probabilities (for fitting a gate)."""

    def __init__(self, neural: NeuralScores, cache: Cache, gate: Gate, *, collect: bool = False) -> None:
        self.neural, self.cache, self.gate, self.collect = neural, cache, gate, collect
        self.collected: list[tuple[F32, F64]] = []
        self.seconds = {"cache": 0.0, "gate": 0.0}  # of work
        self._scored: tuple[F32, F64] | None = None  # of the pending chunk; no score depends on it, so no digest sees it

    def score(self, tokens: Tokens, start: int, stop: int) -> BlendScores:
        with self._timed("cache"):
            ngram = self.cache.score(tokens, start, stop)
        return self._combine(ngram, start, stop)

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        with self._timed("cache"):
            self.cache.update(tokens, start, stop)
        self._teach_gate()

    def score_then_update(self, tokens: Tokens, start: int, stop: int) -> BlendScores:
        """One-token chunks for the cache, one chunk start … stop-1 for the gate."""
        with self._timed("cache"):
            ngram = self.cache.score_then_update(tokens, start, stop)
        scores = self._combine(ngram, start, stop)
        self._teach_gate()
        return scores

    def digest(self) -> str:
        return self.cache.digest() + self.gate.digest()

    def _combine(self, ngram: ChunkScores, start: int, stop: int) -> BlendScores:
        features_NF = np.concatenate([self.neural.features(start, stop), ngram.features], axis=1)
        probs_NK = np.stack([np.exp(-self.neural.nll_nats[start - 1 : stop - 1]), ngram.prob], axis=1)
        with self._timed("gate"):
            weights_NK = self.gate.weights(features_NF)
        self._scored = features_NF, probs_NK
        if self.collect:
            self.collected.append(self._scored)
        return BlendScores(probs_NK[:, 0], probs_NK[:, 1], mix(weights_NK, probs_NK), weights_NK[:, 1])

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


def run(order: ScoreFirst, part: str, chunk_tokens: int, *, cache_by_chunk: bool) -> dict[str, npt.NDArray[np.float64]]:
    """Scores the whole stream of `order`; the part's fields, (N-1,) float64 each, entry i for target i + 1."""
    fields = ("neural", "ngram", "mixed", "weight")
    out = {field: np.empty(len(order.tokens) - 1) for field in fields}
    for start, stop in order.chunks(chunk_tokens):
        if cache_by_chunk or order.frozen:
            result = order.score(start, stop)[part]
            if not order.frozen and stop < len(order.tokens):
                order.update(start, stop)
        else:
            result = order.score_then_update(start, stop)[part]
        for field in fields:
            out[field][start - 1 : stop - 1] = getattr(result, field)
    return out
