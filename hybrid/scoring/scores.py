"""Scores of a stretch of targets, and the check that a score is what a whole distribution says.

Shapes: n targets, K experts (mixture.EXPERTS), V vocabulary.
"""

from dataclasses import dataclass

from ngram.arrays import F64
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


def check_row(row_V: F64, token: int, reported: float, t: int) -> None:
    """Raises CheckError unless row_V is a distribution whose entry for `token` is the reported probability of position t."""
    total, entry = float(row_V.sum()), float(row_V[token])
    if not abs(total - 1) <= SUM_TOLERANCE or not float(row_V.min()) >= 0:
        raise CheckError(f"position {t}: the distribution sums to {total!r}, smallest entry {float(row_V.min())!r}; the score is not printed")
    if not abs(reported - entry) <= ENTRY_TOLERANCE * entry:
        raise CheckError(f"position {t}: reported probability {reported!r}, but the distribution says {entry!r}; the score is not printed")
