"""Fits a table's discounts to text that it has not counted.

Chen & Goodman's estimate assumes that all counts are there and that they are mostly small.  Neither holds for bigrams of a
small vocabulary, nor after pruning, which keeps what happened to be frequent.  The probability of held-out text is
smooth in the 3·order discounts, so a pattern search on it (Hooke & Jeeves 1961) finds better ones in seconds.
"""

from dataclasses import replace

import numba
import numpy as np
import numpy.typing as npt

from ngram.errors import SeedgramError
from ngram.table import F64, NgramTable

MIN_TOKENS = 2_000  # fewer say too little about 21 numbers
MAX_TOKENS = 300_000  # more would take time and change nothing
_STEPS = (0.3, 0.2, 0.1, 0.1, 0.05, 0.05, 0.025, 0.0125)  # of the search, in counts

_COUNT, _ONES, _TWOS, _MORE, _LOST, _TOTAL = range(6)


def tune_discounts(table: NgramTable, tokens: npt.ArrayLike) -> NgramTable:
    """The table with the discounts under which `tokens` are most probable (static), starting at its own.

    tokens: (N,) uint16 stream, BOS before each document, not part of what the table counted; the first 300,000 are used.
    Raises SeedgramError on fewer than 2,000 tokens or tokens outside the vocabulary."""
    stream = np.ascontiguousarray(tokens, dtype=np.uint16)[:MAX_TOKENS]
    if stream.ndim != 1 or len(stream) < MIN_TOKENS:
        raise SeedgramError(f"{stream.size} held-out tokens cannot fit discounts; give at least {MIN_TOKENS}")
    if int(stream.max()) >= table.vocab_size:
        raise SeedgramError(f"token {int(stream.max())} is outside the vocabulary of {table.vocab_size}; use the model's tokenizer")
    statistics = _statistics(table, stream.astype(np.int64))
    discounts = table.discounts.astype(np.float64)
    best = _log_probability(statistics, discounts, table.vocab_size)
    for step in _STEPS:
        for n in range(table.order):
            for kind in range(3):
                before = discounts[n, kind]
                for trial in (before + step, before - step):
                    discounts[n, kind] = min(max(trial, 0.01), kind + 1)
                    found = _log_probability(statistics, discounts, table.vocab_size)
                    if found > best:
                        best, before = found, discounts[n, kind]
                        break
                discounts[n, kind] = before
    return replace(table, discounts=discounts)


def _statistics(table: NgramTable, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """(N-1, order, 6) uint32 for each target and order: its count, its context's children counted once, twice, more often, the
    mass left out, the total."""
    out = np.zeros((len(tokens) - 1, table.order, 6), np.uint32)
    contexts = np.zeros(len(tokens) - 1, np.int64)  # rows in the order below of the n-grams that end before each target; -1: none
    for n in range(1, table.order + 1):
        parents, counts, lost = table.parents[n - 1], table.exact_counts(n), table.pruned[n - 1]
        known = contexts >= 0
        at = contexts[known]
        for column, mask in ((_ONES, counts == 1), (_TWOS, counts == 2), (_MORE, counts > 2)):
            out[known, n - 1, column] = np.bincount(parents[mask], minlength=len(lost))[at]
        out[known, n - 1, _LOST] = lost[at]
        out[known, n - 1, _TOTAL] = (np.bincount(parents, weights=counts, minlength=len(lost)) + lost)[at]
        keys = (parents.astype(np.int64) << 16) | table.tokens[n - 1]
        wanted = (contexts << 16) | tokens[1:]
        found = np.searchsorted(keys, wanted)
        hit = known & (np.append(keys, -1)[found] == wanted)
        out[hit, n - 1, _COUNT] = counts[found[hit]]
        contexts = np.concatenate([tokens[:1] if n == 1 else [-1], np.where(hit, found, -1)[:-1]])
    return out


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _log_probability(statistics: npt.NDArray[np.uint32], discounts: F64, vocab_size: int) -> float:
    """Sum of log p(target) over the rows of `statistics`; interpolated as in online.py."""
    total_log = 0.0
    for t in range(statistics.shape[0]):
        prob = 1.0 / vocab_size
        for n in range(statistics.shape[1]):
            row = statistics[t, n]
            if row[_TOTAL] > 0:
                spare = discounts[n, 0] * row[_ONES] + discounts[n, 1] * row[_TWOS] + discounts[n, 2] * row[_MORE] + row[_LOST]
                count = row[_COUNT]
                own = max(count - discounts[n, min(count, 3) - 1], 0.0) if count > 0 else 0.0
                prob = (own + spare * prob) / row[_TOTAL]
        total_log += np.log(prob)
    return total_log
