"""Numba kernels of the online cache: whole distributions.

The arithmetic is that of kernels.target_probability, operation by operation, so a row and the score of a target agree to the last bit."""

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit
from ngram.online.kernels import RowParts, kept_mass, root_backoff
from ngram.online.trie import TOTAL, State


@njit
def fill_unigram_row(state: State, row: Array) -> None:
    """Order 1 → row (V,) float64."""
    total = state.root[0, TOTAL]
    scale = 1.0 / total if total > 0 else 0.0
    for w in range(len(row)):
        row[w] = 1.0 / len(row)
        if total > 0:
            row[w] = root_backoff(state) * scale * row[w] + kept_mass(state, 1, np.int64(state.unigrams[w])) * scale


@njit
def fill_from_parts(parts: RowParts, first: int, rows: Array) -> None:
    """The distributions of targets first, first + 1, … of the block → rows (n, V); see there what they are made of."""
    size = len(parts.unigram)
    for i in range(len(rows)):
        for w in range(size):
            rows[i, w] = parts.unigram[w]
        for k in range(len(parts.lists)):
            at = parts.lists[k, first + i]
            if at > 0:
                for w in range(size):
                    rows[i, w] *= parts.shares[at]
                for e in range(parts.starts[at], parts.starts[at + 1]):
                    rows[i, parts.cells[e] - at * size] += parts.values[e]
