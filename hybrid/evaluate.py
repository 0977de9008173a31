"""Evaluation: bits per byte of the network, of the n-gram cache and of their blend, score-first, every token but the first.

Shapes: N tokens of a stream, B windows of a batch, L window length in tokens, V vocabulary, S scored positions of a batch.
"""

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from hybrid import blend
from hybrid.blend import GATE_FEATURES, Blend, NeuralScores
from hybrid.bpb import TokenBytes, bits_per_byte
from hybrid.config import Config, ConfigError
from hybrid.data import DataError, Stream
from hybrid.distributed import Ranks, peers
from ngram import gate_fit
from ngram.cli import track
from ngram.gate import F64, Gate
from ngram.online import OnlineCache
from ngram.score_first import ScoreFirst, Tokens
from ngram.table import NgramTable

if TYPE_CHECKING:
    from hybrid.artifact import Artifact

BATCH_TOKENS = {"cuda": 65536, "cpu": 4096}  # tokens sent through the network at once: 256 MB of float32 logits at V = 1,024
# step of the gate per 1,024 positions at evaluation; measured on dev: 0.02 … 1 are within 0.0001 bits a token of each other for a
# fitted gate, and the fallback gains 0.004 from 1 over 0.02
GATE_RATE = 0.5
PROTOCOLS = ("full", "challenge")


@dataclass(frozen=True)
class EvalOptions:
    """How to score.

    stride: new targets a window, 0: windows side by side.  chunk_tokens: targets between two updates of the gate, 0: the
    artifact's setting.  cache_by_chunk: the cache, too, learns only at the end of a chunk instead of after every token.
    protocol "challenge" drops the tail that fills no window.  online: cache and gate learn, score-first."""

    stride: int = 0
    chunk_tokens: int = 0
    cache_by_chunk: bool = False
    protocol: str = "full"
    online: bool = True
    paranoid: bool = False


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


@torch.inference_mode()
def neural_scores(
    model: torch.nn.Module,
    tokens: Tokens,
    seq_len: int,
    stride: int,
    device: torch.device,
    batch_windows: int = 0,
    ranks: Ranks | None = None,
) -> NeuralScores:
    """The network's scores of every target of `tokens` (N,) uint16.

    The model's own types: bfloat16 on CUDA, float32 on CPU.  batch_windows: windows a batch, 0: a default; scores do not depend on it beyond
    rounding.  ranks: each scores a contiguous part of the windows and all get all scores."""
    todo = list(windows(len(tokens), seq_len, stride))
    batch = batch_windows or max(1, BATCH_TOKENS[device.type] // seq_len)
    rank, world = (ranks.rank, ranks.world) if ranks is not None else (0, 1)
    mine = todo[len(todo) * rank // world : len(todo) * (rank + 1) // world]
    out = np.zeros((3, len(tokens) - 1))
    model = model.to(device).eval()
    for at in track(range(0, len(mine), batch), "network", active=rank == 0):
        part = mine[at : at + batch]
        places = np.concatenate([np.arange(first, end + 1) for _, end, first in part])
        out[:, places - 1] = _score_windows(model, tokens, part, seq_len, device).T
    if ranks is not None and world > 1:
        with peers():
            dist.all_reduce(torch.from_numpy(out), group=ranks.patient_group)  # zero elsewhere: the sum is an exact gather
    return NeuralScores(out[0], out[1].astype(np.float32), out[2].astype(np.float32))


def _score_windows(
    model: torch.nn.Module, tokens: Tokens, part: Sequence[tuple[int, int, int]], seq_len: int, device: torch.device
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(S, 3): nats of the target, entropy, log-probability of the likeliest token."""
    inputs_BL = np.zeros((len(part), max(end - begin for begin, end, _ in part)), dtype=np.int64)  # padding is never looked back at
    for row, (begin, end, _) in enumerate(part):
        inputs_BL[row, : end - begin] = tokens[begin:end]
    rows = np.concatenate([np.full(end + 1 - first, row) for row, (_, end, first) in enumerate(part)])
    columns = np.concatenate([np.arange(first - 1 - begin, end - begin) for begin, end, first in part])
    targets = np.concatenate([tokens[first : end + 1] for _, end, first in part]).astype(np.int64)
    logits_BLV = model(torch.from_numpy(inputs_BL).to(device))
    index_rows, index_columns, targets_S = (torch.from_numpy(a).to(device) for a in (rows, columns, targets))
    logp_SV = torch.log_softmax(logits_BLV[index_rows, index_columns].float(), dim=-1)
    nll_S = -logp_SV.gather(1, targets_S[:, None])[:, 0]
    entropy_S = -(logp_SV.exp() * logp_SV).sum(-1)
    return torch.stack([nll_S, entropy_S, logp_SV.amax(-1)], dim=1).double().cpu().numpy()


def fit_gate(model: torch.nn.Module, table: NgramTable, holdout_tokens: Tokens, device: torch.device, config: Config) -> bytes:
    """The gate for `model` and `table` as a reader of the artifact gets them, as bytes.

    holdout_tokens (n,) uint16: training text that was neither trained on nor counted; the cache goes on learning over it exactly
    as at evaluation.  Too little of it: the fallback gate."""
    cache = OnlineCache(table)
    if len(holdout_tokens) < gate_fit.SMALLEST:
        return gate_fit.fallback(GATE_FEATURES, rate=GATE_RATE).to_bytes()
    neural = neural_scores(model, holdout_tokens, config.train.seq_len, 0, device)
    part = Blend(neural, cache, gate_fit.fallback(GATE_FEATURES), collect=True)
    order = ScoreFirst(holdout_tokens, {"blend": part}, frozen=not config.cache.online)
    blend.run(order, "blend", config.cache.chunk_tokens, cache_by_chunk=False)
    features_NF = np.concatenate([features for features, _ in part.collected])
    probs_NK = np.concatenate([probs for _, probs in part.collected])
    return gate_fit.fit(features_NF, probs_NK, GATE_FEATURES, rate=GATE_RATE).to_bytes()


def load_tokens(paths: Sequence[Path], vocab_size: int, seq_len: int, protocol: str) -> Tokens:
    """The validation stream, cut as the protocol says.  Raises ShardError or DataError naming the file."""
    stream = Stream(paths, vocab_size)
    if len(stream) < 2:
        raise DataError(f"{paths[0]}: validation set of {len(stream)} tokens has none to predict; make it again from more text")
    usable = len(stream)
    if protocol == "challenge":
        usable = (len(stream) - 1) // seq_len * seq_len + 1
        if usable < 2:
            raise DataError(f"{paths[0]}: {len(stream):,} tokens fill no window of {seq_len}; use --protocol full")
    return stream.read(0, usable)


def score(art: "Artifact", paths: Sequence[Path], ranks: Ranks, options: EvalOptions = EvalOptions()) -> dict[str, Any]:
    """Bits per byte of an artifact on validation shards, as a JSON-able dict; the same on every rank.

    neural_bpb, ngram_bpb, blended_bpb (None without a cache), tokens (targets), bytes, sizes, timings, versions."""
    from hybrid.artifact import code_bytes  # here, because packing imports this module

    if options.chunk_tokens < 0:
        raise ConfigError(f"--chunk-tokens {options.chunk_tokens} must not be negative")
    begin = time.monotonic()
    config, seq_len = art.config, art.config.train.seq_len
    tokens = load_tokens(paths, config.model.vocab_size, seq_len, options.protocol)
    total_bytes = int(TokenBytes.from_model(art.tokenizer).count(tokens).sum())
    if total_bytes == 0:
        raise DataError(f"{paths[0]}: the validation tokens decode to no text at all; use the tokenizer that made them")
    neural = neural_scores(art.model, tokens, seq_len, options.stride, ranks.device, ranks=ranks)
    neural_s = time.monotonic() - begin
    parts = blend_scores(art, tokens, neural, options)
    bpb = {name: bits_per_byte(float(-np.log(probs).sum()), total_bytes) for name, probs in parts.items() if name != "weight"}
    neural_bpb = bits_per_byte(float(neural.nll_nats.sum()), total_bytes)  # from the nats themselves, not through probabilities
    code, chunk = code_bytes(), options.chunk_tokens or config.cache.chunk_tokens
    return {
        "neural_bpb": neural_bpb,
        "ngram_bpb": bpb.get("ngram"),
        "blended_bpb": bpb.get("mixed", neural_bpb),
        "tokens": len(tokens) - 1,
        "bytes": total_bytes,
        "artifact_bytes": art.size_bytes,
        "code_bytes": code,
        "total_bytes": code + art.size_bytes,
        "protocol": options.protocol,
        "stride": options.stride,
        "chunk_tokens": chunk,
        "cache_chunk_tokens": chunk if options.cache_by_chunk or options.paranoid else 1,
        "online": options.online,
        "ngram_weight": float(parts["weight"].mean()) if parts else 0.0,
        "wall_s": time.monotonic() - begin,
        "neural_s": neural_s,
        "ngram_s": time.monotonic() - begin - neural_s,
        "seed": config.train.seed,
        "preset": config.preset,
        "world": ranks.world,
        "device": torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def blend_scores(art: "Artifact", tokens: Tokens, neural: NeuralScores, options: EvalOptions) -> dict[str, F64]:
    """Probabilities of every target by "neural", "ngram", "mixed", and the n-grams' "weight": (N-1,) float64 each.

    Without a cache in the artifact: nothing.  Every rank does this in full: the cache must learn the whole stream anyway, and
    learning costs what scoring does."""
    if art.table is None:
        return {}
    part = Blend(neural, OnlineCache(art.table), load_gate(art, learning=options.online))
    order = ScoreFirst(tokens, {"blend": part}, frozen=not options.online, paranoid=options.paranoid)
    chunk = options.chunk_tokens or art.config.cache.chunk_tokens
    return blend.run(order, "blend", chunk, cache_by_chunk=options.cache_by_chunk or options.paranoid)


def all_scores(art: "Artifact", tokens: Tokens, options: EvalOptions, ranks: Ranks) -> dict[str, F64]:
    """`blend_scores` from tokens alone; without a cache "neural" and "mixed" are the network's."""
    neural = neural_scores(art.model, tokens, art.config.train.seq_len, options.stride, ranks.device, ranks=ranks)
    alone = np.exp(-neural.nll_nats)
    return blend_scores(art, tokens, neural, options) or {"neural": alone, "mixed": alone}


def load_gate(art: "Artifact", *, learning: bool) -> Gate:
    """The artifact's gate, or the fallback where it has none; `learning` False stops its updates."""
    gate = Gate.from_bytes(art.gate, GATE_FEATURES) if art.gate is not None else gate_fit.fallback(GATE_FEATURES, rate=GATE_RATE)
    gate.rate = gate.rate if learning else 0.0
    return gate
