"""Compiling the kernels of evaluation on a handful of tokens, in a thread, while files are read and a network works.

A start that finds them in the cache of compiled.py loads them here instead, in a fraction of a second.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from types import TracebackType

import numpy as np

from ngram.blending.gate import Gate
from ngram.blending.product import fill_product_rows
from ngram.online.cache import OnlineCache
from ngram.online.match import MatchModel
from ngram.online.stream_cache import FEATURES, Block
from ngram.table import NgramTable
from ngram.threads import Worker


def tiny_cache() -> OnlineCache:
    """A cache of order 2 over two tokens, of the types that every real one has."""
    unigrams, pairs = np.array([0, 1], np.uint16), np.array([0, 1, 0], np.uint16)
    parents = [np.zeros(2, np.uint32), np.array([0, 0, 1], np.uint32)]
    counts = [np.array([2, 1], np.uint16), np.array([1, 1, 1], np.uint16)]
    pruned = [np.zeros(1, np.uint32), np.zeros(2, np.uint32)]
    return OnlineCache(NgramTable(2, 1, [unigrams, pairs], parents, counts, pruned, np.tile([0.5, 1.0, 1.5], (2, 1)), {}))


def _score() -> None:
    cache = tiny_cache()
    cache.score_then_update(np.zeros(4, np.uint16), 1, 4, block=Block(cache, [1], 3))


def _rows() -> None:
    tiny_cache().ask(np.zeros(4, np.uint16), 1, 4).rows()


def rows_of_histories() -> None:
    tiny_cache().fill(np.zeros((1, 1), np.uint16), np.empty((1, 2)), np.empty((1, len(FEATURES)), np.float32))


def product() -> None:
    fill_product_rows(0, 1, np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 2)), np.empty((1, 2)))


def _match() -> None:
    MatchModel(2, 1).score_then_update(np.zeros(4, np.uint16), 1, 4)


def gate() -> None:
    tiny = Gate.constant(["a"], [0.5, 0.5], hidden=1, rate=0.5)
    tiny.weights(np.zeros((2, 1), np.float32))
    tiny.update(np.zeros((2, 1), np.float32), np.full((2, 2), 0.5))


Work = Callable[[], object]
# what eval.py runs through, its check of whole rows too
SCORING: tuple[Work, ...] = (tiny_cache, _score, _rows, _match, gate)


class WarmUp:
    """Compiles beside the work inside its `with`.

    If the body fails, the rest is left uncompiled and only the kernel at hand is waited for.  If compiling fails and the body does
    not, the end of the `with` raises what compiling raised."""

    def __init__(self, *sets: Sequence[Work]) -> None:
        self._work, self._wanted = list(dict.fromkeys(work for one in sets for work in one)), True
        self._worker = Worker("warm-up", 1)

    def __enter__(self) -> "WarmUp":
        self._worker.submit(self._do)  # as one job: a second would already raise what the first one raised, before the body began
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._wanted = kind is None
        with nullcontext() if self._wanted else suppress(Exception):
            self._worker.wait()

    def _do(self) -> None:
        for work in self._work:
            if self._wanted:
                work()
