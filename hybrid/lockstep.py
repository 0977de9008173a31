"""Lockstep: whole distributions for the next token of S streams at once, and learning from them; what coder and decoder share.

A text of n tokens is cut into streams of equal length that advance side by side.  The cache and the gate are shared: after each
step all streams' tokens are counted, in stream order.  Network windows begin anew every L tokens, as in eval.py without
stride; with a stride the last L - stride tokens are stepped through again.  A stream's first token has nothing before it
but the cache.  Everything runs in one fixed order with fixed shapes, so the same machine gives the same bits.

Shapes: S streams, T tokens a stream, V vocabulary, F features, K = 2 experts.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit

from hybrid.model import HybridLM
from hybrid.step_model import StepModel
from ngram.gate import F32, F64, Gate
from ngram.online import OnlineCache
from ngram.table import PAD, U16

Array = Any  # kernels are typed by numba
BUCKET = 32  # tokens a bucket: a symbol costs two small searches instead of one over the vocabulary


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
def _mix_rows(neural_SV: Array, ngram_SV: Array, weight_SK: Array, mixed_SV: Array, mass_SB: Array) -> None:
    """Blends, normalises in float64, and sums the buckets: one fixed order of additions."""
    buckets = mass_SB.shape[1]
    for s in range(len(mixed_SV)):
        total = 0.0
        for v in range(mixed_SV.shape[1]):
            mixed_SV[s, v] = weight_SK[s, 0] * neural_SV[s, v] + weight_SK[s, 1] * ngram_SV[s, v]
            total += mixed_SV[s, v]
        for b in range(buckets):
            mass = 0.0
            for v in range(b * BUCKET, min((b + 1) * BUCKET, mixed_SV.shape[1])):
                mixed_SV[s, v] /= total
                mass += mixed_SV[s, v]
            mass_SB[s, b] = mass


@dataclass
class Step:
    """One column's predictions: mixed (S, V) float64, rows sum to 1; mass (S, B) float64 of buckets of BUCKET tokens."""

    mixed: F64
    mass: F64


class Lockstep:
    """The predictor.  Alternate `predict()` and `learn(tokens)`, one column at a time.

    cache None: network alone.  online: cache and gate learn.  chunk_tokens: targets between two updates of the gate."""

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
    ) -> None:
        self.layout, self.cache, self.gate, self.online, self.stride = layout, cache, gate, online, stride
        self.network = StepModel(model, layout.streams, min(seq_len, layout.length), device)
        self.vocab_size = model.config.vocab_size
        self.tokens = np.zeros((layout.streams, layout.length), dtype=np.uint16)
        self.column = 0
        self.bos = cache.bos if cache is not None else 1
        self._past = np.full((layout.streams, cache.order - 1 if cache is not None else 1), PAD, dtype=np.uint16)
        self._logits: torch.Tensor | None = None
        self._mixed = np.empty((layout.streams, self.vocab_size))
        self._mass = np.empty((layout.streams, -(-self.vocab_size // BUCKET)))
        self._chunk: list[tuple[F32, F64]] = []  # features and experts' probabilities that the gate has yet to learn
        self._chunk_tokens, self._chunk_fill = chunk_tokens, 0
        self._pool = ThreadPoolExecutor(1)
        self._features: F32 = np.empty((0, 0), np.float32)
        self._neural: F64 | None = None
        self._ngram: F64 | None = None

    def predict(self) -> Step:
        """Distributions of the tokens of this column, given all columns before it."""
        rows = self._pool.submit(self._ngram_rows) if self.cache is not None else None
        self._neural, entropy, max_logp = self._neural_rows()
        if rows is None:
            self._ngram, weights = np.zeros_like(self._neural), np.tile([1.0, 0.0], (self.layout.streams, 1))
        else:
            self._ngram, features = rows.result()
            self._features = np.concatenate([entropy[:, None], max_logp[:, None], features], axis=1).astype(np.float32)
            assert self.gate is not None
            weights = self.gate.weights(self._features) if self.column else np.tile([0.0, 1.0], (self.layout.streams, 1))
        _mix_rows(self._neural, self._ngram, weights, self._mixed, self._mass)
        return Step(self._mixed, self._mass)

    def learn(self, column_S: U16) -> None:
        """Takes the tokens of this column (S,), zeros for streams that have none, and moves on."""
        active = self.layout.active(self.column)
        self.tokens[:, self.column] = column_S
        if self.online and self.cache is not None and self.column:
            self._teach_gate(active, column_S)
            for s in active:
                self.cache.update(self.tokens[s], self.column, self.column + 1)
        self._past[:, :-1] = self._past[:, 1:]
        self._past[column_S == self.bos] = PAD
        self._past[:, -1] = column_S
        self.column += 1
        if self.column < self.layout.length:
            self._advance()

    def close(self) -> None:
        """Ends the helper thread."""
        self._pool.shutdown()

    def _advance(self) -> None:
        """Steps the network over the newest column; a full window begins anew, with stride by stepping through its rest."""
        first = self.column - 1
        if self.network.position >= self.network.seq_len:
            self.network.restart()
            first = self.column - 1 - (self.network.seq_len - self.stride if self.stride else 0)
        for at in range(first, self.column):
            self._logits = self.network.step(torch.from_numpy(self.tokens[:, at].astype(np.int64)))

    @torch.inference_mode()
    def _neural_rows(self) -> tuple[F64, F64, F64]:
        """(S, V) probabilities, (S,) entropies and greatest log-probabilities, float64."""
        if self._logits is None:
            uniform = np.full((self.layout.streams, self.vocab_size), 1 / self.vocab_size)
            level = np.full(self.layout.streams, np.log(self.vocab_size))
            return uniform, level, -level
        logp = torch.log_softmax(self._logits.double(), dim=-1)
        probs = logp.exp()
        entropy = -(probs * logp).sum(-1)
        return probs.cpu().numpy(), entropy.cpu().numpy(), logp.amax(-1).cpu().numpy()

    def _ngram_rows(self) -> tuple[F64, F32]:
        assert self.cache is not None
        return self.cache.rows(self._past), self.cache.row_features(self._past)

    def _teach_gate(self, active: npt.NDArray[np.int64], column_S: U16) -> None:
        assert self.gate is not None and self._neural is not None and self._ngram is not None
        came = active, column_S[active].astype(np.int64)
        self._chunk.append((self._features[active], np.stack([self._neural[came], self._ngram[came]], axis=1)))
        self._chunk_fill += len(active)
        if self._chunk_fill >= self._chunk_tokens:
            self.gate.update(np.concatenate([c[0] for c in self._chunk]), np.concatenate([c[1] for c in self._chunk]))
            self._chunk, self._chunk_fill = [], 0
