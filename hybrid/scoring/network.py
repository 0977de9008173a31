"""The network's scores of a stream for a reader who has the whole text: computed ahead in large batches.

stepwise.py gives the same bits to a reader who has not.

Shapes: N tokens of a stream, n targets, S targets whose rows are here, V vocabulary.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from operator import attrgetter, call
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ngram.arrays import F32, F64
from ngram.score_first import Tokens

Rows = tuple[int, Tensor]  # first target, and (S, V) log-probabilities of it and those behind it


@dataclass(frozen=True)
class NeuralScores:
    """The network's view of consecutive targets; entry i belongs to target first + i.

    nll_nats (n,) float64; entropy (n,) float32, nats; max_logp (n,) float32, nats, the likeliest token's.
    rows (S, V): whole log-probabilities, on the network's device, of the targets rows_first … that this rank has computed."""

    nll_nats: F64
    entropy: F32
    max_logp: F32
    first: int = 1
    rows: Tensor | None = None
    rows_first: int = 1

    @property
    def stop(self) -> int:
        """The target behind the last."""
        return self.first + len(self.nll_nats)

    def part(self, start: int, stop: int) -> "NeuralScores":
        """Targets start … stop-1 of it, views."""
        inside = slice(start - self.first, stop - self.first)
        rows, at = self.rows, max(start, self.rows_first)
        if rows is not None:
            rows = rows[at - self.rows_first : max(0, stop - self.rows_first)]
        return NeuralScores(self.nll_nats[inside], self.entropy[inside], self.max_logp[inside], start, rows, at)

    def features(self) -> F32:
        """(n, 2) float32: entropy and greatest log-probability."""
        return np.stack([self.entropy, self.max_logp], axis=1)


def rows_of(pieces: Sequence[NeuralScores]) -> list[Rows]:
    """Those rows of the pieces that this rank has."""
    return [(piece.rows_first, piece.rows) for piece in pieces if piece.rows is not None and len(piece.rows)]


Launched = Callable[[], NeuralScores]  # waits for a block that the device has been given
_side = cache(torch.cuda.Stream)  # one a GPU, so that networks share its memory; no priority is lower


def ahead(launches: Iterator[Launched], device: torch.device) -> Iterator[NeuralScores]:
    """The blocks, computed as they are asked for; on CUDA launched on a stream of their own before the one in front is handed out.

    What is handed out is computed: any stream may read it.  A launch's error is raised where its block is asked for."""
    if device.type != "cuda":
        yield from map(call, launches)  # holds no block
        return
    block, side = None, _side(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with suppress(StopIteration):
        while True:
            try:
                with torch.cuda.stream(side):
                    coming = next(launches)
            finally:
                if block is not None:
                    yield block()
            block = coming


class Network(Protocol):
    """Where a predictor gets the network's scores from.  seconds: of work; on a GPU, of launching and waiting.

    take  scores of targets start … stop-1 of `tokens`, in consecutive pieces; what lies before `start` is let go
    look  scores of position t alone, with its row where this rank has it; nll_nats may be anything, the target need not be known
    ahead whether `take` may be asked for targets that are not scored yet"""

    seconds: float
    ahead: bool

    def take(self, tokens: Tokens, start: int, stop: int) -> Sequence[NeuralScores]: ...
    def look(self, tokens: Tokens, t: int) -> NeuralScores: ...
    def nll_nats(self) -> F64: ...


class NetworkAhead:
    """Scores from an iterator of blocks, pulled as they are asked for, in order."""

    ahead = True

    def __init__(self, blocks: Iterable[NeuralScores]) -> None:
        self.blocks, self._held, self._nats, self.seconds = iter(blocks), list[NeuralScores](), list[F64](), 0.0

    def take(self, _: Tokens, start: int, stop: int) -> Sequence[NeuralScores]:
        while not self._held or self._held[-1].stop < stop:
            began = time.perf_counter()
            self._held.append(next(self.blocks))
            self.seconds += time.perf_counter() - began
            self._nats.append(self._held[-1].nll_nats)
        self._held = [block for block in self._held if block.stop > start]
        return [block.part(max(start, block.first), min(stop, block.stop)) for block in self._held if block.first < stop]

    def look(self, tokens: Tokens, t: int) -> NeuralScores:
        return self.take(tokens, t, t + 1)[0]

    def nll_nats(self) -> F64:
        """(N-1,) float64 nats of every target of the stream; computes what is left."""
        self._held = []
        self._nats += map(attrgetter("nll_nats"), self.blocks)
        return np.concatenate(self._nats)
