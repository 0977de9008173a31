"""TableAhead: from counts to a table that only waits for its size in bytes, made beside training as soon as everything is counted."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

from hybrid.model.hybrid_lm import HybridLM
from hybrid.parallel.ranks import Ranks
from hybrid.settings.config import Config
from hybrid.storing import quantise
from hybrid.storing.counted_code import code_bytes
from ngram.counting.build_table import build_table
from ngram.counting.row_counter import RowCounter
from ngram.counting.run import Run
from ngram.storing.fit_bytes import Stages

Result = TypeVar("Result")
LARGE_CORPUS = 10_000_000  # positions from which singletons of long n-grams are dropped before anything is built


def has_idle_cores(ranks: Ranks) -> bool:
    """Whether work beside training slows nothing down: on a CPU, training has all cores, and several ranks still have to add up their counts."""
    return ranks.world == 1 and ranks.device.type == "cuda"


def room_for_table(config: Config, model: HybridLM) -> int:
    """About how many bytes an artifact has for the table; negative where the model is too large."""
    return config.cache.cap_bytes - code_bytes() - quantise.expected_bytes(model.state_dict(), config.quant)


class TableAhead:
    """What follows from the counts of a run alone, on a thread of its own, for which an interrupted run does not wait.

    room: bytes that will be left for the table, as far as the settings tell: it changes which table is found, so it is the same however
    often a run was interrupted, and whether the table is begun beside training or after it.  seconds: what the thread took, by part."""

    def __init__(self, cache: RowCounter, room: int) -> None:
        self.cache, self.begun, self.seconds = cache, False, dict[str, float]()
        self._room, self._run, self._stages = room, Future[Run](), Future[Stages]()

    def begin(self, counted: Callable[[], Run]) -> None:
        """Goes on from the run that `counted` gives, and returns at once."""
        self.begun = True
        Thread(target=self._make, args=(counted,), name="table", daemon=True).start()

    def warm_up(self) -> None:
        """Compiles the kernels of counting and of what follows from it; counts nothing."""
        small = TableAhead(self.cache, self._room)
        small._make(self.cache.warm_up)
        small.stages()

    def run(self) -> Run:
        """The counts of this process."""
        return self._run.result() if self.begun else self.cache.run()

    def stages(self) -> Stages:
        """The table, and what pruning it begins with.  Raises what making them raised."""
        return self._stages.result()

    def _make(self, counted: Callable[[], Run]) -> None:
        try:
            run = self._timed("merge", counted)
            self._run.set_result(run)
            cache = self.cache
            threshold = [1 if n <= 3 else 2 for n in range(1, cache.order + 1)] if run.total() > LARGE_CORPUS else None
            table = self._timed("table", lambda: build_table(run, cache.vocab_size, cache.bos, cache.order, threshold))
            stages = self._timed("rank", lambda: Stages(table))
            self._timed("code", lambda: stages.begin(self._room))
            self._stages.set_result(stages)
        except BaseException as error:  # raised where the results are asked for
            for result in (self._run, self._stages):
                if not result.done():
                    result.set_exception(error)

    def _timed(self, name: str, part: Callable[[], Result]) -> Result:
        begin = time.monotonic()
        result = part()
        self.seconds[name + "_s"] = time.monotonic() - begin
        return result
