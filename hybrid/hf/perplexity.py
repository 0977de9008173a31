"""Bits per byte of a foreign model alone and of its blend, by the predictor of eval.py: score first, then learn.

Shapes: N tokens of a stream, n scored targets.
"""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybrid.data.token_bytes import bits_per_byte
from hybrid.hf.parts import CHUNK_TOKENS, Parts
from hybrid.parallel.ranks import Ranks
from hybrid.scoring.evaluate import run, watched
from hybrid.scoring.mixture import EXPERTS, NGRAM
from hybrid.scoring.network import NetworkAhead
from hybrid.scoring.predictor import Predictor
from hybrid.scoring.windows import neural_blocks
from ngram.arrays import F64
from ngram.score_first import ScoreFirst


@dataclass(frozen=True)
class Perplexity:
    """What some documents cost, in bits per byte of their UTF-8 and as perplexity per token.

    tokens: targets; what begins a document is given, so it is none.  weights: the experts' mean shares.  checked: targets whose
    reported probability was held against the whole distribution.  network_bits, blended_bits (n,) float64: of every target."""

    network_bpb: float
    ngram_bpb: float
    blended_bpb: float
    network_perplexity: float
    blended_perplexity: float
    tokens: int
    bytes: int
    weights: dict[str, float]
    checked: int
    network_bits: F64
    blended_bits: F64

    def __str__(self) -> str:
        return (
            f"{self.tokens:,} tokens, {self.bytes:,} bytes: network {self.network_bpb:.4f}, n-grams {self.ngram_bpb:.4f}, "
            f"blended {self.blended_bpb:.4f} bits per byte; perplexity {self.network_perplexity:.2f} → {self.blended_perplexity:.2f}"
        )


def blend_perplexity(
    model: Any, tokenizer: Any, texts: Iterable[str], ngram: Any, *, window: int = 0, stride: int = 0, gate: bytes | None = None,
    match: bool = True, product: bool = True, online: bool = True,
) -> Perplexity:  # fmt: skip
    """Scores documents with a causal model and with its blend with n-grams, score-first, every distribution summing to 1.

    model: of the library transformers, of the tokenizer's vocabulary; logits beyond it are padding and cut off.  tokenizer: fast, or a
    path.  ngram: what `count` made, or a file of `python -m ngram train` with the same tokenizer.  window: tokens that the model looks at, 0:
    what it takes, at most 1,024.  stride: new targets a window, 0: windows side by side.  gate: of `fit_gate`, None: the fallback.
    match, product: whether these experts have a say.  online: cache, match model and gate learn each token after it was scored.
    Text goes through the tokenizer without its normaliser, so that every byte is paid for.  The documents are one stream, as in
    eval.py: the model's windows cross their borders.  Raises SeedgramError naming what does not fit together."""
    parts = Parts.of(model, tokenizer, ngram, window=window, stride=stride, gate=gate, match=match, product=product, online=online)
    tokens, size_bytes = parts.stream(texts)
    blocks = neural_blocks(
        parts.as_model, tokens, parts.window, stride, Ranks(0, 1, parts.device), batch_windows=parts.batch_windows, rows=True
    )
    network = NetworkAhead(blocks)
    cache, matcher, mixture = parts.experts()
    with closing(Predictor(network, cache, matcher, mixture, read_tokens=parts.read_tokens, watch=watched(tokens))) as predictor:
        blend = run(ScoreFirst(tokens, {"blend": predictor}, frozen=not online), "blend", CHUNK_TOKENS)
    asked = tokens[1:] != parts.codec.bos
    nats, ngram_nats, mixed_nats = (part[asked] for part in (network.nll_nats(), -np.log(blend.probs[:, NGRAM]), -np.log(blend.mixed)))
    network_bpb, ngram_bpb, blended_bpb = (bits_per_byte(float(part.sum()), size_bytes) for part in (nats, ngram_nats, mixed_nats))
    return Perplexity(
        network_bpb=network_bpb,
        ngram_bpb=ngram_bpb,
        blended_bpb=blended_bpb,
        network_perplexity=float(np.exp(nats.mean())),
        blended_perplexity=float(np.exp(mixed_nats.mean())),
        tokens=int(asked.sum()),
        bytes=size_bytes,
        weights=dict(zip(EXPERTS, blend.weights[asked].mean(axis=0).tolist(), strict=True)),
        checked=predictor.checked,
        network_bits=nats / np.log(2),
        blended_bits=mixed_nats / np.log(2),
    )
