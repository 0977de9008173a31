"""Scores of a stretch of targets, and the check that a score is what a whole distribution says.

Shapes: n targets, K experts (mixture.EXPERTS), V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ngram.arrays import F64, I64, Tokens
from ngram.errors import SeedgramError

SUM_TOLERANCE = 2e-6  # |Σp - 1| of a row: network and product are float32
ENTRY_TOLERANCE = 1e-9  # relative difference of a reported probability and its entry of the row


class CheckError(SeedgramError):
    """A reported probability is not what the whole distribution says."""


@dataclass(frozen=True)
class BlendScores:
    """Probabilities of n targets by each expert (n, K) and mixed (n,); weights (n, K), the experts' shares; float64."""

    probs: F64
    mixed: F64
    weights: F64


def check_rows(rows_nV: Tensor, tokens_n: Tokens, reported_n: F64, where_n: I64) -> None:
    """Raises CheckError unless each row is a distribution whose entry for its token is the reported probability of its position."""
    targets_n1 = torch.from_numpy(tokens_n.astype(np.int64)).to(rows_nV.device)[:, None]
    columns = torch.stack([rows_nV.sum(1), rows_nV.amin(1), rows_nV.gather(1, targets_n1)[:, 0]]).cpu()
    for t, total, least, entry, reported in zip(where_n.tolist(), *columns.tolist(), reported_n.tolist(), strict=True):
        if not abs(total - 1) <= SUM_TOLERANCE or not least >= 0:
            raise CheckError(f"position {t}: the distribution sums to {total!r}, smallest entry {least!r}; the score is not printed")
        if not abs(reported - entry) <= ENTRY_TOLERANCE * entry:
            raise CheckError(f"position {t}: reported probability {reported!r}, but the distribution says {entry!r}; the score is not printed")
