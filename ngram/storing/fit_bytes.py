"""Makes a table smaller by leaving out the n-grams that save the fewest bits of text for each bit they take.

The worth of n-gram h w is the number of bits that the counted text would cost more without it: raw(h)·p(w|h)·log2(p(w|h)/p̄(w|h)) for w
itself, where p̄ = (λ(h) + discounted share)·p(w|h′), less what h's other words gain by the larger λ: the relative entropy of Stolcke (1998),
over raw counts.  The price of an n-gram is about the bits that the codec needs for it, few where the shorter context leads one to expect
it.  An n-gram is worth at least as much as any that has it as its context or suffix, so the most valuable ones are closed under both.
An n-gram that is left out counts in its suffix with all its occurrences instead of as one left neighbour (Kneser pruning: Siivola,
Hirsimäki & Virpioja 2007), because the shorter n-gram must now predict all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ngram.arrays import F64, I64, U32, Mask, Tokens
from ngram.errors import SeedgramError
from ngram.kneser_ney import smoothed_orders
from ngram.storing import table_codec
from ngram.table import NgramTable, stored_counts, suffix_rows
from ngram.threads import each

STAGE = 2.0  # a table shrinks by at most this factor before the values are computed again
_FILL = 0.993  # share of the bytes asked for at which the search stops
_MAX_TRIALS = 16
# A table that fits is kept whole: all of it is tried where a trial would keep this share, or where what fills the bytes is not sure to
# be much less than all
_NEARLY = 0.9
_SURELY = 1.5
# Price in bits of an n-gram that is expected e times and counted c times: log2(1 + 2/e) for its membership, a fit to the codec's
# own buckets, log2(√c) for its count, as the levels lie √c apart, and 1 for its part of its context's total.  At 0.78 MB on
# books this saves 6 % of the bytes, or 0.0018 BPB, against pruning by worth alone.
_RARITY = 2.0
_COUNT_BITS = 0.5
_FIXED_BITS = 1.0
# First guess of the bytes of the first n of M n-grams: their price by so much, less by √(n/M).  Within 5 % on 1 … 100 % of tables of 20 M and
# 72 M tokens of web text that hold what occurs twice, down to half of it on those that hold everything (LOG.md, 2026-11-27).
_PRICED = 2.95
_COMMON = 1.5


@dataclass(frozen=True)
class Ground:
    """A table with what pruning reads of it: raw counts and the row of each n-gram's suffix in the order below."""

    table: NgramTable
    raw: list[I64]
    suffixes: list[I64]


@dataclass(frozen=True)
class _Coded:
    """A table with `size` n-grams beyond order 1 as bytes, and as a reader gets it."""

    size: int
    data: bytes
    read: Callable[[], NgramTable]


@dataclass(frozen=True)
class _Stage:
    """ranking (M,): the n-grams beyond order 1, the most valuable first.  guess (M + 1,): about how many bytes the first n of them take.
    least: bytes that all of them take, even if they are all there ever were."""

    ground: Ground
    ranking: I64
    guess: F64
    least: float

    def coded(self, size: int) -> _Coded:
        count = self.ground.table.vocab_size + size
        smaller = self.ground if size == len(self.ranking) else keep_first(self.ground, self.ranking, count)
        return _Coded(size, *table_codec.encode_read(smaller.table, smaller.suffixes))


def fit_bytes(table: NgramTable, max_bytes: int) -> tuple[NgramTable, bytes]:
    """Prunes a table until its code fits into max_bytes.  Returns the table that a reader will get, and the bytes.

    Fills max_bytes to within 1 % unless the whole table is smaller.  Raises SeedgramError, which says the minimum, when not
    even the unigrams fit."""
    return Stages(table).fit(max_bytes)


class Stages:
    """A table with its raw counts, and smaller and smaller ones, each ranked anew: what pruning to any number of bytes begins with."""

    def __init__(self, table: NgramTable) -> None:
        self.sizes = table.sizes()
        self._made = [self._stage(ground_of(table))]
        self._unigrams = self._made[0].coded(0)
        self._begun = list[_Coded]()

    def begin(self, max_bytes: int) -> None:
        """Codes a table of about so many bytes, with which a fit to nearly as many will begin: what `fit` returns depends on it."""
        if max_bytes > len(self._unigrams.data):
            stage = self._made[self._at(max_bytes)]
            self._begun = [stage.coded(min(int(np.searchsorted(stage.guess, max_bytes)), len(stage.ranking)))]

    def fit(self, max_bytes: int) -> tuple[NgramTable, bytes]:
        """What `fit_bytes` returns."""
        if len(self._unigrams.data) > max_bytes:
            raise SeedgramError(f"n-gram table: {max_bytes} bytes are too few; the unigrams alone need {len(self._unigrams.data)}")
        low, high = self._unigrams, None
        for coded in self._begun:
            low, high = (coded, None) if len(coded.data) <= max_bytes else (low, coded)
        at = self._at(max_bytes)
        low = _search(self._made[at], max_bytes, low, high)
        while at and low.size >= len(self._made[at].ranking):  # less was kept than fits: the guess was too high
            at -= 1
            low = _search(self._made[at], max_bytes, low, high)
        return low.read(), low.data

    def _at(self, max_bytes: int) -> int:
        """Number of the first stage that is not much too large for max_bytes; all before it are needed to make it."""
        for at, stage in enumerate(self._made):
            size = len(stage.ranking)
            if stage.least <= max_bytes * STAGE or size <= 1:
                break
            if at + 1 == len(self._made):
                self._made.append(self._stage(keep_first(stage.ground, stage.ranking, self.sizes[0] + size // int(STAGE))))
        return at

    def _stage(self, ground: Ground) -> _Stage:
        ranking, prices = ranking_of(ground)
        bytes_ = np.concatenate([[0.0], np.cumsum(prices[ranking])]) / 8
        share = np.arange(len(bytes_)) / max(1, sum(self.sizes[1:]))
        guess = np.maximum.accumulate(bytes_ * (_PRICED - _COMMON * np.sqrt(share)))
        return _Stage(ground, ranking, guess, float(bytes_[-1]) * (_PRICED - _COMMON))


def _search(stage: _Stage, max_bytes: int, low: _Coded, high: _Coded | None) -> _Coded:
    """The table that fills max_bytes; low fits, high does not.  Trials go where the guess says, scaled to the trials before."""
    guess, whole = stage.guess, len(stage.ranking)
    if high is not None and high.size > whole:
        high = None
    for trial in range(_MAX_TRIALS):
        top = whole if high is None else high.size - 1
        filled = len(low.data) >= max_bytes * _FILL
        if low.size >= top or (filled and (high is not None or len(low.data) * guess[-1] > _SURELY * max_bytes * guess[low.size])):
            break
        if trial % 4 == 3:
            middle = (low.size + top) // 2
        else:
            middle = int(np.searchsorted(guess, _wanted(guess, max_bytes * (1 + _FILL) / 2, low, high)))
        if high is None and (filled or middle > _NEARLY * whole):
            middle = whole
        tried = stage.coded(min(max(middle, low.size + 1), top))
        low, high = (tried, high) if len(tried.data) <= max_bytes else (low, tried)
    return low


def _wanted(guess: F64, target: float, low: _Coded, high: _Coded | None) -> float:
    """The guess at which `target` bytes are to be expected, when `low` and `high` turned out as they did."""
    tried = [(len(one.data), float(guess[one.size])) for one in (low, high) if one is not None and one.size]
    if not tried:
        return target
    size, guessed = min(tried, key=lambda pair: abs(pair[0] - target))
    power = 1.0
    if len(tried) == 2 and tried[0][0] < tried[1][0] and tried[0][1] < tried[1][1]:
        power = float(np.log(tried[1][1] / tried[0][1]) / np.log(tried[1][0] / tried[0][0]))
    return float(guessed * (target / size) ** power)


def ground_of(table: NgramTable) -> Ground:
    """What pruning reads of a table that has its raw counts; a decoded one gets them back from prune.with_raw.

    Raises SeedgramError when the table is not closed under suffixes."""
    if table.raw is None:
        raise SeedgramError("n-gram table: has no raw counts to prune by; give ngram.storing.prune.with_raw of it")
    return Ground(table, [column.astype(np.int64) for column in table.raw], suffix_rows(table))


def sums(index: npt.NDArray[np.integer], values: npt.NDArray[np.integer], size: int) -> I64:
    # Exact below 2^53 in all: bincount adds in float64.
    return np.bincount(index, weights=values, minlength=size).astype(np.int64)


def ranking_of(ground: Ground) -> tuple[I64, F64]:
    """All n-grams of orders 2… (numbered through, the lower orders first), the most valuable first; contexts and suffixes before
    what needs them.  Beside it the price of each, in bits, as numbered."""
    table = ground.table
    values, prices = _values(ground)
    for n in range(table.order, 2, -1):
        np.maximum.at(values[n - 3], table.parents[n - 1], values[n - 2])
        np.maximum.at(values[n - 3], ground.suffixes[n - 1], values[n - 2])
    return np.argsort(-np.concatenate([np.empty(0), *values]), kind="stable"), np.concatenate([np.empty(0), *prices])


def _values(ground: Ground) -> tuple[list[F64], list[F64]]:
    """Bits that each n-gram of orders 2… saves, for each bit that it costs, and those it costs: float64 (M_n,) an order."""
    table = ground.table
    total_below: F64 = np.ones(1)
    counts_below: F64 = np.ones(table.vocab_size)
    values, prices = [], []
    for n, (share, lower, _, backoff, total) in enumerate(smoothed_orders(table, ground.suffixes), 1):
        parents, suffixes = table.parents[n - 1], ground.suffixes[n - 1]
        counts = table.exact_counts(n).astype(np.float64)
        if n > 1:
            occurrences = np.bincount(parents, weights=ground.raw[n - 1], minlength=len(total))
            worth = occurrences[parents] * _divergence(share, backoff[parents], lower)
            ratio = total / np.maximum(total_below[ground.suffixes[n - 2]], 1)
            expected = np.maximum(ratio[parents] * counts_below[suffixes], 1e-9)
            price = np.log2(1 + _RARITY / expected) + _COUNT_BITS * np.log2(np.maximum(counts, 1)) + _FIXED_BITS
            values.append(worth / price)
            prices.append(price)
        total_below, counts_below = total, counts
    return values, prices


def _divergence(share: F64, backoff: F64, low: F64) -> F64:
    """Bits an occurrence of the context, by which p = share + backoff·low beats (backoff + share)·low for this word and all others."""
    # Nothing to back off to (λ = 0 or p(w|h′) = 0): then the word cannot be missed at any price.
    with np.errstate(divide="ignore", invalid="ignore"):
        prob = share + backoff * low
        own = np.where(prob > 0, prob * np.log2(prob / ((backoff + share) * low)), 0)
        others = np.where(backoff > 0, backoff * (1 - low) * np.log2((backoff + share) / backoff), 0)
    return own - others


def keep_first(ground: Ground, ranking: I64, size: int) -> Ground:
    """The table of all unigrams and the first of the ranking, `size` n-grams in all."""
    flat = np.zeros(sum(ground.table.sizes()), np.bool_)
    flat[: ground.table.vocab_size] = True
    flat[ranking[: size - ground.table.vocab_size] + ground.table.vocab_size] = True
    return _apply(ground, np.split(flat, np.cumsum(ground.table.sizes())[:-1]))


def _apply(ground: Ground, keep: list[Mask]) -> Ground:
    """Leaves out what is not kept: counts anew, lost mass into `pruned`, rows renumbered."""
    table = ground.table
    renumber = each(lambda mask: np.cumsum(mask) - 1, keep)
    parts = each(lambda n: _apply_order(ground, keep, renumber, n), range(1, table.order + 1))
    smaller = replace(
        table,
        tokens=[part.tokens for part in parts],
        parents=[part.parents for part in parts],
        pruned=[part.pruned for part in parts],
        raw=[part.raw.astype(np.uint32) for part in parts],
        **stored_counts([part.adjusted for part in parts]),
    )
    return Ground(smaller, [part.raw for part in parts], [part.suffixes for part in parts])


@dataclass(frozen=True)
class _Kept:
    """One order of a smaller table; adjusted (M,) int64 counts, pruned (contexts kept,) uint32."""

    tokens: Tokens
    parents: U32
    adjusted: I64
    pruned: U32
    raw: I64
    suffixes: I64


def _apply_order(ground: Ground, keep: list[Mask], renumber: list[I64], n: int) -> _Kept:
    table, mask, adjusted = ground.table, keep[n - 1], ground.raw[n - 1].copy()
    if n < table.order:
        above = keep[n]
        adjusted -= sums(ground.suffixes[n][above], ground.raw[n][above] - 1, len(adjusted))
    lost = sums(table.parents[n - 1][~mask], adjusted[~mask], len(table.pruned[n - 1])) + table.pruned[n - 1]
    lost = lost if n == 1 else lost[keep[n - 2]]
    parents, suffixes = (
        column if n == 1 else renumber[n - 2][column] for column in (table.parents[n - 1][mask], ground.suffixes[n - 1][mask])
    )
    raw = ground.raw[n - 1][mask]
    return _Kept(
        table.tokens[n - 1][mask], parents.astype(np.uint32), adjusted[mask], lost.astype(np.uint32), raw, suffixes.astype(np.int64)
    )
