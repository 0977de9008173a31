"""Test-time training: the network learns from text that has been scored, and scores what comes next with the new weights.

A Part of ScoreFirst.  A chunk is a whole number of windows (of strides, with a stride): all its targets are scored with one
set of weights, then the weights take a step on it.  Nothing computed before an update is used after it.  Over ranks each
scores and differentiates its share of the chunk's windows; the summed gradient moves all alike.  (Dynamic evaluation:
Mikolov et al. 2010, Krause et al. 2018.)

Shapes: N tokens of a stream, n targets of a chunk, B windows, L window length.
"""

import argparse
import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybrid import optim, windows
from hybrid.blend import NeuralScores
from hybrid.config import Checked, ConfigError, setting
from hybrid.distributed import Ranks
from hybrid.model import HybridLM, parameter_kind
from ngram.score_first import ScoreFirst, Tokens

SCOPES = {"matrices": ("matrix",), "scalars": ("matrix", "scalar"), "all": ("matrix", "scalar", "embedding")}  # kinds of parameters
STREAMS_AT_ONCE = 4  # in one backward pass: plain attention keeps their scores (16 took 37 GB at windows of 2,048)


@dataclass(frozen=True)
class AdaptConfig(Checked):
    """How the network learns at evaluation.  Defaults are what helped most on held-out text (LOG.md)."""

    chunk_tokens: int = setting(0, "targets scored between two updates of the network, 0: one window; tokens", low=0)
    rate: float = setting(1e-4, "step of every weight a chunk, in units of its gradient's running root mean square", low=0, high=1)
    decay: float = setting(0.0, "share of the way back to the artifact's weights after every step", low=0, high=1)
    scope: str = setting("all", "what takes steps: block matrices; scalars: gains and gates as well; all: embeddings, too", choices=tuple(SCOPES))


def add_adapt_flags(parser: argparse.ArgumentParser, *, switch: bool = True) -> None:
    """--ttt (without `switch` the network always learns), and one flag for every field of AdaptConfig."""
    if switch:
        parser.add_argument("--ttt", action="store_true", help="test-time training: the network, too, learns from what was scored")
    else:
        parser.set_defaults(ttt=True)
    for field in fields(AdaptConfig):
        name, choices = field.name.replace("_tokens", ""), field.metadata["choices"]
        shown = {"choices": choices} if choices else {"metavar": "X"}
        words = f"{field.metadata['help']} [{field.default}]"
        parser.add_argument(f"--ttt-{name}", type=type(field.default), default=field.default, help=words, **shown)


def adapt_settings(flags: argparse.Namespace) -> AdaptConfig | None:
    """What the flags of `add_adapt_flags` say; None: the network does not learn.  Raises ConfigError on a value out of range."""
    return AdaptConfig(flags.ttt_chunk, flags.ttt_rate, flags.ttt_decay, flags.ttt_scope) if flags.ttt else None


class Learner:
    """A private copy of a model whose parameters in adapt.scope take steps: of matrices, the adapters where maps are frozen.

    Steps are Adam's without momentum: with it, what was learned from one document pushes on into the next (LOG.md)."""

    def __init__(self, model: HybridLM, adapt: AdaptConfig, ranks: Ranks) -> None:
        self.model, self.adapt, self.ranks = copy.deepcopy(model).to(ranks.device), adapt, ranks
        for name, p in self.model.named_parameters():
            p.requires_grad_(parameter_kind(name, p.ndim) in SCOPES[adapt.scope])
        self.parameters: list[torch.Tensor] = [p for p in self.model.parameters() if p.requires_grad]
        self.home = [p.detach().clone() for p in self.parameters]
        self.gradients = optim.flat_gradients(self.parameters)
        on_cuda = ranks.device.type == "cuda"
        self.optimiser = torch.optim.Adam(self.parameters, lr=adapt.rate, betas=(0.0, 0.999), foreach=not on_cuda, fused=on_cuda)

    def backward(self, inputs_BL: torch.Tensor, targets_BL: torch.Tensor, share_BL: torch.Tensor | float) -> None:
        """Adds the gradient of Σ share · nats."""
        with torch.enable_grad():
            (self.model.token_nll(inputs_BL, targets_BL) * share_BL).sum().backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """One step along what all ranks have added; then the way home by adapt.decay."""
        self.ranks.sum_(self.gradients)
        self.optimiser.step()
        self.gradients.zero_()
        if self.adapt.decay:
            with torch.no_grad():
                torch._foreach_lerp_(self.parameters, self.home, self.adapt.decay)

    def digest(self) -> str:
        """xxh3_128 of every learned weight and of what the next step depends on."""
        state = xxhash.xxh3_128()
        moments = [self.optimiser.state[p].get("exp_avg_sq", p.new_zeros(0)) for p in self.parameters]
        for tensor in (*self.parameters, *moments):
            state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return state.hexdigest()


class AdaptedNetwork:
    """The part, scored in windows of seq_len with `stride` new targets each (0: side by side); `model` is left as it is."""

    def __init__(self, model: HybridLM, seq_len: int, stride: int, adapt: AdaptConfig, ranks: Ranks) -> None:
        self.seq_len, self.stride, self.ranks = seq_len, stride, ranks
        self.chunk_tokens = adapt.chunk_tokens or seq_len
        if self.chunk_tokens % (stride or seq_len):
            kind = f"strides of {stride}" if stride else f"windows of {seq_len}"
            raise ConfigError(f"--ttt-chunk {self.chunk_tokens} must be a whole number of {kind} tokens")
        self.learner = Learner(model, adapt, ranks)

    def score(self, tokens: Tokens, start: int, stop: int) -> NeuralScores:
        """The network's scores of targets start … stop-1, with rows."""
        todo = windows.windows_of(start, stop, len(tokens), self.seq_len, self.stride)
        return windows.score_windows(self.learner.model, tokens, todo, self.seq_len, self.ranks)

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        """One step on targets start … stop-1, each seen in a window that begins inside the chunk."""
        rows = [(at, min(at + self.seq_len, stop - 1)) for at in range(start - 1, stop - 1, self.seq_len)]
        batch = max(1, windows.batch_of(self.seq_len, self.ranks.device) // 2)  # half: room for gradients and saved activations
        for group in _equal_lengths(rows):
            mine = group[len(group) * self.ranks.rank // self.ranks.world : len(group) * (self.ranks.rank + 1) // self.ranks.world]
            for at in range(0, len(mine), batch):
                block = np.stack([tokens[begin : end + 1] for begin, end in mine[at : at + batch]]).astype(np.int64)
                pairs = torch.from_numpy(block).to(self.ranks.device)
                self.learner.backward(pairs[:, :-1], pairs[:, 1:], 1 / (stop - start))
        self.learner.step()

    def digest(self) -> str:
        return self.learner.digest()


@contextmanager
def repeatable() -> Iterator[None]:
    """Only algorithms that give the same bits in every process; on CUDA, one that cannot raises RuntimeError with its name."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch's own size on Hopper, but cuBLAS is only trusted when asked
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class AdaptedStreams:
    """The same for streams side by side (lockstep.py): a step after every `columns` columns, on all of their tokens.

    Coder and decoder must get the same bits: attention is computed the plain way, whose gradient has one order of additions,
    and everything else by `repeatable` algorithms."""

    def __init__(self, model: HybridLM, streams: int, seq_len: int, stride: int, adapt: AdaptConfig, device: torch.device) -> None:
        self.learner = Learner(model, adapt, Ranks(0, 1, device))
        self.seq_len, self.device = seq_len, device
        unit, wanted = stride or 1, -(-(adapt.chunk_tokens or seq_len) // streams)
        self.columns = unit * -(-wanted // unit)

    def due(self, column: int) -> bool:
        """Whether a step follows once this column is known; column 0 has nothing before it and is no target."""
        return column > 0 and column % self.columns == 0

    def update(self, tokens_ST: Tokens, column: int, known_ST: npt.NDArray[np.bool_]) -> None:
        """A step on the last `columns` columns up to `column`, where known; each target sees what its stream has before it."""
        first, begin = max(1, column + 1 - self.columns), max(0, column - self.seq_len)
        learned = np.zeros((len(tokens_ST), column - begin), np.float32)
        learned[:, max(first, begin + 1) - begin - 1 :] = known_ST[:, max(first, begin + 1) : column + 1]
        if not learned.any():
            return
        tokens_SL = torch.from_numpy(tokens_ST[:, begin : column + 1].astype(np.int64)).to(self.device)
        share_SL = torch.from_numpy(learned / learned.sum(dtype=np.float64).astype(np.float32)).to(self.device)
        with sdpa_kernel(SDPBackend.MATH), repeatable():
            for at in range(0, len(tokens_ST), STREAMS_AT_ONCE):
                rows = slice(at, at + STREAMS_AT_ONCE)
                self.learner.backward(tokens_SL[rows, :-1], tokens_SL[rows, 1:], share_SL[rows])
            self.learner.step()


def adapted_blocks(model: HybridLM, tokens: Tokens, seq_len: int, stride: int, adapt: AdaptConfig, ranks: Ranks) -> Iterator[NeuralScores]:
    """The scores of every target of `tokens` (N,), chunk by chunk, by a network that learns as it goes; `model` is left as it is.

    A chunk is learned when the next is asked for."""
    part = AdaptedNetwork(model, seq_len, stride, adapt, ranks)
    order = ScoreFirst(tokens, {"network": part})
    for start, stop in order.chunks(part.chunk_tokens):
        yield order.score(start, stop)["network"]
        if stop < len(tokens):
            order.update(start, stop)


def _equal_lengths(rows: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The rows in groups of one length: all but the last row of a chunk fill a window."""
    groups: dict[int, list[tuple[int, int]]] = {}
    for begin, end in rows:
        groups.setdefault(end - begin, []).append((begin, end))
    return list(groups.values())
