"""The published hashed n-gram rules, kept as the negative control: the values they call probabilities do not sum to 1.

They look up only the token that came.  Many (context, token) pairs share a bucket, so any token would find a large count there,
and the values of all tokens at one position sum to hundreds.  There are two rules.  Each takes the highest order with at least 2
counts and blends what it finds into a base distribution:

    published   pair count c: p = c / (c + 1024), weight min(0.95, ln(1 + c) / 10)          (pull request #1095)
    ratio       pair count c over context count n: p = min(c, n) / n, weight 0.95           (its relatives)

With B buckets, N counted positions, load L = N/B and the context's true count n_c, the ratios of one position sum to about
(n_c + V·L) / (n_c + L): the fewer buckets there are, the better the claimed score.  (Derived in pull request #1147.)

Shapes: N tokens counted, P positions, V vocabulary, O orders, B buckets.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ngram.arrays import F64, I64, U16, Array, read_only
from ngram.compiled import njit
from ngram.splitmix import GAMMA, mix64

ORDERS = (2, 3, 4, 5, 6, 7)
MIN_COUNT = 2
RATIO_WEIGHT = 0.95
FULL = 65535
RULES = ("published", "ratio")

_mix = njit(mix64)


@njit
def context_hash(tokens: Array, t: int, order: int) -> Any:
    """64-bit hash of the order-1 tokens before t."""
    h = np.uint64(order)
    for j in range(t - order + 1, t):
        h = _mix(h * GAMMA + np.uint64(tokens[j]) + np.uint64(1))
    return h


@njit
def _pair(context: Any, token: int, mask: Any) -> Any:
    return _mix(context + np.uint64(0xD1B54A32D192ED03) * np.uint64(token + 1)) & mask


@njit
def _count(tokens: Array, first_order: int, repeats: int, pairs_OB: Array, contexts_OB: Array) -> None:
    mask = np.uint64(pairs_OB.shape[1] - 1)
    for o in range(pairs_OB.shape[0]):
        for t in range(first_order + o - 1, len(tokens)):
            h = context_hash(tokens, t, first_order + o)
            i, j = _pair(h, int(tokens[t]), mask), h & mask
            pairs_OB[o, i] = min(FULL, np.int64(pairs_OB[o, i]) + repeats)
            contexts_OB[o, j] = min(FULL, np.int64(contexts_OB[o, j]) + repeats)


@njit
def _value(hashes_O: Array, token: int, base: float, ratio: bool, pairs_OB: Array, contexts_OB: Array) -> Any:
    """The blended "probability" of one token, and the index of the order it came from (-1: the base)."""
    mask = np.uint64(pairs_OB.shape[1] - 1)
    for o in range(len(hashes_O) - 1, -1, -1):
        c = float(pairs_OB[o, _pair(hashes_O[o], token, mask)])
        if ratio:
            n = float(contexts_OB[o, hashes_O[o] & mask])
            if n >= MIN_COUNT:
                return (1 - RATIO_WEIGHT) * base + RATIO_WEIGHT * min(c, n) / n, o
        elif c >= MIN_COUNT:
            weight = min(0.95, math.log(1 + c) / 10)
            return (1 - weight) * base + weight * c / (c + 1024), o
    return base, -1


@njit
def _hashes(tokens: Array, t: int, first_order: int, out_O: Array) -> Any:
    orders = min(len(out_O), max(0, t - first_order + 2))  # a history that is too short for an order has no context of it
    for o in range(orders):
        out_O[o] = context_hash(tokens, t, first_order + o)
    return out_O[:orders]


@njit
def _targets(
    tokens: Array, start: int, stop: int, first_order: int, base_V: Array, ratio: bool, pairs_OB: Array, contexts_OB: Array, out: Array
) -> None:
    scratch = np.empty(pairs_OB.shape[0], dtype=np.uint64)
    for t in range(start, stop):
        hashes = _hashes(tokens, t, first_order, scratch)
        token = int(tokens[t])
        out[t - start] = _value(hashes, token, base_V[token], ratio, pairs_OB, contexts_OB)[0]


@njit
def _claims(tokens: Array, first_order: int, base_N: Array, ratio: bool, pairs_OB: Array, contexts_OB: Array, out: Array) -> None:
    scratch = np.empty(pairs_OB.shape[0], dtype=np.uint64)
    for t in range(1, len(tokens)):
        hashes = _hashes(tokens, t, first_order, scratch)
        out[t - 1] = _value(hashes, int(tokens[t]), base_N[t - 1], ratio, pairs_OB, contexts_OB)[0]


@njit
def _rows(
    tokens: Array,
    positions: Array,
    first_order: int,
    base_V: Array,
    ratio: bool,
    pairs_OB: Array,
    contexts_OB: Array,
    out_PV: Array,
    order_P: Array,
) -> None:
    scratch = np.empty(pairs_OB.shape[0], dtype=np.uint64)
    for p in range(len(positions)):
        hashes = _hashes(tokens, positions[p], first_order, scratch)
        for v in range(len(base_V)):
            out_PV[p, v], order_P[p] = _value(hashes, v, base_V[v], ratio, pairs_OB, contexts_OB)


@dataclass(frozen=True)
class HashedTables:
    """Counts of one text in B buckets an order: pairs and contexts (O, B) uint16, saturating; base (V,) add-one unigrams.

    repeats: how often the text was counted, as training for several epochs does.  load: counts a bucket."""

    pairs: U16
    contexts: U16
    base: F64
    load: float
    repeats: int

    @classmethod
    def count(cls, tokens: U16, vocab_size: int, log2_buckets: int, repeats: int = 1) -> "HashedTables":
        """tokens (N,) uint16; 2^log2_buckets buckets an order."""
        shape = (len(ORDERS), 1 << log2_buckets)
        pairs, contexts = np.zeros(shape, dtype=np.uint16), np.zeros(shape, dtype=np.uint16)
        _count(tokens, ORDERS[0], repeats, pairs, contexts)
        seen = np.bincount(tokens, minlength=vocab_size) + 1.0
        return cls(pairs, contexts, seen / seen.sum(), len(tokens) * repeats / shape[1], repeats)


class HashedRatio:
    """A scorer, as hybrid/auditing/audit.py describes it, that follows one of the RULES on frozen tables."""

    def __init__(self, tables: HashedTables, rule: str) -> None:
        if rule not in RULES:
            raise ValueError(f"rule {rule!r} is none of {', '.join(RULES)}")
        self.tables, self.rule, self.vocab_size = tables, rule, len(tables.base)

    def score(self, tokens: U16, start: int, stop: int) -> F64:
        """(n,) what the rule reports for targets tokens[start:stop]."""
        out, t = np.empty(stop - start), self.tables
        _targets(read_only(tokens, self.vocab_size), start, stop, ORDERS[0], t.base, self.rule == "ratio", t.pairs, t.contexts, out)
        return out

    def claims(self, tokens: U16, base: F64) -> F64:
        """(N-1,) what the rule reports for all targets over a model that gives them `base` (N-1,) instead of the unigrams.

        These are no probabilities: only the token that came is ever looked up."""
        if len(base) != len(tokens) - 1:
            raise ValueError(f"{len(base)} base values for {len(tokens) - 1} targets")
        out, t = np.empty(len(base)), self.tables
        _claims(read_only(tokens, self.vocab_size), ORDERS[0], np.ascontiguousarray(base, np.float64), self.rule == "ratio", t.pairs, t.contexts, out)
        return out

    def rows(self, tokens: U16, start: int, stop: int) -> F64:
        """(n, V) what it would have reported for every token of the vocabulary."""
        return self.rows_at(tokens, np.arange(start, stop))[0]

    def rows_at(self, tokens: U16, positions: I64) -> tuple[F64, I64]:
        """(P, V) values, and (P,) the order that the ratio rule used at each position, 0 for the base."""
        out, used, t = np.empty((len(positions), self.vocab_size)), np.empty(len(positions), dtype=np.int64), self.tables
        _rows(read_only(tokens, self.vocab_size), positions, ORDERS[0], t.base, self.rule == "ratio", t.pairs, t.contexts, out, used)
        return out, np.where(used < 0, 0, used + ORDERS[0])

    def reset(self) -> None:
        """Nothing to do: the tables are frozen."""

    def update(self, tokens: U16, start: int, stop: int) -> None:
        """Nothing to do: the tables are frozen."""

    def digest(self) -> str:
        return ""


@njit
def _context_hashes(tokens: Array, positions: Array, order: int, out: Array) -> None:
    for i in range(len(positions)):
        out[i] = context_hash(tokens, positions[i], order)


def true_context_counts(train: U16, test: U16, positions: I64, order: int) -> I64:
    """(P,) how often the order-1 tokens before each position of `test` occur in `train` before another token (64-bit hashes)."""
    places = np.arange(order - 1, len(train))
    seen, wanted = np.empty(len(places), dtype=np.uint64), np.empty(len(positions), dtype=np.uint64)
    _context_hashes(np.asarray(train), places, order, seen)
    _context_hashes(np.asarray(test), positions, order, wanted)
    seen.sort()
    return np.searchsorted(seen, wanted, side="right") - np.searchsorted(seen, wanted, side="left")


def expected_sum(context_counts: npt.ArrayLike, vocab_size: int, load: float) -> F64:
    """The law for the ratio rule's pure ratios: (n_c + V·L) / (n_c + L), for each true context count n_c."""
    n = np.asarray(context_counts, dtype=np.float64)
    return (n + vocab_size * load) / (n + load)
