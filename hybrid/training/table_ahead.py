"""TableAhead: from counts to a table that is ready to be pruned, beside training where all has been counted before training ends."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread

from ngram.counting.build_table import build_table
from ngram.counting.row_counter import RowCounter
from ngram.counting.run import Run
from ngram.storing.fit_bytes import Stages

LARGE_CORPUS = 10_000_000  # positions from which singletons of long n-grams are dropped before anything is built
AHEAD_BYTES = 1 << 21  # for which stages of pruning are made beforehand


class TableAhead:
    """What follows from the counts of a run alone, made on a thread that an interrupted run does not wait for."""

    def __init__(self, cache: RowCounter) -> None:
        self.cache, self.begun, self._made = cache, False, Future[tuple[Run, Stages]]()

    def begin(self, counted: Callable[[], Run]) -> None:
        """Goes on from the run that `counted` gives, and returns at once."""
        self.begun = True
        Thread(target=self._make, args=(counted,), name="table", daemon=True).start()

    def run(self) -> Run:
        """The counts of this process."""
        return self._made.result()[0] if self.begun else self.cache.run()

    def stages(self) -> Stages:
        """The table and what pruning begins with."""
        return self._made.result()[1]

    def _make(self, counted: Callable[[], Run]) -> None:
        try:
            run, cache = counted(), self.cache
            threshold = [1 if n <= 3 else 2 for n in range(1, cache.order + 1)] if run.total() > LARGE_CORPUS else None
            stages = Stages(build_table(run, cache.vocab_size, cache.bos, cache.order, threshold))
            stages.until(AHEAD_BYTES)
            self._made.set_result((run, stages))
        except BaseException as error:  # raised where the result is asked for
            self._made.set_exception(error)
