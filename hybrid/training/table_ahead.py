"""From counts to a table that only waits for its size, made beside training once everything is counted."""

import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from hybrid.storing.counted_code import ROOT
from ngram.arrays import digest
from ngram.compiled import KernelCache
from ngram.counting.build_table import build_table
from ngram.counting.row_counter import RowCounter
from ngram.counting.run import Run
from ngram.storing.fit_bytes import Stages
from ngram.threads import Worker

LARGE_CORPUS = 10_000_000  # positions from which singletons of long n-grams are dropped before anything is built


class TableAhead:
    """What follows from counts alone, on a thread for which an interrupted run does not wait.

    room: about the bytes that the table will have.  They change which table is found, so they follow from the settings alone.
    figures: of counts and table, and the thread's seconds."""

    def __init__(self, cache: RowCounter, room: int) -> None:
        self.cache, self.begun, self.figures = cache, False, dict[str, Any]()
        self._room, self._worker = room, Worker("table", 1, daemon=True)

    def begin(self, run: Run | None = None) -> None:
        """Begins the table of a run, by default of what this process has counted, and returns at once."""
        self.begun = True
        self._worker.submit(partial(self._make, run))

    def code(self) -> None:
        """Goes on to `Stages.begin`, and returns at once.  Much of that is Python, for which training would wait."""
        self._worker.submit(lambda: self._stages.begin(self._room))

    def stages(self) -> Stages:
        """The table, and what pruning it begins with.  Raises what making them raised."""
        self._worker.wait()
        return self._stages

    def warm_up(self, aside: bool = False) -> None:
        """Compiles every kernel from counting on, `aside` first in another process, where it takes no lock of this one; counts nothing."""
        if aside:
            numbers, heard = (self.cache.vocab_size, self.cache.order, self.cache.bos), None if KernelCache.announces else subprocess.DEVNULL
            with suppress(OSError):
                subprocess.run([sys.executable, "-m", __name__, *map(str, numbers)], cwd=ROOT, stderr=heard, start_new_session=True)
        other = TableAhead(self.cache, self._room)
        other._make(self.cache.warm_up())
        other._stages.begin(self._room)

    def _make(self, run: Run | None) -> None:
        clock, cache = [time.monotonic()], self.cache
        counted = cache.run() if run is None else run
        clock.append(time.monotonic())
        threshold = [1 if n <= 3 else 2 for n in range(1, cache.order + 1)] if counted.total() > LARGE_CORPUS else None
        table = build_table(counted, cache.vocab_size, cache.bos, cache.order, threshold)
        clock.append(time.monotonic())
        self._stages = Stages(table)
        clock.append(time.monotonic())
        seconds = zip(("merge_s", "table_s", "rank_s"), np.diff(clock).tolist(), strict=True)
        self.figures = {"positions": counted.total(), "ngrams": sum(table.sizes()), "digest": digest(*counted.columns()), **dict(seconds)}


if __name__ == "__main__":
    KernelCache.announces = True
    TableAhead(RowCounter(*map(int, sys.argv[1:])), 1 << 20).warm_up()
