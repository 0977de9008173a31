"""Watched targets: each is held against its whole distribution, made from what was known of it before it was looked at.

Shapes: W watched targets of a stretch, T of several, K experts (mixture.EXPERTS), V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hybrid.scoring.mixture import EXPERTS, MATCH, NEURAL, NGRAM, PRODUCT, Mixture
from hybrid.scoring.product import ProductScorer
from hybrid.scoring.scores import check_rows
from ngram.arrays import F32, F64, I64
from ngram.online.match import rows_of
from ngram.online.stream_cache import Block

TOGETHER = 64  # targets whose distributions are made at once, with one transfer from the device


@dataclass
class Noted:
    """What was known of targets `where` (W,) before they were looked at.

    there: log-probabilities (W, V) of the network and, for the product, of the cache at the beginning of the block; copies.  cache: what it said,
    at `places` (W,).  match: what that model said (W, 2), where there is one.  weights (W, K): once they are mixed.  tokens and their reported
    probabilities (W,): once they are scored."""

    where: I64
    places: I64
    features_WF: F32
    there: list[Tensor]
    cache: Block
    match: list[F64]

    def __post_init__(self) -> None:
        size = len(self.where)
        self.weights_WK, self.tokens_W, self.reported_W = np.empty((size, len(EXPERTS))), np.empty(size, np.int64), np.empty(size)


class Watching:
    """Holds noted targets against their distributions, many at a time.  checked: how many were."""

    def __init__(self, product: ProductScorer | None) -> None:
        self.product, self.checked, self._noted = product, 0, list[Noted]()

    def rows(self, mixture: Mixture, noted: Sequence[Noted]) -> Tensor:
        """(T, V) float64 whole distributions, on the network's device."""
        logp_TV, *second = (torch.cat(rows) for rows in zip(*(one.there for one in noted), strict=True))
        rows_KTV = logp_TV.new_zeros((len(EXPERTS), *logp_TV.shape), dtype=torch.float64)
        rows_KTV[NEURAL] = logp_TV.double().exp()
        if self.product is not None:
            exponents_T2 = mixture.gate.exponents(np.concatenate([one.features_WF for one in noted]))
            rows_KTV[PRODUCT] = self.product.rows(logp_TV, second[0], exponents_T2)
        rows_KTV[NGRAM].copy_(torch.from_numpy(np.concatenate([one.cache.rows()[one.places] for one in noted])))
        for said in zip(*(one.match for one in noted), strict=True):
            rows_KTV[MATCH].copy_(torch.from_numpy(rows_of(np.concatenate(said), logp_TV.shape[1])))
        return mixture.mixed_rows(np.concatenate([one.weights_WK for one in noted]), rows_KTV)

    def hold(self, mixture: Mixture, noted: Noted) -> None:
        """Now or later: see `settle`."""
        self._noted.append(noted)
        if sum(len(one.where) for one in self._noted) >= TOGETHER:
            self.settle(mixture)

    def settle(self, mixture: Mixture) -> None:
        """Raises CheckError where a target that was held is not what its distribution says."""
        noted, self._noted = [one for one in self._noted if len(one.where)], []
        if noted:
            columns = ([getattr(one, name) for one in noted] for name in ("tokens_W", "reported_W", "where"))
            check_rows(self.rows(mixture, noted), *map(np.concatenate, columns))
            self.checked += sum(len(one.where) for one in noted)
