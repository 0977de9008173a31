"""How much is subtracted from a count before it becomes a probability: one set of discounts an order, from its small counts.

Chen & Goodman (1999), "An empirical study of smoothing techniques for language modeling"; kneser_ney.py says how they are used.
"""

import numpy as np
import numpy.typing as npt

from ngram.arrays import F64

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # KenLM's --discount_fallback, for orders whose counts are too few to say
# For an order without any count, which will only hold what is counted online: those of orders 1…8 of books (docs/decisions.md)
TYPICAL_DISCOUNTS = (
    FALLBACK_DISCOUNTS, (0.52, 1.10, 1.70), (0.73, 1.19, 1.55), (0.85, 1.25, 1.48),
    (0.92, 1.32, 1.50), (0.96, 1.42, 1.56), (0.96, 1.42, 1.57), (0.96, 1.42, 1.57),
)


def estimate_discounts(count_of_counts: npt.ArrayLike) -> F64:
    """D1, D2, D3+ of each order: D_k = k − (k+1)·Y·n_{k+1}/n_k with Y = n_1/(n_1 + 2·n_2).

    count_of_counts: (order, 4) integers n_1…n_4, how many n-grams have each adjusted count → (order, 3) float64.
    When n_1, n_2 or n_3 is 0, or a discount falls outside 0…k, that order gets FALLBACK_DISCOUNTS, as in KenLM; when all four
    are 0, it gets TYPICAL_DISCOUNTS."""
    rows = np.array(count_of_counts, np.float64, ndmin=2)
    discounts = np.empty((len(rows), 3))
    for n, (row, out) in enumerate(zip(rows, discounts, strict=True)):
        out[:] = FALLBACK_DISCOUNTS if row.any() else TYPICAL_DISCOUNTS[n]
        if row[:3].min() > 0:
            share = row[0] / (row[0] + 2 * row[1])
            estimate = [k - (k + 1) * share * row[k] / row[k - 1] for k in (1, 2, 3)]
            if all(0 <= value <= k for k, value in enumerate(estimate, 1)):
                out[:] = estimate
    return discounts
