"""Pruning to a number of n-grams or of bytes (fit_bytes.py), also of a decoded table, whose raw counts went when it was written."""

from dataclasses import replace

import numpy as np

from ngram.errors import SeedgramError
from ngram.storing.fit_bytes import STAGE, Stages, ground_of, keep_first, ranking_of, sums
from ngram.table import NgramTable, suffix_rows


def with_raw(table: NgramTable) -> NgramTable:
    """The table with raw counts: its own, or those that its adjusted counts imply, the nearest that a decoded table has.

    Raises SeedgramError when the table is not closed under suffixes."""
    if table.raw is not None:
        return table
    # Each kept left extension counts once in its suffix, all other occurrences one by one: undone from the top down.
    suffixes, raw = suffix_rows(table), [table.exact_counts(n).astype(np.int64) for n in range(1, table.order + 1)]
    for n in range(table.order, 1, -1):
        raw[n - 2] += sums(suffixes[n - 1], raw[n - 1] - 1, len(raw[n - 2]))
    return replace(table, raw=[np.minimum(column, (1 << 32) - 1).astype(np.uint32) for column in raw])


def prune(table: NgramTable, max_ngrams: int) -> NgramTable:
    """The table with the `max_ngrams` most valuable n-grams, unigrams included (all, when it has fewer).

    Closed under prefix and suffix; what each context lost is in `pruned`, so rows still sum to 1; keeps raw counts if it has them.
    Raises SeedgramError when the table is not closed under suffixes or max_ngrams is below the vocabulary."""
    if max_ngrams < table.vocab_size:
        raise SeedgramError(f"n-gram table: {max_ngrams} n-grams are fewer than its {table.vocab_size} tokens; ask for at least so many")
    ground = ground_of(with_raw(table))
    while (size := sum(ground.table.sizes())) > max_ngrams:
        ground = keep_first(ground, ranking_of(ground)[0], max(max_ngrams, int(size / STAGE)) - table.vocab_size)
    return ground.table if table.raw is not None else replace(ground.table, raw=None)


def fit_bytes(table: NgramTable, max_bytes: int) -> tuple[NgramTable, bytes]:
    """`Stages.fit` of a table that is fitted once."""
    return Stages(with_raw(table)).fit(max_bytes)
