"""The network's scores of a stream, window by window: each target once, in batches, shared over ranks.

Shapes: N tokens of a stream, B windows of a batch, L window length in tokens, V vocabulary, S scored positions of a batch.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hybrid.model.hybrid_lm import HybridLM
from hybrid.parallel.ranks import Ranks
from hybrid.scoring.network import Launched, NeuralScores, ahead
from hybrid.settings.config import ConfigError
from ngram.arrays import F64
from ngram.score_first import Tokens
from ngram.terminal import track

BATCH_TOKENS = {"cuda": 65536, "cpu": 4096}  # tokens sent through the network at once: 256 MB of float32 logits at V = 1,024


def windows(tokens: int, seq_len: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, first): inputs tokens[begin:end] give the scores of targets first … end; each target once, in order.

    stride 0 or seq_len: side by side.  Otherwise every window but the first scores only its last `stride` targets."""
    if not 0 <= stride <= seq_len:
        raise ConfigError(f"--stride {stride} must lie in 0…{seq_len}, the window length")
    first, begin = 1, 0
    while first < tokens:
        end = min(begin + seq_len, tokens - 1)
        yield begin, end, first
        first, begin = end + 1, begin + (stride or seq_len)


def windows_of(start: int, stop: int, tokens: int, seq_len: int, stride: int) -> list[tuple[int, int, int]]:
    """The windows of `windows` that score targets start … stop-1, cut to those targets: what each target sees stays the same."""
    some = takewhile(lambda window: window[2] < stop, windows(tokens, seq_len, stride))
    return [(begin, min(end, stop - 1), max(first, start)) for begin, end, first in some if end >= start]


def neural_nats(model: HybridLM, tokens: Tokens, seq_len: int, ranks: Ranks) -> F64:
    """(N-1,) float64 nats of every target of `tokens` (N,) uint16, in windows side by side."""
    return np.concatenate([block.nll_nats for block in neural_blocks(model, tokens, seq_len, 0, ranks, rows=False)])


def neural_blocks(
    model: HybridLM, tokens: Tokens, seq_len: int, stride: int, ranks: Ranks, *, batch_windows: int = 0, rows: bool = True
) -> Iterator[NeuralScores]:
    """The network's scores of every target of `tokens` (N,) uint16, a batch of windows a rank at a time; with whole rows if asked.

    The model's own types: bfloat16 on CUDA, float32 on CPU.  batch_windows: windows a batch, 0: a default; scores do not depend on it
    beyond rounding.  Each rank scores a contiguous part of a block's windows, and all get all scores, but not the rows."""
    todo = list(windows(len(tokens), seq_len, stride))
    model = model.to(ranks.device).eval()
    step = ranks.world * (batch_windows or batch_of(seq_len, ranks.device))
    launches = (
        score_windows(model, tokens, todo[at : at + step], seq_len, ranks, batch_windows=batch_windows, rows=rows)
        for at in track(range(0, len(todo), step), "network", active=ranks.is_first)
    )
    yield from ahead(launches, ranks.device if rows else torch.device("cpu"))


def batch_of(seq_len: int, device: torch.device) -> int:
    """Windows that are sent through the network at once."""
    return max(1, BATCH_TOKENS[device.type] // seq_len)


@torch.inference_mode()
def score_windows(
    model: HybridLM, tokens: Tokens, todo: Sequence[tuple[int, int, int]], seq_len: int, ranks: Ranks, *, batch_windows: int = 0, rows: bool = True
) -> Launched:
    """The scores of `todo`, one or more consecutive windows as `windows` gives them, computed on the current stream, for the default one to read."""
    batch = batch_windows or batch_of(seq_len, ranks.device)
    mine = todo[len(todo) * ranks.rank // ranks.world : len(todo) * (ranks.rank + 1) // ranks.world]
    first, stop = todo[0][2], todo[-1][1] + 1
    levels, kept = list[Tensor](), list[Tensor]()
    model.eval()
    for at in range(0, len(mine), batch):
        logp_SV, levels_3S = _scored(model, tokens, mine[at : at + batch], ranks)
        levels.append(levels_3S.to("cpu", non_blocking=True))
        kept += [logp_SV] if rows else []
    own = torch.cat(kept) if kept[1:] else kept[0] if kept else None
    event = None if ranks.device.type == "cpu" else torch.cuda.current_stream(ranks.device).record_event()
    if own is not None and event is not None:
        own.record_stream(torch.cuda.default_stream(ranks.device))  # its kernels may still read what nobody holds any more

    def wait() -> NeuralScores:
        if event is not None:
            event.synchronize()
        out = np.zeros((3, stop - first))
        if mine:
            out[:, mine[0][2] - first : mine[-1][1] + 1 - first] = torch.cat(levels, 1)
        if ranks.world > 1:
            dist.all_reduce(torch.from_numpy(out), group=ranks.patient_group)  # zero elsewhere: the sum is an exact gather
        return NeuralScores(out[0], out[1].astype(np.float32), out[2].astype(np.float32), first, own, mine[0][2] if mine else first)

    return wait


def _scored(model: HybridLM, tokens: Tokens, part: Sequence[tuple[int, int, int]], ranks: Ranks) -> tuple[Tensor, Tensor]:
    """(S, V) log-probabilities, and (3, S) float64: nats of the target, entropy, log-probability of the likeliest token."""
    inputs_BL = np.zeros((len(part), max(end - begin for begin, end, _ in part)), dtype=np.int64)  # padding is never looked back at
    for row, (begin, end, _) in enumerate(part):
        inputs_BL[row, : end - begin] = tokens[begin:end]
    width = inputs_BL.shape[1]
    places = np.concatenate([np.arange(first - 1 - begin, end - begin) + row * width for row, (begin, end, first) in enumerate(part)])
    targets = np.concatenate([tokens[first : end + 1] for _, end, first in part]).astype(np.int64)
    tokens_BL, places_S, targets_S = map(ranks.sent, (inputs_BL, places, targets))
    logits_SV = model.logits_at(tokens_BL, places_S)
    logits_SV = logits_SV - logits_SV.amax(-1, keepdim=True)
    logp_SV = logits_SV - logits_SV.exp().sum(-1, keepdim=True, dtype=torch.float64).log().to(logits_SV)  # float32: 4e-4 off at worst
    nll_S = -logp_SV.gather(1, targets_S[:, None])[:, 0]
    entropy_S = -(logp_SV.exp() * logp_SV).sum(-1)
    return logp_SV, torch.stack([nll_S, entropy_S, logp_SV.amax(-1)]).double()
