"""Scores of the product expert (ngram/blending/product.py) on the network's device, and the fit of its exponents.

Exponents are linear in the gate's standardised features.  Then p(target) is an exponential family in the coefficients, its
nats are convex in them, and Newton's method finds the one minimum.

Shapes: N tokens of a stream, S scored targets, V vocabulary, F features, G = F + 1 coefficients an exponent (the last one constant).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ngram.arrays import F64, I64
from ngram.blending.gate import LEAST
from ngram.online.kernels import LISTS, fill_from_parts
from ngram.online.stream_cache import Block
from ngram.score_first import Tokens
from ngram.threads import each

A_THREAD = 128  # rows that are worth one
FIT_ENTRIES = 1 << 26  # of each expert's rows that the fit keeps: 256 MB
RIDGE = 1.0  # nats that a coefficient √2 away from its start costs, beside the sum over all positions
ITERATIONS = 20


@dataclass(frozen=True)
class Kept:
    """What a fit needs of some positions: both experts' log-probabilities (S, V) and the targets (S,) int64."""

    first_SV: Tensor
    second_SV: Tensor
    targets_S: Tensor


class ProductScorer:
    """The product's probabilities, from the network's rows and the cache's, which are those of the beginning of a block: `open`, before its cache
    counts any of it, then `read` targets that it has counted since, and `score` them.

    by_parts: the block's parts must be filled as its targets are counted.  kept: what was scored, where `keep` is set."""

    by_parts = True

    def __init__(self, *, keep: bool = False) -> None:
        self.keep, self.kept = keep, list[Kept]()

    def open(self, tokens: Tokens, start: int) -> None:
        """A block begins there."""

    def score(self, targets: I64, logp_SV: Tensor, second_SV: Tensor, exponents_S2: F64) -> Tensor:
        """(S,) float64 probabilities of the targets, on the device: from the network's rows and those that `read` gives."""
        targets_S = torch.from_numpy(targets).to(logp_SV.device)
        if self.keep:
            self.kept.append(Kept(logp_SV, second_SV, targets_S))
        return self._mix(logp_SV, second_SV, exponents_S2, targets_S)

    def read_next(self, tokens: Tokens, block: Block, t: int, like: Tensor) -> Tensor:
        """(1, V) the same as `read` of target t of the block, before the cache counts it."""
        if self.by_parts:
            block.cache.score(tokens, t, t + 1, block=block)
        return self.read(tokens, block, t, t + 1, like)

    def rows(self, logp_SV: Tensor, second_SV: Tensor, exponents_S2: F64) -> Tensor:
        """(S, V) float64 whole distributions, on the device; their entries are the bits that `score` gives."""
        return self._mix(logp_SV, second_SV, exponents_S2, None)

    def read(self, tokens: Tokens, block: Block, first: int, last: int, like: Tensor) -> Tensor:
        """(S, V) log-probabilities by the cache of targets first … last-1, of the type and on the device of `like`."""
        return rows_on(block, first, last, like.device).clamp_min_(LEAST).log_().to(like.dtype)

    @torch.inference_mode()
    def _mix(self, logp_SV: Tensor, second_SV: Tensor, exponents_S2: F64, targets_S: Tensor | None) -> Tensor:
        """Probabilities of the targets, or of all tokens."""
        exponents = torch.from_numpy(exponents_S2).to(logp_SV.device)
        if logp_SV.is_cuda:
            from hybrid.scoring.gpu_rows import mix

            return mix(logp_SV, second_SV, exponents, targets_S, float(np.log(LEAST)))
        mixed_SV = _mixed(logp_SV, second_SV, exponents)
        whole_S = torch.logsumexp(mixed_SV, 1)
        if targets_S is None:
            return torch.exp(-(whole_S[:, None] - mixed_SV).double())
        return torch.exp(-(whole_S - mixed_SV.gather(1, targets_S[:, None])[:, 0]).double())


def rows_on(block: Block, first: int, last: int, device: torch.device) -> Tensor:
    """(S, V) float64 distributions by the cache of targets first … last-1 of the block, to the same bits on every device."""
    parts, (at, stop) = block.parts, (first - block.begins[0], last - block.begins[0])
    if device.type == "cuda":
        from hybrid.scoring.gpu_rows import spread

        lists = int(parts.meta[LISTS]) + 1
        entries = int(parts.starts[lists])
        arrays = parts.cells[:entries], parts.values[:entries], parts.lists[:, at:stop], parts.shares[:lists], parts.unigram
        cells_E, values_E, lists_KS, shares_L, unigram_BV = (torch.from_numpy(array).to(device, non_blocking=True) for array in arrays)
        children_LV = torch.zeros(lists, unigram_BV.shape[1], dtype=torch.float64, device=device)
        children_LV.view(-1).scatter_(0, cells_E, values_E)
        return spread(unigram_BV, children_LV, lists_KS, shares_L)
    rows_SV = np.empty((stop - at, block.cache.vocab_size))
    each(lambda i: fill_from_parts(parts, at + i, rows_SV[i : i + A_THREAD]), range(0, len(rows_SV), A_THREAD))
    return torch.from_numpy(rows_SV).to(device)


def fit(x_NF: F64, kept: Sequence[Kept], home_2G: F64) -> F64:
    """(2, G) coefficients of both exponents by maximum likelihood over the kept positions, whose standardised features x_NF are.

    Newton's method from `home_2G`, halving steps that do not help; a ridge holds what the text does not tell near it."""
    x_NG = np.concatenate([x_NF, np.ones((len(x_NF), 1))], axis=1)
    found, (loss, gradient, hessian) = home_2G, _derivatives(home_2G, home_2G, x_NG, kept)
    for _ in range(ITERATIONS):
        step = np.linalg.solve(hessian, gradient.ravel()).reshape(gradient.shape)
        promised = float((step * gradient).sum()) / 2
        if promised < 1e-6 * len(x_NG):
            break
        for _ in range(10):
            there = _derivatives(found - step, home_2G, x_NG, kept)
            if there[0] <= loss:
                break
            step = step / 2
        else:
            break
        found, (loss, gradient, hessian) = found - step, there
    return found


def _mixed(first_SV: Tensor, second_SV: Tensor, exponents_S2: Tensor) -> Tensor:
    """(S, V) log-probabilities up to a constant a row."""
    a_S2 = exponents_S2.to(first_SV.dtype)
    return a_S2[:, :1] * first_SV.clamp_min(float(np.log(LEAST))) + a_S2[:, 1:] * second_SV


@torch.inference_mode()
def _derivatives(theta_2G: F64, home_2G: F64, x_NG: F64, kept: Sequence[Kept]) -> tuple[float, F64, F64]:
    """Nats of all kept positions with the ridge, their gradient (2, G) and Hessian (2G, 2G).

    Of one position: the gradient in the exponents is what the product expects of log p₁ and log p₂ less what came, the
    Hessian their covariance."""
    coefficients = x_NG.shape[1]
    away = theta_2G - home_2G
    loss, gradient, hessian = RIDGE * float((away**2).sum()) / 2, RIDGE * away, RIDGE * np.eye(2 * coefficients)
    begin = 0
    for part in kept:
        x_SG = x_NG[begin : begin + len(part.targets_S)]
        begin += len(x_SG)
        mixed_SV = _mixed(part.first_SV, part.second_SV, torch.from_numpy(x_SG @ theta_2G.T).to(part.first_SV.device))
        q_SV = torch.softmax(mixed_SV, 1)
        at = part.targets_S[:, None]
        apart = [rows - (q_SV * rows).sum(1, keepdim=True) for rows in (part.first_SV, part.second_SV)]
        excess = [-rows.gather(1, at)[:, 0] for rows in apart]
        spread = [(q_SV * apart[i] * apart[j]).sum(1) for i, j in ((0, 0), (0, 1), (1, 1))]
        nats_S = torch.logsumexp(mixed_SV, 1) - mixed_SV.gather(1, at)[:, 0]
        values: F64 = torch.stack([nats_S, *excess, *spread]).double().cpu().numpy()
        loss += float(values[0].sum())
        gradient = gradient + values[1:3] @ x_SG
        blocks = [(x_SG * weight[:, None]).T @ x_SG for weight in values[3:]]
        hessian = hessian + np.block([[blocks[0], blocks[1]], [blocks[1], blocks[2]]])
    return loss, gradient, hessian
