"""The predictor for a reader to whom the text is not known: one position at a time, from the tokens before it and no others.

The decoder and the audit read so.  For every position the same windows are computed in the same batch as for a reader who has the whole
text (network.NetworkAhead), with zeros where tokens are still unknown.  No position of a window looks to its right, and the shapes are
the same, so both get the same bits.
"""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.recorded import RecordedModel
from hybrid.parallel.ranks import Ranks
from hybrid.scoring.build import predictor_of
from hybrid.scoring.network import Network, NeuralScores
from hybrid.scoring.options import EvalOptions
from hybrid.scoring.predictor import Predictor
from hybrid.scoring.product import ProductScorer
from hybrid.scoring.test_time_training import AdaptedNetwork
from hybrid.scoring.windows import batch_of, score_windows, windows, windows_of
from hybrid.storing.artifact import Artifact
from ngram.arrays import F64
from ngram.blending.gate import LEAST
from ngram.errors import SeedgramError
from ngram.online.stream_cache import Block, StreamCache
from ngram.score_first import Tokens


class Forward(Protocol):
    """Computes scores of a stream of which only the tokens before t are known; see FrozenForward and AdaptedForward."""

    def around(self, known: Tokens, t: int) -> NeuralScores:
        """Scores of a range around target t, with rows; `known` (N,) holds zeros from t on.  Only t's own are of use."""
        ...

    def learned(self, known: Tokens, t: int) -> None:
        """Told after every target, when it is known: a chunk that ends with t may be learned."""
        ...


class NetworkStepwise:
    """Scores one position at a time, from the tokens before it and no others.  size: N, known in advance."""

    ahead = False

    def __init__(self, forward: Forward, size: int) -> None:
        self._forward, self._known = forward, np.zeros(size, np.uint16)
        self._seen, self._nats, self.seconds = 0, list[float](), 0.0
        self._held: NeuralScores | None = None

    def look(self, tokens: Tokens, t: int) -> NeuralScores:
        if self._held is None or self._held.first != t:
            self._known[self._seen : t] = tokens[self._seen : t]
            began = time.perf_counter()
            self._held = self._forward.around(self._known, t).part(t, t + 1)
            self.seconds += time.perf_counter() - began
        return self._held

    def take(self, tokens: Tokens, start: int, stop: int) -> Sequence[NeuralScores]:
        if stop != start + 1:
            raise SeedgramError(f"targets {start}…{stop - 1}: one at a time where the text is not known in advance")
        seen = self.look(tokens, start)
        assert seen.rows is not None
        nats = -float(seen.rows[0, int(tokens[start])])
        self._nats.append(nats)
        self.tell(tokens, start)
        return [NeuralScores(np.array([nats]), seen.entropy, seen.max_logp, start, seen.rows, start)]

    def tell(self, tokens: Tokens, t: int) -> None:
        """Target t is known now; `take` says so itself."""
        self._known[self._seen : t + 1] = tokens[self._seen : t + 1]
        self._seen = t + 1
        self._forward.learned(self._known, t)

    def nll_nats(self) -> F64:
        return np.array(self._nats)


class FrozenForward:
    """The windows of `neural_blocks` for a reader who knows the stream only up to some target; see Forward.  One rank."""

    def __init__(self, model: HybridLM, size: int, seq_len: int, stride: int, device: torch.device, *, batch_windows: int = 0) -> None:
        self.model: Any = RecordedModel(model.to(device)) if device.type == "cuda" else model.to(device)
        self.seq_len, self.ranks, self.batch_windows = seq_len, Ranks(0, 1, device), batch_windows
        self._windows = list(windows(size, seq_len, stride))
        self._last = np.array([end for _, end, _ in self._windows])  # the last target of each
        self._step = batch_windows or batch_of(seq_len, device)

    def around(self, known: Tokens, t: int) -> NeuralScores:
        at = int(np.searchsorted(self._last, t)) // self._step * self._step
        return score_windows(self.model, known, self._windows[at : at + self._step], self.seq_len, self.ranks, batch_windows=self.batch_windows)()

    def learned(self, known: Tokens, t: int) -> None:
        """Nothing to do: it does not learn."""


class AdaptedForward(AdaptedNetwork):
    """The same of a network that learns; see Forward."""

    def around(self, known: Tokens, t: int) -> NeuralScores:
        """Scores of the chunk that target t is in, or of its window where each is computed alone; see Forward."""
        start = 1 + (t - 1) // self.chunk_tokens * self.chunk_tokens
        stop = min(start + self.chunk_tokens, len(known))
        if self.exact:
            todo = windows_of(start, stop, len(known), self.seq_len, self.stride)
            start, stop = next((first, end + 1) for _, end, first in todo if first <= t <= end)
        return self.score(known, start, stop)()

    def learned(self, known: Tokens, t: int) -> None:
        """Takes a step where target t ends a chunk."""
        if t % self.chunk_tokens == 0 and t + 1 < len(known):
            self.update(known, t + 1 - self.chunk_tokens, t + 1)


class SteppedProduct(ProductScorer):
    """The same for a reader to whom the text is unknown: rows are read one by one, from a cache that lags behind.

    twin: a second cache, which learns a block of targets when the next begins; None: the cache itself stands still for a block."""

    by_parts = False

    def __init__(self, twin: StreamCache | None) -> None:
        super().__init__()
        self._twin, self._learned = twin, 1

    def open(self, tokens: Tokens, start: int) -> None:
        if self._twin is not None:
            self._twin.update(tokens, self._learned, start)
            self._learned = start

    def read(self, tokens: Tokens, block: Block, first: int, last: int, like: Tensor) -> Tensor:
        rows_SV = (self._twin or block.cache).ask(tokens, first, last).rows()
        return torch.from_numpy(rows_SV).to(like.device).clamp_min(LEAST).log().to(like.dtype)


def network_stepwise(art: Artifact, size: int, options: EvalOptions, ranks: Ranks) -> NetworkStepwise:
    """The scores of build.network_ahead for a reader who learns the `size` tokens one by one."""
    seq_len = art.config.train.seq_len
    if options.adapt is not None:
        forward = AdaptedForward(art.model, seq_len, options.stride, options.adapt, ranks, exact=options.exact)
        return NetworkStepwise(forward, size)
    plain: Forward = FrozenForward(art.model, size, seq_len, options.stride, ranks.device, batch_windows=int(options.exact))
    return NetworkStepwise(plain, size)


def predictor_stepwise(art: Artifact, network: Network, options: EvalOptions, *, ranks: Ranks | None = None) -> Predictor:
    """The predictor of build.predictor_of for a network that is not asked ahead."""
    lags = options.online and not (options.cache_by_chunk or options.paranoid)
    product = SteppedProduct(StreamCache(art.table) if lags and options.product and art.table is not None else None)
    return predictor_of(art, network, options, ranks=ranks, product=product)
