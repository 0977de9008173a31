"""The gate of an artifact, fitted on text that was neither trained on nor counted."""

from contextlib import closing

import numpy as np
import torch

from hybrid.model.hybrid_lm import HybridLM
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate, product, windows
from hybrid.scoring.mixture import EXPERTS, GATE_FEATURES, GATE_RATE, Mixture, load_gate
from hybrid.scoring.network import NetworkAhead
from hybrid.scoring.predictor import Predictor
from hybrid.settings.config import Config
from ngram.arrays import F32, F64
from ngram.blending import fit
from ngram.blending.gate import Gate
from ngram.online.match import MatchModel
from ngram.online.stream_cache import StreamCache
from ngram.score_first import ScoreFirst, Tokens
from ngram.table import NgramTable


def fit_gate(model: HybridLM, table: NgramTable, holdout_tokens: Tokens, device: torch.device, config: Config) -> Gate:
    """The gate for `model` and `table` as a reader of the artifact gets them.

    holdout_tokens (n,) uint16: that text; the cache goes on learning over it as at evaluation.  First the product's exponents are
    fitted, on its beginning; with them the weights, on all of it.  Below fit.SMALLEST positions the exponents are constants, and
    the gate is a smaller one; without any: the fallback gate."""
    if len(holdout_tokens) < 2:
        return load_gate()

    def over(tokens: Tokens, gate: Gate, scorer: product.ProductScorer) -> tuple[F32, F64]:
        network = NetworkAhead(windows.neural_blocks(model, tokens, config.train.seq_len, 0, Ranks(0, 1, device)))
        cache, mixture = StreamCache(table), Mixture(gate, config.cache.chunk_tokens)
        with closing(Predictor(network, cache, MatchModel(cache.vocab_size, cache.bos), mixture, product=scorer, collect=True)) as part:
            evaluate.run(ScoreFirst(tokens, {"blend": part}, frozen=not config.cache.online), "blend", config.cache.chunk_tokens)
        features, probs = zip(*part.collected, strict=True)
        return np.concatenate(features), np.concatenate(probs)

    little, scorer = len(holdout_tokens) - 1 < fit.SMALLEST, product.ProductScorer(keep=True)
    beginning = holdout_tokens[: max(fit.SMALLEST, product.FIT_ENTRIES // table.vocab_size)]
    features_NF, _ = over(beginning, load_gate(learning=False), scorer)
    gate = fit.unfitted(features_NF, GATE_FEATURES, len(EXPERTS))
    found = product.fit(gate.standardise(features_NF) * (not little), scorer.kept, gate.coefficients)
    gate.coefficients = found.astype(np.float32).astype(np.float64)
    features_NF, probs_NK = over(holdout_tokens, gate, product.ProductScorer())
    gate.rate = GATE_RATE
    return fit.fit(features_NF, probs_NK, gate)
