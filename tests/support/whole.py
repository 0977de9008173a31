"""The network's scores of a whole text as one piece."""

from collections.abc import Iterable

import numpy as np
import torch

from hybrid.model.hybrid_lm import HybridLM
from hybrid.parallel.ranks import Ranks
from hybrid.scoring.network import NeuralScores
from hybrid.scoring.windows import neural_blocks
from ngram.score_first import Tokens


def joined(blocks: Iterable[NeuralScores]) -> NeuralScores:
    """Consecutive blocks as one, without rows."""
    all_of = list(blocks)
    nats, entropy, max_logp = (np.concatenate([getattr(block, name) for block in all_of]) for name in ("nll_nats", "entropy", "max_logp"))
    return NeuralScores(nats, entropy, max_logp, all_of[0].first)


def neural_scores(
    model: HybridLM, tokens: Tokens, seq_len: int, stride: int, device: torch.device, batch_windows: int = 0, ranks: Ranks | None = None
) -> NeuralScores:
    """The network's scores of every target of `tokens` (N,) uint16, without rows."""
    return joined(neural_blocks(model, tokens, seq_len, stride, ranks or Ranks(0, 1, device), batch_windows=batch_windows, rows=False))
