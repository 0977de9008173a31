"""Test-time training: the network learns from text that has been scored, and scores what comes next with the new weights.

A Part of ScoreFirst.  A chunk is a whole number of windows (of strides, with a stride): all its targets are scored with one
set of weights, then the weights take a step on it.  Each rank differentiates its share of the chunk's windows; the summed
gradient moves all alike.  (Dynamic evaluation: Mikolov et al. 2010, Krause et al. 2018.)

Shapes: N tokens of a stream, n targets of a chunk, B windows, L window length.
"""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import flat_gradients
from hybrid.model.recorded import RecordedModel, recorded
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import windows
from hybrid.scoring.network import Launched, NeuralScores, ahead
from hybrid.scoring.options import AdaptConfig
from hybrid.settings.config import ConfigError
from ngram.arrays import digest
from ngram.score_first import ScoreFirst, Tokens

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS repeats its bits only with a workspace of fixed size


class Learner:
    """A private copy of a model, all of whose parameters take steps.

    Steps are Adam's without momentum: with it, what was learned from one document pushes on into the next (LOG.md)."""

    def __init__(self, model: HybridLM, adapt: AdaptConfig, ranks: Ranks) -> None:
        self.model, self.ranks = copy.deepcopy(model).to(ranks.device).requires_grad_(), ranks
        self.parameters: list[torch.Tensor] = list(self.model.parameters())
        self.gradients = flat_gradients(self.parameters)
        on_cuda = ranks.device.type == "cuda"
        self.optimiser = torch.optim.Adam(self.parameters, lr=adapt.rate, betas=(0.0, 0.999), foreach=not on_cuda, fused=on_cuda, capturable=on_cuda)

    def backward(self, inputs_BL: torch.Tensor, targets_BL: torch.Tensor, share_BL: torch.Tensor | float) -> None:
        """Adds the gradient of Σ share · nats."""
        with torch.enable_grad():
            (self.model.token_nll(inputs_BL, targets_BL) * share_BL).sum().backward()  # type: ignore[no-untyped-call]

    def recorded(self, length: int) -> Callable[[torch.Tensor], None]:
        """A step on a window (1, length + 1) as one CUDA graph instead of hundreds of launches.  The steps that recording it takes are undone."""
        window_1L = torch.zeros(1, length + 1, dtype=torch.int64, device=self.ranks.device)
        before = [p.detach().clone() for p in self.parameters]

        def once() -> None:
            self.backward(window_1L[:, :-1], window_1L[:, 1:], 1 / length)
            self.step()

        def replay(window: torch.Tensor) -> None:
            window_1L.copy_(window)
            graph.replay()

        graph = recorded(once, warm=3)
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, before)
            torch._foreach_zero_([value for state in self.optimiser.state.values() for value in state.values()])
        return replay

    def step(self) -> None:
        """One step along what all ranks have added."""
        self.ranks.sum_(self.gradients)
        self.optimiser.step()
        self.gradients.zero_()

    def digest(self) -> str:
        """xxh3_128 of every learned weight and of what the next step depends on."""
        moments = [self.optimiser.state[p].get("exp_avg_sq", p.new_zeros(0)) for p in self.parameters]
        return digest(*(tensor.detach().cpu().numpy() for tensor in (*self.parameters, *moments)))


class AdaptedNetwork:
    """The part, scored in windows of seq_len with `stride` new targets each (0: side by side); `model` is left as it is.

    exact: one window at a time, and only algorithms that give the same bits every time (see `repeatable`)."""

    def __init__(self, model: HybridLM, seq_len: int, stride: int, adapt: AdaptConfig, ranks: Ranks, *, exact: bool = False) -> None:
        self.seq_len, self.stride, self.ranks, self.exact = seq_len, stride, ranks, exact
        self.chunk_tokens = adapt.chunk_tokens or seq_len
        if self.chunk_tokens % (stride or seq_len):
            kind = f"strides of {stride}" if stride else f"windows of {seq_len}"
            raise ConfigError(f"--ttt-chunk {self.chunk_tokens} must be a whole number of {kind} tokens")
        self.learner, on_cuda = Learner(model, adapt, ranks), ranks.device.type == "cuda"
        self.model: Any = RecordedModel(self.learner.model) if on_cuda else self.learner.model
        # on a GPU sums have an order that other work there does not change
        self._learning = exact_gradients if exact else repeatable if on_cuda else nullcontext
        with self._learning():
            whole = on_cuda and ranks.world == 1 and not exact and self.chunk_tokens == seq_len
            self._replay = self.learner.recorded(seq_len) if whole else None

    def score(self, tokens: Tokens, start: int, stop: int) -> Launched:
        """The network's scores of targets start … stop-1, with rows."""
        todo = windows.windows_of(start, stop, len(tokens), self.seq_len, self.stride)
        return windows.score_windows(self.model, tokens, todo, self.seq_len, self.ranks, batch_windows=int(self.exact))

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        """One step on targets start … stop-1, each seen in a window that begins inside the chunk."""
        if self._replay is not None and stop - start == self.seq_len:
            self._replay(self.ranks.sent(tokens[None, start - 1 : stop].astype(np.int64)))
            return
        with self._learning():
            self._add_gradients(tokens, start, stop)
            self.learner.step()

    def _add_gradients(self, tokens: Tokens, start: int, stop: int) -> None:
        rows = [(at, min(at + self.seq_len, stop - 1)) for at in range(start - 1, stop - 1, self.seq_len)]
        # half a batch: room for gradients and saved activations
        batch = 1 if self.exact else max(1, windows.batch_of(self.seq_len, self.ranks.device) // 2)
        for _, same in groupby(rows, key=lambda row: row[1] - row[0]):  # all but the last row of a chunk fill a window
            group = list(same)
            mine = group[len(group) * self.ranks.rank // self.ranks.world : len(group) * (self.ranks.rank + 1) // self.ranks.world]
            for at in range(0, len(mine), batch):
                pairs = self.ranks.sent(np.stack([tokens[begin : end + 1] for begin, end in mine[at : at + batch]]).astype(np.int64))
                self.learner.backward(pairs[:, :-1], pairs[:, 1:], 1 / (stop - start))

    def digest(self) -> str:
        return self.learner.digest()


@contextmanager
def repeatable() -> Iterator[None]:
    """Only algorithms that give the same bits in every process; on CUDA, one that cannot raises RuntimeError with its name.

    Both settings are the whole process's, and are put back at the end."""
    before, workspace = torch.are_deterministic_algorithms_enabled(), os.environ.get(CUBLAS_WORKSPACE)
    os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")  # PyTorch's own size on Hopper, but cuBLAS is only trusted when asked
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        if workspace is None:
            del os.environ[CUBLAS_WORKSPACE]


@contextmanager
def exact_gradients() -> Iterator[None]:
    """`repeatable` algorithms, and attention computed the plain way, whose gradient has one order of additions."""
    with sdpa_kernel(SDPBackend.MATH), repeatable():
        yield


def adapted_blocks(
    model: HybridLM, tokens: Tokens, seq_len: int, stride: int, adapt: AdaptConfig, ranks: Ranks, *, exact: bool = False
) -> Iterator[NeuralScores]:
    """The scores of every target of `tokens` (N,), chunk by chunk, by a network that learns as it goes; `model` is left as it is.

    A chunk is learned before the next is computed, on the same stream."""

    def launches() -> Iterator[Launched]:
        part = AdaptedNetwork(model, seq_len, stride, adapt, ranks, exact=exact)
        order = ScoreFirst(tokens, {"network": part})
        for start, stop in order.chunks(part.chunk_tokens):
            yield order.score(start, stop)["network"]
            if stop < len(tokens):
                order.update(start, stop)

    return ahead(launches(), ranks.device)
