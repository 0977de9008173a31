"""Lockstep: the predictor for S streams side by side; what makes the coder fast.

A text of n tokens is cut into streams of equal length.  The experts, their features, the gate and the mixture are those of every other
path (hybrid/scoring/mixture.py); what differs from eval.py is the order: each step predicts one token of every stream, then the cache,
the match model and the gate, which all streams share, learn these tokens in stream order, and the product reads the cache anew for
every token.  Network windows begin anew every L tokens, as in eval.py without stride; with a stride the last L - stride tokens are
computed again.  A stream's first token has nothing before it but the cache.  Everything runs in one fixed order with fixed shapes, so
the same machine gives the same bits.

Shapes: S streams, T tokens a stream, V vocabulary, F features, K experts (mixture.EXPERTS), B buckets.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hybrid.coding.adapted_streams import AdaptedStreams
from hybrid.coding.cache_rows import CacheRows
from hybrid.coding.network_rows import NetworkRows
from hybrid.coding.pinned import host_buffer
from hybrid.coding.symbols import Step, empty_step, fill_step
from hybrid.coding.threads import Threads
from hybrid.model.hybrid_lm import HybridLM
from hybrid.scoring.mixture import EXPERTS, MATCH, NEURAL, NGRAM, PRODUCT, Mixture, features_of
from hybrid.scoring.options import AdaptConfig
from ngram.arrays import F32, F64, U16
from ngram.blending.product import fill_product_rows
from ngram.online.cache import OnlineCache

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

    def columns(self, tokens: U16) -> U16:
        """(n,) → (T + 1, S): row p is the streams' column p - 1, row 0 and what lies beyond the end zeros."""
        out = np.zeros(self.streams * self.length, dtype=np.uint16)
        out[: len(tokens)] = tokens
        return np.concatenate([np.zeros((1, self.streams), np.uint16), out.reshape(self.streams, self.length).T])


class Lockstep:
    """A Part of ScoreFirst whose positions are columns: position p is column p - 1, and position 0, which is given, says nothing.

    tokens (T + 1, S) uint16, zeros where a stream has no token.  cache None: network alone.  mixture: what the experts' rows are mixed
    with, whose gate learns where `score_then_update` is called instead of `score`.  threads: that share rows, 0: by processor; they
    change no bit.  adapt: the network learns, too."""

    def __init__(
        self,
        model: HybridLM,
        cache: OnlineCache | None,
        mixture: Mixture | None,
        layout: Layout,
        *,
        seq_len: int,
        stride: int,
        device: torch.device,
        threads: int = 0,
        adapt: AdaptConfig | None = None,
    ) -> None:
        self.layout, self.cache, self.mixture = layout, cache, mixture
        self.vocab_size, experts = model.config.vocab_size, 1 if cache is None else len(EXPERTS)
        self.tokens = np.zeros((layout.streams, layout.length), dtype=np.uint16)
        rows = host_buffer((experts, layout.streams, self.vocab_size), device)
        self._rows_KSV: F64 = rows.numpy()
        self._threads = Threads(threads or max(1, min(MOST_THREADS, (os.cpu_count() or 1) // 2)))
        window = min(seq_len, layout.length)
        learner = AdaptedStreams(model, layout.streams, window, stride, adapt, device) if adapt is not None else None
        self._network = NetworkRows(model, layout.streams, window, stride, device, rows[NEURAL], learner)
        self._known = np.arange(layout.streams * layout.length).reshape(layout.streams, -1) < layout.tokens
        self._ngrams = None
        if cache is not None and mixture is not None:
            self._rows_KSV[PRODUCT] = 0.0
            copying = MATCH in mixture.present
            self._ngrams = CacheRows(cache, self.tokens, self._threads, self._rows_KSV[NGRAM : MATCH + 1], copying=copying)
        self._step = empty_step(layout.streams, self.vocab_size)
        self._features: F32 = np.empty((0, 0), np.float32)
        self._spent = {"gate": 0.0, "product": 0.0, "mix": 0.0}

    @property
    def seconds(self) -> dict[str, float]:
        """What each part has worked; network and cache work side by side."""
        cache = self._ngrams.seconds if self._ngrams is not None else 0.0
        return {"network": self._network.seconds, "cache": cache, **self._spent}

    def active(self, position: int) -> npt.NDArray[np.int64]:
        """Streams that have a token at this position."""
        return self.layout.active(position - 1)

    def text(self, columns: U16) -> U16:
        """(n,) the tokens that lie in `columns`."""
        return np.ascontiguousarray(columns[1:].T).reshape(-1)[: self.layout.tokens]

    def row(self, _: U16, position: int) -> Step:
        """Distributions of the tokens of a column, given all columns before it; the next call overwrites them."""
        levels_2S = self._network.finish()
        weights_SK = np.ones((self.layout.streams, 1))
        if self._ngrams is not None and self.mixture is not None:
            self._ngrams.finish()
            with self._timed("gate"):
                self._features = features_of(levels_2S.T.astype(np.float32), self._ngrams.features)
                weights_SK, exponents_S2 = self._weights(position - 1), self.mixture.gate.exponents(self._features)
            if PRODUCT in self.mixture.present:
                with self._timed("product"):
                    first, second, product = (self._rows_KSV[k] for k in (NEURAL, NGRAM, PRODUCT))
                    self._threads.over(len(weights_SK), lambda a, b: fill_product_rows(a, b, first, second, exponents_S2, product))
        with self._timed("mix"):
            self._threads.over(len(weights_SK), lambda a, b: fill_step(a, b, self._rows_KSV, weights_SK, self._step))
        return self._step

    def score(self, tokens: U16, start: int, stop: int) -> F64:
        """Probabilities of the column that `row` predicted; nothing learns, the streams move on."""
        return self._take(tokens, start, learn=False)

    def score_then_update(self, tokens: U16, start: int, stop: int) -> F64:
        """The same; then cache, match model and gate learn the column."""
        return self._take(tokens, start, learn=True)

    def update(self, tokens: U16, start: int, stop: int) -> None:
        """A column is learned by `score_then_update` alone."""
        raise NotImplementedError

    def digest(self) -> str:
        return "".join(part.digest() for part in (self.cache, self.mixture) if part is not None)

    def close(self) -> None:
        """Ends the helper threads."""
        self._threads.close()

    def _take(self, tokens: U16, position: int, *, learn: bool) -> F64:
        """(A,) float64 probabilities of the active streams' tokens."""
        column, column_S = position - 1, tokens[position]
        active, learn = self.layout.active(column), learn and column > 0
        self.tokens[:, column] = column_S
        came = column_S[active].astype(np.int64)
        if self._ngrams is not None and self.mixture is not None:
            if learn:
                with self._timed("gate"):
                    self._teach_gate(active, came)
            self._ngrams.start(column, active, learn)
        if position < self.layout.length:
            self._network.start(self.tokens, column, self._known)
        return self._step.mixed[active, came]

    def _weights(self, column: int) -> F64:
        """(S, K); before a stream's first token only the cache knows anything."""
        assert self.mixture is not None
        if not column:
            return np.tile(np.eye(len(EXPERTS))[NGRAM], (self.layout.streams, 1))
        return self.mixture.weights(self._features)

    def _teach_gate(self, active: npt.NDArray[np.int64], came: npt.NDArray[np.int64]) -> None:
        assert self.mixture is not None
        features_AF, probs_AK = self._features[active], np.ascontiguousarray(self._rows_KSV[:, active, came].T)
        if self.mixture.absent:
            self.mixture.mixed(self.mixture.weights(features_AF), probs_AK)
        self.mixture.note(features_AF, probs_AK)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._spent[part] += time.perf_counter() - began
