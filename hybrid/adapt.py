"""Test-time training: the network learns from text that has been scored, and scores what comes next with the new weights.

A Part of ScoreFirst.  A chunk is a whole number of windows (of strides, with a stride): all its targets are scored with one
set of weights, then the weights take steps on it.  Nothing computed before an update is used after it.  Over ranks each
scores and differentiates its share of the chunk's windows; the summed gradient moves all alike.  (Dynamic evaluation:
Mikolov et al. 2010, Krause et al. 2018.)

Shapes: N tokens of a stream, n targets of a chunk, B windows, L window length.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xxhash

from hybrid import evaluate, optim
from hybrid.blend import NeuralScores
from hybrid.config import Checked, ConfigError, TrainConfig, setting
from hybrid.distributed import Ranks
from hybrid.model import HybridLM
from ngram.score_first import ScoreFirst, Tokens


@dataclass(frozen=True)
class AdaptConfig(Checked):
    """How the network learns at evaluation.  Defaults are what helped most on held-out text (LOG.md)."""

    chunk_tokens: int = setting(16384, "targets scored between two updates of the network; tokens", low=1)
    rate: float = setting(0.05, "learning rates of test-time training as a share of the training run's", low=0, high=1)
    passes: int = setting(1, "steps on each chunk", low=1, high=16)


class AdaptedNetwork:
    """The part: a private copy of `model`, scored in windows of seq_len with `stride` new targets each (0: side by side).

    settings: the artifact's training settings, whose optimisers and rates are used at adapt.rate of their size."""

    def __init__(self, model: HybridLM, settings: TrainConfig, adapt: AdaptConfig, stride: int, ranks: Ranks) -> None:
        self.seq_len, self.stride, self.adapt, self.ranks = settings.seq_len, stride, adapt, ranks
        if adapt.chunk_tokens % (stride or self.seq_len):
            raise ConfigError(
                f"--ttt-chunk {adapt.chunk_tokens} must be a whole number of {'strides' if stride else 'windows'} of "
                f"{stride or self.seq_len} tokens"
            )
        self.model = copy.deepcopy(model).to(ranks.device)
        scaled = replace(
            settings,
            matrix_lr=settings.matrix_lr * adapt.rate,
            embed_lr=settings.embed_lr * adapt.rate,
            scalar_lr=settings.scalar_lr * adapt.rate,
            matrix_weight_decay=0.0,
        )
        self.optimisers = optim.build(self.model, scaled)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.gradients = optim.flat_gradients(self.parameters)

    def score(self, tokens: Tokens, start: int, stop: int) -> NeuralScores:
        """The network's scores of targets start … stop-1."""
        todo = evaluate.windows_of(start, stop, len(tokens), self.seq_len, self.stride)
        return evaluate.score_windows(self.model, tokens, todo, self.seq_len, self.ranks, first_target=start, targets=stop - start)

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        """Steps on targets start … stop-1, each seen once a pass in a window that begins inside the chunk."""
        rows = [(at, min(at + self.seq_len, stop - 1)) for at in range(start - 1, stop - 1, self.seq_len)]
        self.model.train()
        for _ in range(self.adapt.passes):
            for group in _equal_lengths(rows):
                self._backward(tokens, group, stop - start)
            self.ranks.sum_(self.gradients)
            for optimiser in self.optimisers:
                optimiser.step()
            self.gradients.zero_()

    def digest(self) -> str:
        """xxh3_128 of every learned weight."""
        state = xxhash.xxh3_128()
        for p in self.parameters:
            state.update(p.detach().cpu().contiguous().numpy().view(np.uint8).data)
        return state.hexdigest()

    def _backward(self, tokens: Tokens, rows: Sequence[tuple[int, int]], targets: int) -> None:
        """Adds this rank's share of the gradient of the mean loss over the chunk."""
        mine = rows[len(rows) * self.ranks.rank // self.ranks.world : len(rows) * (self.ranks.rank + 1) // self.ranks.world]
        batch = max(1, evaluate.BATCH_TOKENS[self.ranks.device.type] // 2 // self.seq_len)
        for at in range(0, len(mine), batch):
            block = np.stack([tokens[begin : end + 1] for begin, end in mine[at : at + batch]]).astype(np.int64)
            pairs = torch.from_numpy(block).to(self.ranks.device)
            inputs, wanted = pairs[:, :-1].contiguous(), pairs[:, 1:].contiguous()
            (self.model.loss(inputs, wanted) * (wanted.numel() / targets)).backward()  # type: ignore[no-untyped-call]


def adapted_scores(model: HybridLM, tokens: Tokens, settings: TrainConfig, adapt: AdaptConfig, stride: int, ranks: Ranks) -> NeuralScores:
    """The scores of every target of `tokens` (N,) by a network that learns as it goes; `model` is left as it is."""
    part = AdaptedNetwork(model, settings, adapt, stride, ranks)
    order = ScoreFirst(tokens, {"network": part})
    pieces: list[NeuralScores] = []
    for start, stop in order.chunks(adapt.chunk_tokens):
        pieces.append(order.score(start, stop)["network"])
        if stop < len(tokens):
            order.update(start, stop)
    return NeuralScores(*(np.concatenate([getattr(p, name) for p in pieces]) for name in ("nll_nats", "entropy", "max_logp")))


def _equal_lengths(rows: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The rows in groups of one length: all but the last row of a chunk fill a window."""
    groups: dict[int, list[tuple[int, int]]] = {}
    for begin, end in rows:
        groups.setdefault(end - begin, []).append((begin, end))
    return list(groups.values())
