"""Lockstep: whole distributions for the next token of S streams at once, and learning from them; what coder and decoder share.

A text of n tokens is cut into streams of equal length that advance side by side.  The cache and the gate are shared: after each
step all streams' tokens are counted, in stream order.  Network windows begin anew every L tokens, as in eval.py without
stride; with a stride the last L - stride tokens are stepped through again.  A stream's first token has nothing before it
but the cache.  Everything runs in one fixed order with fixed shapes, so the same machine gives the same bits.

Shapes: S streams, T tokens a stream, V vocabulary, F features, K experts (blend.EXPERTS), B buckets.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit

from hybrid.adapt import AdaptConfig, AdaptedStreams
from hybrid.blend import EXPERTS, MATCH, NEURAL, NGRAM, PRODUCT, share_out
from hybrid.cache_rows import CacheRows
from hybrid.host import Threads, host_buffer
from hybrid.model import HybridLM
from hybrid.network_rows import NetworkRows
from ngram.gate import F32, F64, Gate
from ngram.online import OnlineCache
from ngram.product import fill_product_rows
from ngram.table import U16

Array = Any  # kernels are typed by numba
BUCKET = 32  # tokens a bucket: a symbol costs two small searches instead of one over the vocabulary
MOST_THREADS = 4  # that share rows: more wait for memory


@dataclass(frozen=True)
class Layout:
    """How n tokens lie in streams: token i is column i % length of stream i // length; the last stream may be shorter."""

    tokens: int
    streams: int
    length: int

    @classmethod
    def plan(cls, tokens: int, most_streams: int, seq_len: int) -> "Layout":
        """As many streams as keep whole windows: a stream is a number of windows, unless the text is shorter than that."""
        windows = -(-tokens // seq_len)
        length = seq_len * -(-windows // most_streams) if windows > 1 else max(tokens, 1)
        streams = max(1, -(-tokens // length))
        return cls(tokens, streams, length if streams > 1 else max(tokens, 1))

    def active(self, column: int) -> npt.NDArray[np.int64]:
        """Streams that have a token in this column, ascending."""
        return np.flatnonzero(np.arange(self.streams) * self.length + column < self.tokens)

    def cut(self, tokens: U16) -> U16:
        """(n,) → (S, T), zeros beyond the end."""
        out = np.zeros(self.streams * self.length, dtype=np.uint16)
        out[: len(tokens)] = tokens
        return out.reshape(self.streams, self.length)


@njit(nogil=True)
def _mix_rows(begin: int, end: int, rows_KSV: Array, weight_SK: Array, mixed_SV: Array, mass_SB: Array) -> None:
    """Blends K experts' rows of streams begin … end-1, normalises in float64, sums the buckets: one fixed order of additions a row."""
    experts, _, vocab_size = rows_KSV.shape
    buckets = mass_SB.shape[1]
    for s in range(begin, end):
        for v in range(vocab_size):
            mixed_SV[s, v] = weight_SK[s, 0] * rows_KSV[0, s, v]
        for k in range(1, experts):
            for v in range(vocab_size):
                mixed_SV[s, v] += weight_SK[s, k] * rows_KSV[k, s, v]
        total = 0.0
        for b in range(buckets):
            mass = 0.0
            for v in range(b * BUCKET, min((b + 1) * BUCKET, vocab_size)):
                mass += mixed_SV[s, v]
            mass_SB[s, b] = mass
            total += mass
        for v in range(vocab_size):
            mixed_SV[s, v] /= total
        for b in range(buckets):
            mass_SB[s, b] /= total


@dataclass
class Step:
    """One column's predictions: mixed (S, V) float64, rows sum to 1; mass (S, B) float64 of buckets of BUCKET tokens."""

    mixed: F64
    mass: F64


class Lockstep:
    """The predictor.  Alternate `predict()` and `learn(tokens)`, one column at a time.

    cache None: network alone.  online: cache, match model and gate learn, else there is no match model.  chunk_tokens: targets between two updates of the gate.
    threads: that share rows, 0: by processor; they change no bit.  adapt: the network learns, too."""

    def __init__(
        self,
        model: HybridLM,
        cache: OnlineCache | None,
        gate: Gate | None,
        layout: Layout,
        *,
        seq_len: int,
        stride: int,
        online: bool,
        chunk_tokens: int,
        device: torch.device,
        threads: int = 0,
        adapt: AdaptConfig | None = None,
    ) -> None:
        self.layout, self.cache, self.gate, self.online = layout, cache, gate, online
        self.vocab_size, experts = model.config.vocab_size, 1 if cache is None else len(EXPERTS)
        self.tokens = np.zeros((layout.streams, layout.length), dtype=np.uint16)
        self.column = 0
        rows = host_buffer((experts, layout.streams, self.vocab_size), device)
        self._rows_KSV: F64 = rows.numpy()
        self._threads = Threads(threads or max(1, min(MOST_THREADS, (os.cpu_count() or 1) // 2)))
        window = min(seq_len, layout.length)
        learner = AdaptedStreams(model, layout.streams, window, stride, adapt, device) if adapt is not None else None
        self._network = NetworkRows(model, layout.streams, window, stride, device, rows[NEURAL], learner)
        self._known = np.arange(layout.streams * layout.length).reshape(layout.streams, -1) < layout.tokens
        self._ngrams = None
        if cache is not None:
            self._ngrams = CacheRows(cache, self.tokens, self._threads, self._rows_KSV[NGRAM : MATCH + 1], copying=online)
        self._mixed = np.empty((layout.streams, self.vocab_size))
        self._mass = np.empty((layout.streams, -(-self.vocab_size // BUCKET)))
        self._features: F32 = np.empty((0, 0), np.float32)
        self._chunk: list[tuple[F32, F64]] = []  # features and experts' probabilities that the gate has yet to learn
        self._chunk_tokens, self._chunk_fill = chunk_tokens, 0
        self._spent = {"gate": 0.0, "product": 0.0, "mix": 0.0}

    @property
    def seconds(self) -> dict[str, float]:
        """What each part has worked; network and cache work side by side."""
        cache = self._ngrams.seconds if self._ngrams is not None else 0.0
        return {"network": self._network.seconds, "cache": cache, **self._spent}

    def predict(self) -> Step:
        """Distributions of the tokens of this column, given all columns before it; the next call overwrites them."""
        levels_2S = self._network.finish()
        weights = np.ones((self.layout.streams, 1))
        if self._ngrams is not None and self.gate is not None:
            self._ngrams.finish()
            with self._timed("gate"):
                self._features = np.concatenate([levels_2S.T.astype(np.float32), self._ngrams.features], axis=1)
                weights, exponents_S2 = self._weights(), self.gate.exponents(self._features)
            with self._timed("product"):
                first, second, product = (self._rows_KSV[k] for k in (NEURAL, NGRAM, PRODUCT))
                self._threads.over(len(weights), lambda a, b: fill_product_rows(a, b, first, second, exponents_S2, product))
        with self._timed("mix"):
            self._threads.over(len(weights), lambda a, b: _mix_rows(a, b, self._rows_KSV, weights, self._mixed, self._mass))
        return Step(self._mixed, self._mass)

    def learn(self, column_S: U16) -> None:
        """Takes the tokens of this column (S,), zeros for streams that have none, and moves on."""
        active = self.layout.active(self.column)
        self.tokens[:, self.column] = column_S
        learning = self.online and self.column > 0
        if self._ngrams is not None:
            if learning:
                with self._timed("gate"):
                    self._teach_gate(active, column_S)
            self._ngrams.start(self.column, active, learning)
        self.column += 1
        if self.column < self.layout.length:
            self._network.start(self.tokens, self.column - 1, self._known)

    def close(self) -> None:
        """Ends the helper threads."""
        self._threads.close()

    def _weights(self) -> F64:
        """(S, K); before a stream's first token only the cache knows anything."""
        assert self.gate is not None
        if not self.column:
            return np.tile(np.eye(len(EXPERTS))[NGRAM], (self.layout.streams, 1))
        return share_out(self.gate.weights(self._features), [] if self.online else [MATCH])

    def _teach_gate(self, active: npt.NDArray[np.int64], column_S: U16) -> None:
        assert self.gate is not None
        probs_AK = np.ascontiguousarray(self._rows_KSV[:, active, column_S[active].astype(np.int64)].T)
        self._chunk.append((self._features[active], probs_AK))
        self._chunk_fill += len(active)
        if self._chunk_fill >= self._chunk_tokens:
            self.gate.update(np.concatenate([c[0] for c in self._chunk]), np.concatenate([c[1] for c in self._chunk]))
            self._chunk, self._chunk_fill = [], 0

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._spent[part] += time.perf_counter() - began
