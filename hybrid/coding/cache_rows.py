"""CacheRows: the share of n-gram cache and match model in a lockstep column, counted and read beside the network's work.

Shapes: S streams, T tokens a stream, V vocabulary, F features of both, n-grams' first.
"""

import time
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from hybrid.coding.threads import Threads
from ngram.arrays import F32, F64, U16
from ngram.online import match
from ngram.online import stream_cache as online
from ngram.online.cache import OnlineCache
from ngram.online.columns import MatchColumns, update_column
from ngram.table import PAD


class CacheRows:
    """Distributions of the next token of S streams by one shared cache and one shared match model.

    tokens_ST: filled by the caller a column at a time.  out_2SV: float64, holds the distributions of both after `finish`, as
    `features` (S, F) float32 do.  copying False: no match model, its share of both stays zero.  seconds: time worked."""

    def __init__(self, cache: OnlineCache, tokens_ST: U16, threads: Threads, out_2SV: F64, *, copying: bool) -> None:
        self.cache, self.tokens, self.threads, self.out_2SV, self.seconds = cache, tokens_ST, threads, out_2SV, 0.0
        self.match = MatchColumns(tokens_ST, cache.bos) if copying else None
        streams = len(tokens_ST)
        self._counted: F32 = np.empty((streams, len(online.FEATURES)), np.float32)
        self._copied: F32 = np.zeros((streams, len(match.FEATURES)), np.float32)
        self._past = np.full((streams, cache.order - 1), PAD, dtype=np.uint16)
        self.out_2SV[1] = 0.0
        self._job: Future[None] = threads.pool.submit(self._fill, 0)

    @property
    def features(self) -> F32:
        return np.concatenate([self._counted, self._copied], axis=1)

    def start(self, column: int, active: npt.NDArray[np.int64], learn: bool) -> None:
        """Takes the tokens of `column`; learn: the active streams' are counted, in stream order, before anything is read."""
        self._job = self.threads.pool.submit(self._next, column, active, learn)

    def finish(self) -> None:
        """Waits until `out_2SV` and `features` are there."""
        self._job.result()

    def _next(self, column: int, active: npt.NDArray[np.int64], learn: bool) -> None:
        began, tokens_ST = time.perf_counter(), self.tokens
        if learn:
            update_column(self.cache, tokens_ST, active, column)
            if self.match is not None:
                self.match.learn(column, active)
        self._past[:, :-1] = self._past[:, 1:]
        self._past[tokens_ST[:, column] == self.cache.bos] = PAD
        self._past[:, -1:] = tokens_ST[:, column : column + 1]
        self.seconds += time.perf_counter() - began
        if column + 1 < tokens_ST.shape[1]:
            self._fill(column + 1)

    def _fill(self, column: int) -> None:
        began = time.perf_counter()
        if self.match is not None:
            self.match.fill(column, self.out_2SV[1], self._copied)
        self.threads.over(len(self._past), lambda a, b: self.cache.fill(self._past[a:b], self.out_2SV[0, a:b], self._counted[a:b]))
        self.seconds += time.perf_counter() - began
