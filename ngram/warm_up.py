"""Compiling the kernels of evaluation on a handful of tokens, in a thread, while files are read and a network works.

Numba's own store of compiled code on disk is not used: several processes that fill it at once break it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

import numpy as np
from numba.core import event

from ngram.gate import Gate
from ngram.match import MatchColumns, MatchModel
from ngram.online import FEATURES, OnlineCache
from ngram.product import fill_product_rows
from ngram.table import NgramTable


class CompileClock(event.Listener):
    """Seconds that this process has compiled kernels since the clock was made, a kernel's callees counted once."""

    def __init__(self) -> None:
        self.seconds, self._open = 0.0, threading.local()
        event.register("numba:compile", self)

    def on_start(self, _: event.Event) -> None:
        depth = getattr(self._open, "depth", 0)
        if depth == 0:
            self._open.began = time.perf_counter()
        self._open.depth = depth + 1

    def on_end(self, _: event.Event) -> None:
        self._open.depth -= 1
        if self._open.depth == 0:
            self.seconds += time.perf_counter() - self._open.began


CLOCK = CompileClock()


def _cache() -> OnlineCache:
    """A cache of order 2 over two tokens, of the types that every real one has."""
    unigrams, pairs = np.array([0, 1], np.uint16), np.array([0, 1, 0], np.uint16)
    parents = [np.zeros(2, np.uint32), np.array([0, 0, 1], np.uint32)]
    counts = [np.array([2, 1], np.uint16), np.array([1, 1, 1], np.uint16)]
    pruned = [np.zeros(1, np.uint32), np.zeros(2, np.uint32)]
    return OnlineCache(NgramTable(2, 1, [unigrams, pairs], parents, counts, pruned, np.tile([0.5, 1.0, 1.5], (2, 1)), {}))


def _score() -> None:
    _cache().score_then_update(np.zeros(4, np.uint16), 1, 4)


def _rows() -> None:
    _cache().fill_range(np.zeros(4, np.uint16), 1, 4, np.empty((3, 2)))


def _column_rows() -> None:
    _cache().fill(np.zeros((1, 1), np.uint16), np.empty((1, 2)), np.empty((1, len(FEATURES)), np.float32))


def _columns() -> None:
    _cache().update_column(np.zeros((2, 3), np.uint16), np.arange(2), 1)


def _product() -> None:
    fill_product_rows(0, 1, np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 2)), np.empty((1, 2)))


def _match() -> None:
    MatchModel(2, 1).score_then_update(np.zeros(4, np.uint16), 1, 4)


def _match_columns() -> None:
    columns = MatchColumns(np.zeros((2, 3), np.uint16), 1)
    columns.fill(1, np.empty((2, 2)), np.empty((2, 2), np.float32))
    columns.learn(1, np.arange(2))


def _gate() -> None:
    gate = Gate.constant(["a"], [0.5, 0.5], hidden=1, rate=0.5)
    gate.weights(np.zeros((2, 1), np.float32))
    gate.update(np.zeros((2, 1), np.float32), np.full((2, 2), 0.5))


SCORING: tuple[Callable[[], object], ...] = (_cache, _score, _rows, _match, _gate)  # what eval.py runs through
CODING: tuple[Callable[[], object], ...] = (_cache, _columns, _column_rows, _match_columns, _product, _gate)  # what a coder and a decoder run through


class WarmUp:
    """Compiles beside the work inside its `with`; an error in there ends it after the kernel at hand."""

    def __init__(self, *sets: Sequence[Callable[[], object]]) -> None:
        self._work = list(dict.fromkeys(work for one in sets for work in one))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="warm-up")

    def _run(self) -> None:
        for work in self._work:
            if not self._stop.is_set():
                work()

    def __enter__(self) -> "WarmUp":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None:
            self._stop.set()
        self._thread.join()
