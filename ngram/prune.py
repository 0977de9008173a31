"""Makes a table smaller: leaves out the n-grams whose bytes buy the fewest bits of text.

The worth of n-gram h w is what the model's own text would cost more without it, in bits: raw(h)·p(w|h)·log2(p(w|h)/p̄(w|h))
for itself, where p̄ = (λ(h) + discounted share)·p(w|h′), less what h's other words gain by the larger λ: relative entropy as
in Stolcke (1998), on raw occurrence counts.  Its price is about the bits that the codec needs for it: few where the shorter
context lets one expect it.  An n-gram is as valuable as the best of those that need it as context or suffix, so that any
number of the most valuable ones is closed under prefix and suffix.  Counts below the top order then stop to be plain
continuation counts: an n-gram that is left out counts in its suffix with all its occurrences, not as one neighbour (Kneser
pruning, Siivola, Hirsimäki & Virpioja 2007), so the lower order knows what it must now answer for alone.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ngram import codec
from ngram.errors import SeedgramError
from ngram.table import NgramTable
from ngram.tune import tune_discounts

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_STAGE = 2.0  # a table shrinks by at most this factor before values are taken anew
_FILL = 0.993  # share of the bytes asked for at which the search stops
_MAX_TRIALS = 16
_GROWTH = 0.85  # first guess of the power of the n-grams by which bytes grow
# Price in bits of an n-gram that is expected e times and counted c times: log2(1 + 2/e) for its membership, a fit to the codec's
# own buckets, log2(√c) for its count, as the levels lie √c apart, and 1 for its part of its context's total.  At 0.78 MB on
# books this saves 6 % of the bytes, or 0.0018 BPB, against pruning by worth alone.
_RARITY = 2.0
_COUNT_BITS = 0.5
_FIXED_BITS = 1.0


@dataclass(frozen=True)
class _Ground:
    """A table with what pruning reads of it: raw counts and the row of each n-gram's suffix in the order below."""

    table: NgramTable
    raw: list[I64]
    suffixes: list[I64]


def prune(table: NgramTable, max_ngrams: int) -> NgramTable:
    """The table with the `max_ngrams` most valuable n-grams, unigrams included (all, when it has fewer).

    Closed under prefix and suffix; what each context lost is in `pruned`, so rows still sum to 1; keeps raw counts if it has them.
    Raises SeedgramError when the table is not closed under suffixes or max_ngrams is below the vocabulary."""
    if max_ngrams < table.vocab_size:
        raise SeedgramError(f"n-gram table: {max_ngrams} n-grams are fewer than its {table.vocab_size} tokens; ask for at least so many")
    ground = _ground(table)
    while (size := sum(ground.table.sizes())) > max_ngrams:
        ground = _keep(ground, _ranking(ground), max(max_ngrams, int(size / _STAGE)))
    return ground.table


def fit_bytes(table: NgramTable, max_bytes: int, held_out: npt.ArrayLike | None = None) -> tuple[NgramTable, bytes]:
    """Prunes a table until its code fits into max_bytes.  Returns the table that a reader will get, and the bytes.

    Fills max_bytes to within 1 % unless the whole table is smaller.  held_out: (N,) uint16 stream that the table has not
    counted, to fit the discounts of what is left to (tune.py); without it they stay.  Raises SeedgramError, which says the
    minimum, when not even the unigrams fit."""
    fitted, data = _fit(table, max_bytes)
    if held_out is None:
        return fitted, data
    # Discounts have a fixed size and move no n-gram, count or mass: the same bytes but for them.
    data = codec.encode(tune_discounts(fitted, held_out))
    return codec.decode(data), data


def _fit(table: NgramTable, max_bytes: int) -> tuple[NgramTable, bytes]:
    ground = _ground(table)
    least = codec.encode(_keep(ground, np.empty(0, np.int64), table.vocab_size).table)
    if len(least) > max_bytes:
        raise SeedgramError(f"n-gram table: {max_bytes} bytes are too few; the unigrams alone need {len(least)}")
    data, size = codec.encode(table), sum(table.sizes())
    if len(data) <= max_bytes:
        return codec.decode(data), data
    while len(data) > max_bytes * _STAGE and size > table.vocab_size:
        size = max(int(size / _STAGE), table.vocab_size)
        ground = _keep(ground, _ranking(ground), size)
        data = codec.encode(ground.table)
    best = data if len(data) <= max_bytes else _search(ground, max_bytes, (table.vocab_size, least), (size, data))
    return codec.decode(best), best


def _search(ground: _Ground, max_bytes: int, low: tuple[int, bytes], high: tuple[int, bytes]) -> bytes:
    """Looks for the number of n-grams that fills max_bytes, between one that fits (low) and one that does not (high).

    Bytes grow about as a power of the n-grams beyond order 1: regula falsi on both logarithms."""
    ranking = _ranking(ground)
    unigrams, least = low[0], len(low[1])
    target = max_bytes * (1 + _FILL) / 2
    for trial in range(_MAX_TRIALS):
        if len(low[1]) >= max_bytes * _FILL or high[0] - low[0] <= 1:
            break
        more, missing = len(high[1]) - least, max(target - least, 1)
        power = _GROWTH
        if low[0] > unigrams and least < len(low[1]) < len(high[1]):
            power = np.log(more / (len(low[1]) - least)) / np.log((high[0] - unigrams) / (low[0] - unigrams))
        middle = unigrams + int((high[0] - unigrams) * (missing / more) ** (1 / power)) if trial % 4 < 3 else (low[0] + high[0]) // 2
        middle = min(max(middle, low[0] + 1), high[0] - 1)
        data = codec.encode(_keep(ground, ranking, middle).table)
        if len(data) <= max_bytes:
            low = (middle, data)
        else:
            high = (middle, data)
    return low[1]


def _ground(table: NgramTable) -> _Ground:
    suffixes = codec.suffix_rows(table)
    if table.raw is not None:
        return _Ground(table, [column.astype(np.int64) for column in table.raw], suffixes)
    # Each kept left extension counts once in its suffix, all other occurrences one by one: undone from the top down.
    raw = [table.exact_counts(n).astype(np.int64) for n in range(1, table.order + 1)]
    for n in range(table.order, 1, -1):
        raw[n - 2] += _sums(suffixes[n - 1], raw[n - 1] - 1, len(raw[n - 2]))
    return _Ground(table, raw, suffixes)


def _sums(index: npt.NDArray[np.integer], values: npt.NDArray[np.integer], size: int) -> I64:
    # Exact below 2^53 in all: bincount adds in float64.
    return np.bincount(index, weights=values, minlength=size).astype(np.int64)


def _ranking(ground: _Ground) -> I64:
    """All n-grams of orders 2… (numbered through, the lower orders first), the most valuable first; contexts and suffixes before
    what needs them."""
    table = ground.table
    values = _values(ground)
    for n in range(table.order, 2, -1):
        np.maximum.at(values[n - 3], table.parents[n - 1], values[n - 2])
        np.maximum.at(values[n - 3], ground.suffixes[n - 1], values[n - 2])
    return np.argsort(-np.concatenate([np.empty(0), *values]), kind="stable")


def _values(ground: _Ground) -> list[F64]:
    """Bits that each n-gram of orders 2… saves, for each bit that it costs, float64 (M_n,) an order."""
    table = ground.table
    lower: F64 = np.full(table.vocab_size, 1 / table.vocab_size)
    total_below: F64 = np.ones(1)
    counts_below: F64 = np.ones(table.vocab_size)
    values = []
    for n in range(1, table.order + 1):
        parents, suffixes = table.parents[n - 1], ground.suffixes[n - 1]
        counts = table.exact_counts(n).astype(np.float64)
        held_back = np.minimum(table.discounts[n - 1][np.clip(counts, 1, 3).astype(np.int64) - 1], counts)
        lost = table.pruned[n - 1]
        total = np.bincount(parents, weights=counts, minlength=len(lost)) + lost
        spare = (np.bincount(parents, weights=held_back, minlength=len(lost)) + lost) / np.maximum(total, 1)
        share = (counts - held_back) / np.maximum(total, 1)[parents]
        backoff, low = spare[parents], lower if n == 1 else lower[suffixes]
        prob = share + backoff * low
        if n > 1:
            occurrences = np.bincount(parents, weights=ground.raw[n - 1], minlength=len(lost))
            worth = occurrences[parents] * _divergence(share, backoff, low)
            context_suffix = ground.suffixes[n - 2] if n > 2 else np.zeros(len(total), np.int64)
            ratio = total / np.maximum(total_below[context_suffix], 1)
            expected = np.maximum(ratio[parents] * counts_below[suffixes], 1e-9)
            price = np.log2(1 + _RARITY / expected) + _COUNT_BITS * np.log2(np.maximum(counts, 1)) + _FIXED_BITS
            values.append(worth / price)
        lower, total_below, counts_below = prob, total.astype(np.float64), counts
    return values


def _divergence(share: F64, backoff: F64, low: F64) -> F64:
    """Bits an occurrence of the context, by which p = share + backoff·low beats (backoff + share)·low for this word and all others."""
    # Nothing to back off to (λ = 0 or p(w|h′) = 0): then the word cannot be missed at any price.
    with np.errstate(divide="ignore", invalid="ignore"):
        prob = share + backoff * low
        own = np.where(prob > 0, prob * np.log2(prob / ((backoff + share) * low)), 0)
        others = np.where(backoff > 0, backoff * (1 - low) * np.log2((backoff + share) / backoff), 0)
    return own - others


def _keep(ground: _Ground, ranking: I64, size: int) -> _Ground:
    """The table of all unigrams and the first of the ranking, `size` n-grams in all."""
    flat = np.zeros(sum(ground.table.sizes()), np.bool_)
    flat[: ground.table.vocab_size] = True
    flat[ranking[: size - ground.table.vocab_size] + ground.table.vocab_size] = True
    return _apply(ground, np.split(flat, np.cumsum(ground.table.sizes())[:-1]))


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
    kept_raw = None if table.raw is None else [column.astype(np.uint32) for column in raw]
    smaller = replace(table, tokens=tokens, parents=parents, counts=counts, pruned=pruned, excess=excess, raw=kept_raw)
    return _Ground(smaller, raw, suffixes)
