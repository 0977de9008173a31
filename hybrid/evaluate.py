"""Evaluation: bits per byte of the network, of the n-gram cache and of their blend, score-first, every token but the first.

Shapes: N tokens of a stream, K experts.
"""

import platform
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hybrid import adapt, blend, product_scores, windows
from hybrid.adapt import AdaptConfig
from hybrid.blend import EXPERTS, GATE_FEATURES, NGRAM, Blend, BlendScores, NeuralStream
from hybrid.bpb import TokenBytes, bits_per_byte
from hybrid.config import Config, ConfigError
from hybrid.data import DataError, Stream
from hybrid.distributed import Ranks
from hybrid.model import HybridLM
from ngram import gate_fit
from ngram.gate import F32, F64, Gate
from ngram.hashed_ratio import HashedRatio, HashedTables
from ngram.match import MatchModel
from ngram.online import OnlineCache
from ngram.score_first import ScoreFirst, Tokens
from ngram.table import NgramTable
from ngram.warm_up import CLOCK

if TYPE_CHECKING:
    from hybrid.artifact import Artifact

# step of the gate per 1,024 positions at evaluation; measured on dev: 0.02 … 1 are within 0.0001 bits a token of each other for a
# fitted gate, and the fallback gains 0.004 from 1 over 0.02
GATE_RATE = 0.5
PROTOCOLS = ("full", "challenge")
PUBLISHED_BITS = 16  # log2 of the buckets an order in the published tables (pull request #1095)


@dataclass(frozen=True)
class EvalOptions:
    """How to score.

    stride: new targets a window, 0: windows side by side.  chunk_tokens: targets between two updates of the gate, 0: the
    artifact's setting.  cache_by_chunk: the cache, too, learns only at the end of a chunk instead of after every token.
    protocol "challenge" drops the tail that fills no window.  online: cache and gate learn, score-first.  match, product: the match
    model and the product of network and cache have a say.  read_tokens: targets whose whole distributions the product reads from the
    cache at once, before it learns them.  gate_learns: the gate adapts, where online.  adapt: test-time training of the network, None: frozen.
    paranoid: digests of all state are compared around every score.  published_rule: training shards whose hashed counts show
    what the published rule would claim over this network."""

    stride: int = 0
    chunk_tokens: int = 0
    cache_by_chunk: bool = False
    protocol: str = "full"
    online: bool = True
    match: bool = True
    product: bool = True
    read_tokens: int = product_scores.READ_TOKENS
    gate_learns: bool = True
    adapt: AdaptConfig | None = None
    paranoid: bool = False
    published_rule: tuple[Path, ...] = ()


def fit_gate(model: HybridLM, table: NgramTable, holdout_tokens: Tokens, device: torch.device, config: Config) -> bytes:
    """The gate for `model` and `table` as a reader of the artifact gets them, as bytes.

    holdout_tokens (n,) uint16: training text that was neither trained on nor counted; the cache goes on learning over it exactly
    as at evaluation.  First the product's exponents are fitted, on its beginning; with them the weights, on all of it.  Too
    little text: the fallback gate."""
    if len(holdout_tokens) < gate_fit.SMALLEST:
        return load_fallback().to_bytes()

    def over(tokens: Tokens, gate: Gate, *, keep_rows: bool) -> tuple[F32, F64, list[product_scores.Kept]]:
        neural = NeuralStream(windows.neural_blocks(model, tokens, config.train.seq_len, 0, Ranks(0, 1, device)))
        cache = OnlineCache(table)
        with closing(Blend(neural, cache, MatchModel(cache.vocab_size, cache.bos), gate, collect=True, keep_rows=keep_rows)) as part:
            blend.run(ScoreFirst(tokens, {"blend": part}, frozen=not config.cache.online), "blend", config.cache.chunk_tokens, cache_by_chunk=False)
        features, probs = zip(*part.collected, strict=True)
        return np.concatenate(features), np.concatenate(probs), part.kept

    beginning = holdout_tokens[: max(gate_fit.SMALLEST, product_scores.FIT_ENTRIES // table.vocab_size)]
    features_NF, _, kept = over(beginning, load_fallback(learning=False), keep_rows=True)
    gate = gate_fit.unfitted(features_NF, GATE_FEATURES, len(EXPERTS))
    gate.coefficients = product_scores.fit(gate.standardise(features_NF), kept).astype(np.float32).astype(np.float64)
    features_NF, probs_NK, _ = over(holdout_tokens, gate, keep_rows=False)
    gate.rate = GATE_RATE
    return gate_fit.fit(features_NF, probs_NK, GATE_FEATURES, base=gate).to_bytes()


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


def published_claim(tokens: Tokens, nll_nats: F64, train_paths: Sequence[Path], vocab_size: int, total_bytes: int) -> dict[str, Any]:
    """What the published hashed rule would report over this network, counts taken from the training shards: no probability."""
    stream = Stream(train_paths, vocab_size)
    rule = HashedRatio(HashedTables.count(stream.read(0, len(stream)), vocab_size, PUBLISHED_BITS), "published")
    nats = -np.log(rule.claims(tokens, np.exp(-nll_nats))).sum()
    return {"claimed_bpb": bits_per_byte(float(nats), total_bytes), "log2_buckets": PUBLISHED_BITS, "is_a_probability": False}


def score(art: "Artifact", paths: Sequence[Path], ranks: Ranks, options: EvalOptions = EvalOptions()) -> dict[str, Any]:
    """Bits per byte of an artifact on validation shards, as a JSON-able dict; the same on every rank.

    neural_bpb, ngram_bpb, blended_bpb (None without a cache), tokens (targets), bytes, sizes, timings, versions.
    seconds: of work of "network", "seed" (the cache from its table, beside the network), "cache", "gate", "product", and "compile": of
    all kernels of this process, most of it before `wall_s` begins and beside the network, the rest inside of the others.  "product":
    the cache's whole rows and what is made of them."""
    from hybrid.artifact import code_bytes  # here, because packing imports this module

    if options.chunk_tokens < 0:
        raise ConfigError(f"--chunk-tokens {options.chunk_tokens} must not be negative")
    begin = time.monotonic()
    config, seq_len = art.config, art.config.train.seq_len
    tokens = load_tokens(paths, config.model.vocab_size, seq_len, options.protocol)
    total_bytes = int(TokenBytes.from_model(art.tokenizer).count(tokens).sum())
    if total_bytes == 0:
        raise DataError(f"{paths[0]}: the validation tokens decode to no text at all; use the tokenizer that made them")
    seeding = Seeding(art.table)
    neural = network_scores(art, tokens, options, ranks)
    seconds = dict[str, float]()
    parts = blend_scores(art, tokens, neural, options, ranks, seeding, seconds)
    nll_nats = neural.nll_nats()
    bpb = dict[str, float]()
    if parts is not None:
        bpb = {name: bits_per_byte(float(-np.log(p).sum()), total_bytes) for name, p in (("ngram", parts.probs[:, NGRAM]), ("mixed", parts.mixed))}
    neural_bpb = bits_per_byte(float(nll_nats.sum()), total_bytes)  # from the nats themselves, not through probabilities
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
        "match": options.match,
        "product": options.product,
        "read_tokens": options.read_tokens,
        "gate_learns": options.gate_learns,
        "ttt": asdict(options.adapt) if options.adapt is not None else None,
        "weights": dict(zip(EXPERTS, parts.weights.mean(axis=0).tolist(), strict=True)) if parts is not None else {"neural": 1.0},
        "wall_s": time.monotonic() - begin,
        "neural_s": neural.seconds,
        "ngram_s": time.monotonic() - begin - neural.seconds,
        "seconds": {"network": neural.seconds, **seconds, "compile": CLOCK.seconds},
        "published_rule": published_claim(tokens, nll_nats, options.published_rule, config.model.vocab_size, total_bytes)
        if options.published_rule
        else None,
        "seed": config.train.seed,
        "preset": config.preset,
        "world": ranks.world,
        "device": torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def network_scores(art: "Artifact", tokens: Tokens, options: EvalOptions, ranks: Ranks) -> NeuralStream:
    """The network's scores of every target, as they are asked for: as it was stored, or learning as it goes with options.adapt."""
    seq_len = art.config.train.seq_len
    if options.adapt is not None:
        return NeuralStream(adapt.adapted_blocks(art.model, tokens, seq_len, options.stride, options.adapt, ranks))
    rows = art.table is not None and options.product
    return NeuralStream(windows.neural_blocks(art.model, tokens, seq_len, options.stride, ranks, rows=rows))


class Seeding:
    """The online cache of a table (None: none), made in a thread beside other work.  seconds: how long that took."""

    def __init__(self, table: NgramTable | None) -> None:
        self.seconds = 0.0
        pool = ThreadPoolExecutor(1)
        self._cache = pool.submit(self._make, table) if table is not None else None
        pool.shutdown(wait=False)

    def _make(self, table: NgramTable) -> OnlineCache:
        began = time.monotonic()
        cache = OnlineCache(table)
        self.seconds = time.monotonic() - began
        return cache

    def cache(self) -> OnlineCache:
        """Waits until it is there."""
        assert self._cache is not None
        return self._cache.result()


def blend_scores(
    art: "Artifact",
    tokens: Tokens,
    neural: NeuralStream,
    options: EvalOptions,
    ranks: Ranks,
    seeding: Seeding | None = None,
    seconds: dict[str, float] | None = None,
) -> BlendScores | None:
    """Probabilities of every target, N-1 of them, by each expert and mixed.

    Without a cache in the artifact: None.  Every rank does this in full, but for the product: the cache must learn the whole stream
    anyway, and learning costs what scoring does.  seeding: the cache, where it is already being made; seconds receives those of the parts."""
    if art.table is None:
        return None
    if not 1 <= options.read_tokens <= product_scores.MOST_READ_TOKENS:
        raise ConfigError(f"--read-tokens {options.read_tokens} must lie in 1…{product_scores.MOST_READ_TOKENS}")
    seeding = seeding or Seeding(art.table)
    neural.begin()  # beside the seeding
    match = MatchModel(art.table.vocab_size, art.table.bos) if options.match and options.online else None
    gate = load_gate(art, learning=options.online and options.gate_learns)
    chunk = options.chunk_tokens or art.config.cache.chunk_tokens
    with closing(Blend(neural, seeding.cache(), match, gate, product=options.product, read_tokens=options.read_tokens, ranks=ranks)) as part:
        order = ScoreFirst(tokens, {"blend": part}, frozen=not options.online, paranoid=options.paranoid)
        scores = blend.run(order, "blend", chunk, cache_by_chunk=options.cache_by_chunk or options.paranoid)
    if seconds is not None:
        seconds |= {"seed": seeding.seconds, **part.seconds}
    return scores


def mixed_scores(art: "Artifact", tokens: Tokens, options: EvalOptions, ranks: Ranks) -> F64:
    """Probability of every target, from tokens alone: blended, or the network's where there is no cache."""
    neural = network_scores(art, tokens, options, ranks)
    parts = blend_scores(art, tokens, neural, options, ranks)
    return parts.mixed if parts is not None else np.exp(-neural.nll_nats())


def load_gate(art: "Artifact", *, learning: bool) -> Gate:
    """The artifact's gate, or the fallback where it has none; `learning` False stops its updates."""
    gate = Gate.from_bytes(art.gate, GATE_FEATURES) if art.gate is not None else load_fallback()
    gate.rate = gate.rate if learning else 0.0
    return gate


def load_fallback(*, learning: bool = True) -> Gate:
    """The gate where there was too little text to fit one."""
    return gate_fit.fallback(GATE_FEATURES, len(EXPERTS), rate=GATE_RATE if learning else 0.0)
