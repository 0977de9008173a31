"""Makes a table smaller by leaving out the n-grams that save the fewest bits of text for each bit they take: docs/decisions.md defines both.

Worth: the relative entropy of Stolcke (1998), over raw counts; price: about the codec's bits.  The most valuable n-grams are closed under context
and suffix.  One that is left out counts in its suffix with all its occurrences (Kneser pruning: Siivola, Hirsimäki & Virpioja 2007).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ngram.arrays import F64, I64, U32, Mask, Tokens
from ngram.errors import SeedgramError
from ngram.kneser_ney import smoothed_orders
from ngram.storing import table_codec
from ngram.table import NgramTable, stored_counts, suffix_rows
from ngram.threads import each

STAGE = 2.0  # a table shrinks by at most this factor before the values are computed again
_FILL = 0.993  # share of the bytes asked for at which the search stops
_MAX_TRIALS = 16
# A table that fits is kept whole: all of it is tried where a trial would keep this share, or where what fills the bytes is not surely much
# less.  All of a small one is tried first where it may fit: some of its n-grams can take more bytes than all
_NEARLY, _SURELY, _SMALL = 0.9, 1.5, 1 << 20
# Price in bits of an n-gram that is expected e times and counted c times: log2(1 + _RARITY/e) + _COUNT_BITS·log2(c) + _FIXED_BITS
_RARITY, _COUNT_BITS, _FIXED_BITS = 2.0, 0.5, 1.0
# First guess of the bytes of the first n of M n-grams: so many bits a bit of price, less by √(n/M)
_PRICED, _COMMON = 2.95, 1.5


@dataclass(frozen=True)
class Ground:
    """What pruning reads: a table, its raw counts and its `suffix_rows`."""

    table: NgramTable
    raw: list[U32]
    suffixes: list[I64]


@dataclass(frozen=True)
class _Coded:
    """A table with `size` n-grams beyond order 1 as bytes, and as a reader gets it."""

    size: int
    data: bytes
    read: Callable[[], NgramTable]


@dataclass(frozen=True)
class _Stage:
    """ranking (M,): the n-grams beyond order 1, the most valuable first.  guess (M + 1,): about how many bytes the first n of them take;
    least: all of them, if there never were more."""

    ground: Ground
    ranking: I64
    guess: F64
    least: float

    def coded(self, size: int) -> _Coded:
        smaller = self.ground if size == len(self.ranking) else keep_first(self.ground, self.ranking, size)
        return _Coded(size, *table_codec.encode_read(smaller.table, smaller.suffixes))


class Stages:
    """A table and smaller and smaller ones, each ranked anew: what pruning to any number of bytes begins with."""

    def __init__(self, table: NgramTable) -> None:
        self._whole = sum(table.sizes()[1:])
        self._made = [self._stage(ground_of(table))]
        self._begun = self._unigrams = self._made[0].coded(0)

    def begin(self, max_bytes: int) -> None:
        """Codes a table of about so many bytes, to begin a fit to nearly as many with: what `fit` returns depends on it."""
        if max_bytes > len(self._unigrams.data):
            stage = self._made[self._at(max_bytes)]
            self._begun = stage.coded(int(np.searchsorted(stage.guess[:-1], max_bytes)))

    def fit(self, max_bytes: int) -> tuple[NgramTable, bytes]:
        """Prunes the table until its code fits into max_bytes.  Returns the table that a reader will get, and the bytes.

        Fills max_bytes to within 1 % unless the whole table is smaller.  Raises SeedgramError, which says the minimum, when not
        even the unigrams fit."""
        low, begun = self._unigrams, self._begun
        if len(low.data) > max_bytes:
            raise SeedgramError(f"n-gram table: {max_bytes} bytes are too few; the unigrams alone need {len(low.data)}")
        may_fit = self._whole <= _SMALL and self._made[0].guess[-1] <= 2 * max_bytes
        if may_fit and len((whole := self._made[0].coded(self._whole)).data) <= max_bytes:
            return whole.read(), whole.data
        low, high = (begun, None) if len(begun.data) <= max_bytes else (low, begun)
        for stage in self._made[self._at(max_bytes) :: -1]:
            low = _search(stage, max_bytes, low, high)
            if low.size < len(stage.ranking):  # else the guess was too high: more would fit
                break
        return low.read(), low.data

    def _at(self, max_bytes: int) -> int:
        """Number of the first stage that is not much too large for max_bytes."""
        at = 0
        while (stage := self._made[at]).least > max_bytes * STAGE and len(stage.ranking) > 1:
            at += 1
            if at == len(self._made):
                self._made.append(self._stage(keep_first(stage.ground, stage.ranking, int(len(stage.ranking) / STAGE))))
        return at

    def _stage(self, ground: Ground) -> _Stage:
        ranking, prices = ranking_of(ground)
        sizes = np.append(0.0, np.cumsum(prices[ranking]) / 8)
        guess = np.maximum.accumulate(sizes * (_PRICED - _COMMON * np.sqrt(np.arange(len(sizes)) / max(1, self._whole))))
        return _Stage(ground, ranking, guess, float(sizes[-1]) * (_PRICED - _COMMON))


def _search(stage: _Stage, max_bytes: int, low: _Coded, high: _Coded | None) -> _Coded:
    """The table that fills max_bytes; low fits, high does not.  Trials go where the guess says, scaled to the nearest one before."""
    guess, whole, target = stage.guess, len(stage.ranking), max_bytes * (1 + _FILL) / 2
    if high is not None and high.size > whole:
        high = None
    for trial in range(_MAX_TRIALS):
        top = whole if high is None else high.size - 1
        filled = len(low.data) >= max_bytes * _FILL
        if low.size >= top or (filled and (high is not None or len(low.data) * guess[-1] > _SURELY * max_bytes * guess[low.size])):
            break
        near = min((one for one in (low, high) if one is not None and one.size), key=lambda one: abs(len(one.data) - target), default=None)
        wanted = target if near is None else guess[near.size] * target / len(near.data)
        middle = (low.size + top) // 2 if trial % 4 == 3 else int(np.searchsorted(guess, wanted))
        if high is None and (filled or middle > _NEARLY * whole):
            middle = whole
        coded = stage.coded(min(max(middle, low.size + 1), top))
        low, high = (coded, high) if len(coded.data) <= max_bytes else (low, coded)
    return low


def ground_of(table: NgramTable) -> Ground:
    """Raises SeedgramError when the table has no raw counts or is not closed under suffixes."""
    if table.raw is None:
        raise SeedgramError("n-gram table: has no raw counts to prune by; give ngram.storing.prune.with_raw of it")
    return Ground(table, table.raw, suffix_rows(table))


def sums(index: U32 | I64, values: U32 | I64, size: int) -> I64:
    return np.bincount(index, values, size).astype(np.int64)  # exact below 2^53 in all: bincount adds in float64


def ranking_of(ground: Ground) -> tuple[I64, F64]:
    """All n-grams of orders 2… (numbered through, the lower orders first), the most valuable first; contexts and suffixes before
    what needs them.  Beside it the price of each, in bits, as numbered."""
    table = ground.table
    values, prices = _values(ground)
    for n in range(table.order, 2, -1):
        for rows in (table.parents, ground.suffixes):
            np.maximum.at(values[n - 3], rows[n - 1], values[n - 2])
    value, price = (np.concatenate([np.empty(0), *parts]) for parts in (values, prices))
    return np.argsort(-value, kind="stable"), price


def _values(ground: Ground) -> tuple[list[F64], list[F64]]:
    """Bits that each n-gram of orders 2… saves, for each bit that it costs, and those it costs: float64 (M_n,) an order."""
    table = ground.table
    total_below = counts_below = np.empty(0)  # order 1 reads neither
    values, prices = [], []
    for n, (share, lower, prob, backoff, total) in enumerate(smoothed_orders(table, ground.suffixes), 1):
        parents, counts = table.parents[n - 1], table.exact_counts(n).astype(np.float64)
        if n > 1:
            occurrences = np.bincount(parents, ground.raw[n - 1], len(total))
            worth = occurrences[parents] * _divergence(prob, share, backoff[parents], lower)
            ratio = total / np.maximum(total_below[ground.suffixes[n - 2]], 1)
            expected = np.maximum(ratio[parents] * counts_below[ground.suffixes[n - 1]], 1e-9)
            prices.append(np.log2(1 + _RARITY / expected) + _COUNT_BITS * np.log2(np.maximum(counts, 1)) + _FIXED_BITS)
            values.append(worth / prices[-1])
        total_below, counts_below = total, counts
    return values, prices


def _divergence(prob: F64, share: F64, backoff: F64, low: F64) -> F64:
    """Bits an occurrence of the context, by which prob = share + backoff·low beats (backoff + share)·low for this word and all others."""
    # Nothing to back off to (λ = 0 or p(w|h′) = 0): the word cannot be missed at any price.
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.where(prob > 0, prob * np.log2(prob / ((backoff + share) * low)), 0)
        others = np.where(backoff > 0, backoff * (1 - low) * np.log2((backoff + share) / backoff), 0)
    return own - others


def keep_first(ground: Ground, ranking: I64, size: int) -> Ground:
    """The table of all unigrams and the first `size` of the ranking: counted anew, lost mass in `pruned`, rows renumbered."""
    table = ground.table
    flat = np.arange(sum(table.sizes())) < table.vocab_size
    flat[ranking[:size] + table.vocab_size] = True
    keep = np.split(flat, np.cumsum(table.sizes())[:-1])
    renumber = each(lambda mask: np.cumsum(mask) - 1, keep)
    orders = each(lambda n: _apply_order(ground, keep, renumber, n), range(1, table.order + 1))
    tokens, parents, pruned, raw, adjusted, suffixes = map(list, zip(*orders, strict=True))
    return Ground(replace(table, tokens=tokens, parents=parents, pruned=pruned, raw=raw, **stored_counts(adjusted)), raw, suffixes)


def _apply_order(ground: Ground, keep: list[Mask], renumber: list[I64], n: int) -> tuple[Tokens, U32, U32, U32, I64, I64]:
    """One order of the smaller table: tokens, parents, pruned (contexts kept,), raw, adjusted counts, suffixes."""
    table, mask, adjusted = ground.table, keep[n - 1], ground.raw[n - 1].astype(np.int64)
    if n < table.order:
        above = keep[n]
        adjusted -= sums(ground.suffixes[n][above], ground.raw[n][above].astype(np.int64) - 1, len(adjusted))
    lost = sums(table.parents[n - 1][~mask], adjusted[~mask], len(table.pruned[n - 1])) + table.pruned[n - 1]
    parents, suffixes = table.parents[n - 1][mask], ground.suffixes[n - 1][mask]
    if n > 1:
        lost, parents, suffixes = lost[keep[n - 2]], renumber[n - 2][parents].astype(np.uint32), renumber[n - 2][suffixes]
    return table.tokens[n - 1][mask], parents, lost.astype(np.uint32), ground.raw[n - 1][mask], adjusted[mask], suffixes
