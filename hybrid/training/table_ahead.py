"""TableAhead: from counts to a table that only waits for its size, made beside training once everything is counted."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from ngram.arrays import digest
from ngram.counting.build_table import build_table
from ngram.counting.row_counter import RowCounter
from ngram.counting.run import Run
from ngram.storing.fit_bytes import Stages
from ngram.threads import Worker

LARGE_CORPUS = 10_000_000  # positions from which singletons of long n-grams are dropped before anything is built
Result = TypeVar("Result")


class TableAhead:
    """What follows from counts alone, on a thread for which an interrupted run does not wait.

    room: about the bytes that the table will have.  They change which table is found, so they follow from the settings.
    figures: of the counts and of the table, and the thread's seconds."""

    def __init__(self, cache: RowCounter, room: int) -> None:
        self.cache, self.begun, self.figures = cache, False, dict[str, Any]()
        self._room, self._worker = room, Worker("table", 1, daemon=True)

    def begin(self, run: Run | None = None) -> None:
        """Begins the table of a run, by default of what this process has counted, and returns at once."""
        self.begun = True
        self._worker.submit(partial(self._make, run))

    def stages(self) -> Stages:
        """The table, and what pruning it begins with.  Raises what making them raised."""
        self._worker.wait()
        return self._stages

    def warm_up(self) -> None:
        """Compiles the kernels of counting and of what follows from it; counts nothing."""
        TableAhead(self.cache, self._room)._make(self.cache.warm_up())

    def _make(self, run: Run | None) -> None:
        cache = self.cache
        counted = self._timed("merge_s", cache.run) if run is None else run
        self.figures |= {"positions": counted.total(), "digest": digest(*counted.columns())}
        threshold = [1 if n <= 3 else 2 for n in range(1, cache.order + 1)] if counted.total() > LARGE_CORPUS else None
        table = self._timed("table_s", lambda: build_table(counted, cache.vocab_size, cache.bos, cache.order, threshold))
        self._stages = self._timed("rank_s", lambda: Stages(table))
        self._timed("code_s", lambda: self._stages.begin(self._room))
        self.figures["ngrams"] = sum(table.sizes())

    def _timed(self, name: str, part: Callable[[], Result]) -> Result:
        begin = time.monotonic()
        result = part()
        self.figures[name] = time.monotonic() - begin
        return result
