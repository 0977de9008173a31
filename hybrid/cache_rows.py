"""CacheRows: the n-gram cache's share of a lockstep column, counted and read beside the network's work.

Shapes: S streams, T tokens a stream, V vocabulary, F features of the cache.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from ngram.gate import F32, F64
from ngram.online import FEATURES, OnlineCache
from ngram.table import PAD, U16

PART = 32  # rows that are worth handing to another thread


class Threads:
    """A few threads that share rows out; every row is one thread's whole work, so no bit depends on how many there are."""

    def __init__(self, count: int) -> None:
        self.count, self.pool = count, ThreadPoolExecutor(count + 1)  # one more, for the thread that hands out

    def over(self, rows: int, work: Callable[[int, int], None]) -> None:
        """work(begin, end) for parts of range(rows), the first of them in this thread; returns when all are done."""
        parts = max(1, min(self.count, rows // PART))
        edges = [rows * i // parts for i in range(parts + 1)]
        others = [self.pool.submit(work, edges[i], edges[i + 1]) for i in range(1, parts)]
        work(edges[0], edges[1])
        for other in others:
            other.result()

    def close(self) -> None:
        self.pool.shutdown()


class CacheRows:
    """Distributions of the next token of S streams by one shared cache.

    out_SV: (S, V) float64, holds the distributions after `finish`, as `features` (S, F) float32 do.  seconds: time worked."""

    def __init__(self, cache: OnlineCache, streams: int, threads: Threads, out_SV: F64) -> None:
        self.cache, self.threads, self.out_SV, self.seconds = cache, threads, out_SV, 0.0
        self.features: F32 = np.empty((streams, len(FEATURES)), np.float32)
        self._past = np.full((streams, cache.order - 1), PAD, dtype=np.uint16)
        self._job: Future[None] = threads.pool.submit(self._fill)

    def start(self, tokens_ST: U16, column: int, active: npt.NDArray[np.int64], learn: bool) -> None:
        """Takes the tokens of `column`; learn: the active streams' are counted, in stream order, before anything is read."""
        self._job = self.threads.pool.submit(self._next, tokens_ST, column, active, learn)

    def finish(self) -> None:
        """Waits until `out_SV` and `features` are there."""
        self._job.result()

    def _next(self, tokens_ST: U16, column: int, active: npt.NDArray[np.int64], learn: bool) -> None:
        began = time.perf_counter()
        if learn:
            self.cache.update_column(tokens_ST, active, column)
        self._past[:, :-1] = self._past[:, 1:]
        self._past[tokens_ST[:, column] == self.cache.bos] = PAD
        self._past[:, -1:] = tokens_ST[:, column : column + 1]
        self.seconds += time.perf_counter() - began
        if column + 1 < tokens_ST.shape[1]:
            self._fill()

    def _fill(self) -> None:
        began = time.perf_counter()
        self.threads.over(len(self._past), lambda a, b: self.cache.fill(self._past[a:b], self.out_SV[a:b], self.features[a:b]))
        self.seconds += time.perf_counter() - began
