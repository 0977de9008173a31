"""Evaluation: bits per byte of the network, of the n-gram cache and of their blend, score-first, every token but the first.

Shapes: N tokens of a stream, K experts.
"""

import platform
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from hybrid.data.overlap import check_scored
from hybrid.data.shards import DataError, predictable
from hybrid.data.token_bytes import accounting, bits_per_byte
from hybrid.parallel.ranks import Ranks
from hybrid.scoring.build import network_ahead, predictor_of, seeded
from hybrid.scoring.exact import exact
from hybrid.scoring.mixture import EXPERTS, NGRAM, load_gate
from hybrid.scoring.options import DEFAULTS, EvalOptions
from hybrid.scoring.scores import BlendScores
from hybrid.storing.artifact import Artifact
from hybrid.storing.counted_code import code_bytes
from ngram.arrays import F64
from ngram.compiled import compile_seconds
from ngram.pieces import Pieces
from ngram.score_first import ScoreFirst, Tokens

CALL = 1 << 20  # targets that a predictor is given at once, which works side by side inside of a call
CACHES = {"cuda": 4, "cpu": 1}  # that take turns
ROW_ENTRIES, BLOCKS = {"cuda": 1 << 15, "cpu": 0}, 8  # blocks that are taken at once: so many entries in one row of each, and so many at most
CHECK_EVERY = 1024  # targets of which one is held against its whole distribution


@dataclass(frozen=True)
class Scores:
    """Every target of a stream, N-1 of them: blend by each expert and mixed, nll_nats (N-1,) of the network alone.

    has_cache: whether there is more than the network.  checked: targets that were held against their whole distributions.
    seconds: of work, by part."""

    blend: BlendScores
    nll_nats: F64
    has_cache: bool
    checked: int
    seconds: dict[str, float]

    @property
    def bits(self) -> F64:
        """(N-1,) float64 bits of every target: what the printed figure sums."""
        return -np.log2(self.blend.mixed) if self.has_cache else self.nll_nats / np.log(2)


def load_tokens(paths: Sequence[Path], vocab_size: int, seq_len: int, protocol: str, max_tokens: int = 0) -> Tokens:
    """The validation stream, cut as the protocol says; max_tokens: of its beginning, 0: all.  Raises ShardError or DataError naming the file."""
    stream = predictable(paths, vocab_size)
    usable = min(len(stream), max_tokens or len(stream))
    if protocol == "challenge":
        tokens, usable = usable, (usable - 1) // seq_len * seq_len + 1
        if usable < 2:
            raise DataError(f"{paths[0]}: {tokens:,} tokens fill no window of {seq_len}; use --protocol full")
    return stream.read(0, usable)


def watched(tokens: Tokens) -> list[int]:
    """Positions to check: one of every CHECK_EVERY targets, drawn from a seed that depends on the text."""
    random = np.random.default_rng(xxhash.xxh3_64_intdigest(np.ascontiguousarray(tokens).view(np.uint8).data))
    edges = np.append(np.arange(1, len(tokens), CHECK_EVERY), len(tokens))
    return random.integers(edges[:-1], edges[1:]).tolist()


def run(order: ScoreFirst, part: str, chunk_tokens: int) -> BlendScores:
    """Scores the whole stream of `order`: entry i is target i + 1.  Paranoid: scoring and learning are two steps, with digests around them."""
    size = len(order.tokens) - 1
    out = BlendScores(np.empty((size, len(EXPERTS))), np.empty(size), np.empty((size, len(EXPERTS))))
    for start, stop in order.chunks(chunk_tokens if order.paranoid else CALL):
        if order.frozen or order.paranoid:
            result = order.score(start, stop)[part]
            if not order.frozen and stop < len(order.tokens):
                order.update(start, stop)
        else:
            result = order.score_then_update(start, stop)[part]
        for name, piece in vars(result).items():
            getattr(out, name)[start - 1 : stop - 1] = piece
    return out


def score_tokens(art: Artifact, tokens: Tokens, options: EvalOptions, ranks: Ranks) -> Scores:
    """Every target of `tokens`; the same on every rank.  Raises CheckError where a watched target is not what its distribution says."""
    with exact() if options.exact else nullcontext():
        seeding = seeded(art, CACHES[ranks.device.type])
        network = network_ahead(art, tokens, options, ranks)
        network.look(tokens, 1)  # beside the seeding
        watch = watched(tokens)
        together = max(1, min(BLOCKS, ROW_ENTRIES[ranks.device.type] // art.config.model.vocab_size))
        with closing(predictor_of(art, network, options, ranks=ranks, seeding=seeding, watch=watch, together=together)) as predictor:
            order = ScoreFirst(tokens, {"blend": predictor}, frozen=not options.online, paranoid=options.paranoid)
            blend = run(order, "blend", options.chunk_tokens or art.config.cache.chunk_tokens)
        seconds = {"network": network.seconds, "seed": seeding.result()[1], **predictor.seconds}
        return Scores(blend, network.nll_nats(), art.table is not None, predictor.checked, seconds)


def evaluate(art: Artifact, paths: Sequence[Path], ranks: Ranks, options: EvalOptions = DEFAULTS) -> tuple[dict[str, Any], Scores]:
    """The figures of an artifact on validation shards as a JSON-able dict, and every target's scores; the same on every rank.

    neural_bpb, ngram_bpb, blended_bpb (None without a cache), tokens (targets), bytes, sizes, timings, versions; seconds: of work, most of it side
    by side (docs/commands.md)."""
    begin = time.monotonic()
    config, seq_len = art.config, art.config.train.seq_len
    tokens = load_tokens(paths, config.model.vocab_size, seq_len, options.protocol, options.max_tokens)
    counter, how = accounting(paths, art.tokenizer)
    if ranks.is_first:
        check_scored(paths, Pieces(art.tokenizer).bos, allowed=options.allow_overlap)
    total_bytes = counter.total(tokens)
    if total_bytes == 0:
        raise DataError(f"{paths[0]}: the validation tokens decode to no text at all; use the tokenizer that made them")
    scores = score_tokens(art, tokens, options, ranks)
    wall_s = time.monotonic() - begin
    code, chunk = code_bytes(), options.chunk_tokens or config.cache.chunk_tokens
    neural_bpb = bits_per_byte(float(scores.nll_nats.sum()), total_bytes)  # from the nats themselves, not through probabilities
    ngram, mixed = (bits_per_byte(float(-np.log(p).sum()), total_bytes) for p in (scores.blend.probs[:, NGRAM], scores.blend.mixed))
    result = {
        "neural_bpb": neural_bpb, "ngram_bpb": ngram if scores.has_cache else None, "blended_bpb": mixed if scores.has_cache else neural_bpb,
        "tokens": len(tokens) - 1, "bytes": total_bytes, "bytes_are": how,
        "artifact_bytes": art.size_bytes, "code_bytes": code, "total_bytes": code + art.size_bytes,
        **asdict(options),
        "chunk_tokens": chunk, "cache_chunk_tokens": chunk if options.cache_by_chunk or options.paranoid else 1,
        "ttt": asdict(options.adapt) if options.adapt is not None else None,
        "weights": dict(zip(EXPERTS, scores.blend.weights.mean(axis=0).tolist(), strict=True)) if scores.has_cache else {"neural": 1.0},
        "gate": load_gate(art.gate, learning=False).kind if scores.has_cache else None, "checked": scores.checked,
        "wall_s": wall_s, "neural_s": scores.seconds["network"], "ngram_s": wall_s - scores.seconds["network"],
        "seconds": {**scores.seconds, "compile": compile_seconds()},
        "seed": config.train.seed, "preset": config.preset, "world": ranks.world, "device": ranks.device_name,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    return result, scores
