"""Product: the expert made of two others, p(v) = p₁(v)^a · p₂(v)^b / Σ_w p₁(w)^a · p₂(w)^b.

A linear mixture believes what one of its experts believes; a product wants both to.  The exponents are functions of the
context alone (Gate.exponents), and the sum runs over the whole vocabulary, so every row is a distribution.
(Logarithmic opinion pools: Genest & Zidek 1986; log-linear interpolation of language models: Klakow 1998.)

Shapes: N rows, V vocabulary.
"""

import numpy as np

from ngram.arrays import Array
from ngram.blending.gate import LEAST
from ngram.compiled import njit


@njit
def fill_product_rows(begin: int, end: int, first_NV: Array, second_NV: Array, exponents_N2: Array, out_NV: Array) -> None:
    """Rows begin … end-1 of out_NV (N, V) float64 from those of both experts; one fixed order of additions a row."""
    for i in range(begin, end):
        a, b = exponents_N2[i, 0], exponents_N2[i, 1]
        top = -np.inf
        for v in range(out_NV.shape[1]):
            out_NV[i, v] = a * np.log(max(first_NV[i, v], LEAST)) + b * np.log(max(second_NV[i, v], LEAST))
            top = max(top, out_NV[i, v])
        total = 0.0
        for v in range(out_NV.shape[1]):
            out_NV[i, v] = np.exp(out_NV[i, v] - top)
            total += out_NV[i, v]
        for v in range(out_NV.shape[1]):
            out_NV[i, v] /= total
