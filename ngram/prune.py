"""Makes a table smaller: leaves out the n-grams whose absence costs the fewest bits, never more than the order below can mend.

The worth of n-gram h w is what the model's own text would cost more without it, in bits: raw(h)·p(w|h)·log2(p(w|h)/p̄(w|h))
for itself, where p̄ = (λ(h) + discounted share)·p(w|h′), less what h's other words gain by the larger λ: relative entropy as
in Stolcke (1998), on raw occurrence counts.  An n-gram stays while its context's or suffix's presence is needed: what is
left is closed under prefix and suffix.  Counts below the top order then stop to be plain continuation counts: an n-gram
that is left out counts in its suffix with all its occurrences, not as one neighbour (Kneser pruning, Siivola,
Hirsimäki & Virpioja 2007), so the lower order knows what it must now answer for alone.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ngram import codec
from ngram.errors import SeedgramError
from ngram.table import NgramTable

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_STAGE = 2.5  # a table shrinks by at most this factor before worths are taken anew
_FILL = 0.995  # share of the bytes asked for at which the search stops
_MAX_TRIALS = 12


@dataclass(frozen=True)
class _Ground:
    """A table with what pruning reads of it: raw counts and the row of each n-gram's suffix in the order below."""

    table: NgramTable
    raw: list[I64]
    suffixes: list[I64]


def prune(table: NgramTable, max_ngrams: int) -> NgramTable:
    """The table with about the `max_ngrams` worthiest n-grams, unigrams included; never more than that beyond order 1.

    Closed under prefix and suffix; what each context lost is in `pruned`, so rows still sum to 1; keeps raw counts.
    Raises SeedgramError when the table is not closed under suffixes or max_ngrams is below the vocabulary."""
    if max_ngrams < table.vocab_size:
        raise SeedgramError(f"n-gram table: {max_ngrams} n-grams are fewer than its {table.vocab_size} tokens; ask for at least so many")
    ground = _ground(table)
    while sum(ground.table.sizes()) > max_ngrams:
        worths = _worths(ground)
        total = sum(ground.table.sizes())
        ground = _shrink(ground, worths, max(max_ngrams, int(total / _STAGE)))
    return _with_raw(ground)


def fit_bytes(table: NgramTable, max_bytes: int) -> tuple[NgramTable, bytes]:
    """Prunes a table until its code fits into max_bytes.  Returns the table that a reader will get, and the bytes.

    Fills max_bytes to within 1 % unless the whole table is smaller.  Raises SeedgramError, which says the minimum, when
    not even the unigrams fit."""
    data = codec.encode(table)
    if len(data) <= max_bytes:
        return codec.decode(data), data
    ground = _ground(table)
    smallest = codec.encode(_shrink(ground, None, table.vocab_size).table)
    if len(smallest) > max_bytes:
        raise SeedgramError(f"n-gram table: {max_bytes} bytes are too few; the unigrams alone need {len(smallest)}")
    sizes = sum(table.sizes())
    while len(data) > max_bytes * _STAGE:
        ground = _shrink(ground, _worths(ground), max(int(sizes / _STAGE), table.vocab_size))
        sizes = sum(ground.table.sizes())
        data = codec.encode(ground.table)
    best = smallest if len(data) > max_bytes else data
    worths = _worths(ground)
    low, high = (table.vocab_size, len(smallest)), (sizes, len(data))
    for _ in range(_MAX_TRIALS):
        if len(best) >= max_bytes * _FILL or high[0] - low[0] <= 1:
            break
        share = (max_bytes * (1 + _FILL) / 2 - low[1]) / (high[1] - low[1])
        trial = min(max(int(low[0] + share * (high[0] - low[0])), low[0] + 1), high[0] - 1)
        data = codec.encode(_shrink(ground, worths, trial).table)
        if len(data) <= max_bytes:
            low, best = (trial, len(data)), data
        else:
            high = (trial, len(data))
    return codec.decode(best), best


def _ground(table: NgramTable) -> _Ground:
    suffixes = codec.suffix_rows(table)
    if table.raw is not None:
        return _Ground(table, [column.astype(np.int64) for column in table.raw], suffixes)
    # Each kept left extension counts once in its suffix, all other occurrences one by one: undone from the top down.
    raw = [table.exact_counts(n).astype(np.int64) for n in range(1, table.order + 1)]
    for n in range(table.order, 1, -1):
        raw[n - 2] += _sums(suffixes[n - 1], raw[n - 1] - 1, len(raw[n - 2]))
    return _Ground(table, raw, suffixes)


def _with_raw(ground: _Ground) -> NgramTable:
    t = ground.table
    raw = None if t.raw is None else [column.astype(np.uint32) for column in ground.raw]
    return NgramTable(t.vocab_size, t.bos, t.tokens, t.parents, t.counts, t.pruned, t.discounts, t.excess, raw)


def _sums(index: npt.NDArray[np.integer], values: npt.NDArray[np.integer], size: int) -> I64:
    # Exact below 2^53 in all: bincount adds in float64.
    return np.bincount(index, weights=values, minlength=size).astype(np.int64)


def _worths(ground: _Ground) -> list[F64]:
    """Bits that each n-gram of orders 2… saves, float64 (M_n,) an order."""
    table = ground.table
    lower = np.full(table.vocab_size, 1 / table.vocab_size)
    worths = []
    for n in range(1, table.order + 1):
        parents = table.parents[n - 1]
        counts = table.exact_counts(n).astype(np.float64)
        held_back = np.minimum(table.discounts[n - 1][np.minimum(counts, 3).astype(np.int64) - 1], counts)
        total = np.bincount(parents, weights=counts, minlength=len(table.pruned[n - 1])) + table.pruned[n - 1]
        spare = np.bincount(parents, weights=held_back, minlength=len(total)) + table.pruned[n - 1]
        share = (counts - held_back) / total[parents]
        backoff = (spare / np.maximum(total, 1))[parents]
        prob = share + backoff * lower
        if n > 1:
            occurrences = np.bincount(parents, weights=ground.raw[n - 1], minlength=len(total))[parents]
            # Discounts of 0 leave nothing to back off to: such a context's words cannot be missed at any price.
            with np.errstate(divide="ignore", invalid="ignore"):
                own = prob * np.log2(prob / ((backoff + share) * lower))
                others = np.where(backoff > 0, backoff * (1 - lower) * np.log2((backoff + share) / backoff), 0)
            worths.append(occurrences * (own - others))
        if n < table.order:
            lower = prob[ground.suffixes[n]]
    return worths


def _shrink(ground: _Ground, worths: list[F64] | None, max_ngrams: int) -> _Ground:
    """Keeps the worthiest n-grams with their contexts and suffixes, at most max_ngrams in all; no worths: unigrams only."""
    if worths is None:
        return _apply(ground, [np.ones(size, np.bool_) if n == 0 else np.zeros(size, np.bool_) for n, size in enumerate(ground.table.sizes())])
    ranked = np.sort(np.concatenate(worths))[::-1]
    low, high = 0, len(ranked)
    budget = max_ngrams
    keep = _closed(ground, worths, np.inf)
    while high - low > max(1, budget // 1000):
        middle = (low + high) // 2
        trial = _closed(ground, worths, ranked[middle - 1])
        if sum(int(mask.sum()) for mask in trial) <= budget:
            low, keep = middle, trial
        else:
            high = middle
    return _apply(ground, keep)


def _closed(ground: _Ground, worths: list[F64], threshold: float) -> list[Mask]:
    """Masks of the n-grams worth at least `threshold`, their contexts and suffixes; order 1 is kept whole."""
    sizes = ground.table.sizes()
    keep = [np.ones(sizes[0], np.bool_)] + [worth >= threshold for worth in worths]
    for n in range(len(sizes), 2, -1):
        keep[n - 2][ground.table.parents[n - 1][keep[n - 1]]] = True
        keep[n - 2][ground.suffixes[n - 1][keep[n - 1]]] = True
    return keep


def _apply(ground: _Ground, keep: list[Mask]) -> _Ground:
    """Leaves out what is not kept: counts anew, lost mass into `pruned`, rows renumbered."""
    table, order = ground.table, ground.table.order
    renumber = [np.cumsum(mask) - 1 for mask in keep]
    tokens, parents, counts, pruned, excess, raw, suffixes = [], [], [], [], {}, [], []
    for n in range(1, order + 1):
        mask, adjusted = keep[n - 1], ground.raw[n - 1].copy()
        if n < order:
            above = keep[n]
            adjusted -= _sums(ground.suffixes[n][above], ground.raw[n][above] - 1, len(adjusted))
        lost = _sums(table.parents[n - 1][~mask], adjusted[~mask], len(table.pruned[n - 1])) + table.pruned[n - 1]
        pruned.append((lost if n == 1 else lost[keep[n - 2]]).astype(np.uint32))
        tokens.append(table.tokens[n - 1][mask])
        old_parents, old_suffixes = table.parents[n - 1][mask], ground.suffixes[n - 1][mask]
        parents.append((old_parents if n == 1 else renumber[n - 2][old_parents]).astype(np.uint32))
        suffixes.append(old_suffixes if n == 1 else renumber[n - 2][old_suffixes])
        adjusted = adjusted[mask]
        counts.append(np.minimum(adjusted, 65535).astype(np.uint16))
        large = np.flatnonzero(adjusted > 65535)
        if len(large):
            excess[n] = (large.astype(np.uint32), adjusted[large].astype(np.uint32))
        raw.append(ground.raw[n - 1][mask])
    smaller = NgramTable(table.vocab_size, table.bos, tokens, parents, counts, pruned, table.discounts, excess, table.raw)
    return _Ground(smaller, raw, suffixes)
