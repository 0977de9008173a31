"""Scores of the product expert (ngram/product.py) on the network's device, and the fit of its exponents.

Exponents are linear in the gate's standardised features.  Then p(target) is an exponential family in the coefficients, its
nats are convex in them, and Newton's method finds the one minimum.

Shapes: N tokens of a stream, S scored targets, V vocabulary, F features, G = F + 1 coefficients an exponent (the last one constant).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hybrid.host import Threads, host_buffer
from ngram.gate import F64, FALLBACK_EXPONENTS
from ngram.online import OnlineCache
from ngram.product import LEAST
from ngram.score_first import Tokens

READ_TOKENS = 1024  # targets whose rows are read before the cache learns them; on dev 64 would be worth 0.0004 BPB, and too slow
MOST_READ_TOKENS = 1 << 16  # room for their rows is kept
MOST_THREADS = 8  # that read rows
FIT_ENTRIES = 1 << 26  # of each expert's rows that the fit keeps: 256 MB of float32; 32,768 positions instead of 80,000 lost 0.0003 BPB on dev
RIDGE = 1.0  # nats that a coefficient √2 away from its start costs, beside the sum over all positions
ITERATIONS = 20


@dataclass(frozen=True)
class Kept:
    """What a fit needs of some positions: both experts' log-probabilities (S, V) and the targets (S,) int64."""

    first_SV: Tensor
    second_SV: Tensor
    targets_S: Tensor


class ProductScorer:
    """Probabilities of targets from the network's rows and those of `cache`.

    Call `read` for some targets, once or several times, then `score` for all that were read since; at most `room` of them.
    kept: what was scored, where `keep` is set."""

    def __init__(self, cache: OnlineCache, room: int, *, keep: bool = False) -> None:
        self.cache, self.room, self.keep, self.kept = cache, room, keep, list[Kept]()
        self._threads = Threads(max(1, min(MOST_THREADS, os.cpu_count() or 1)))
        self._host = torch.empty(0, 0, dtype=torch.float64)
        self._read, self._second = 0, list[Tensor]()

    def read(self, tokens: Tokens, start: int, stop: int, device: torch.device) -> None:
        """Distributions of targets start … stop-1 by the cache as it is now; their way to the device goes on beside other work."""
        if not len(self._host):
            self._host = host_buffer((self.room, self.cache.vocab_size), device)
        here = self._host[self._read : self._read + stop - start]  # a place of its own: what was read before may still be on its way
        rows = here.numpy()
        self._threads.over(stop - start, lambda a, b: self.cache.fill_range(tokens, start + a, start + b, rows[a:b]))
        self._read += stop - start
        self._second.append(here.to(device, non_blocking=True))

    def score(self, logp_SV: Tensor, exponents_S2: F64, targets_S: Tokens) -> F64:
        """(S,) float64.  logp_SV: the network's log-probabilities of the targets that were read, on the same device."""
        device = logp_SV.device
        second_SV = torch.cat(self._second).clamp_min(LEAST).log().to(logp_SV.dtype)
        targets = torch.from_numpy(targets_S.astype(np.int64)).to(device)
        if self.keep:
            self.kept.append(Kept(logp_SV, second_SV, targets))
        found = torch.exp(-nats(logp_SV, second_SV, torch.from_numpy(exponents_S2).to(device), targets)).cpu().numpy()
        self._read, self._second = 0, []
        return found

    def close(self) -> None:
        """Ends the helper threads."""
        self._threads.close()


@torch.inference_mode()
def nats(first_SV: Tensor, second_SV: Tensor, exponents_S2: Tensor, targets_S: Tensor) -> Tensor:
    """(S,) float64 nats of the targets under the product; both experts' log-probabilities of one type."""
    mixed_SV = _mixed(first_SV, second_SV, exponents_S2)
    return (torch.logsumexp(mixed_SV, 1) - mixed_SV.gather(1, targets_S[:, None])[:, 0]).double()


def fit(x_NF: F64, kept: Sequence[Kept]) -> F64:
    """(2, G) coefficients of both exponents by maximum likelihood over the kept positions, whose standardised features x_NF are.

    Newton's method, halving steps that do not help; a ridge holds what the text does not tell near FALLBACK_EXPONENTS."""
    x_NG = np.concatenate([x_NF, np.ones((len(x_NF), 1))], axis=1)
    home = np.zeros((2, x_NG.shape[1]))
    home[:, -1] = FALLBACK_EXPONENTS
    found, (loss, gradient, hessian) = home, _derivatives(home, home, x_NG, kept)
    for _ in range(ITERATIONS):
        step = np.linalg.solve(hessian, gradient.ravel()).reshape(gradient.shape)
        promised = float((step * gradient).sum()) / 2
        if promised < 1e-6 * len(x_NG):
            break
        for _ in range(10):
            there = _derivatives(found - step, home, x_NG, kept)
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
        means = [(q_SV * rows).sum(1) for rows in (part.first_SV, part.second_SV)]
        apart = [rows - mean[:, None] for rows, mean in zip((part.first_SV, part.second_SV), means, strict=True)]
        excess = [(-rows.gather(1, at)[:, 0]) for rows in apart]
        spread = [(q_SV * apart[i] * apart[j]).sum(1) for i, j in ((0, 0), (0, 1), (1, 1))]
        nats_S = torch.logsumexp(mixed_SV, 1) - mixed_SV.gather(1, at)[:, 0]
        values: F64 = torch.stack([nats_S, *excess, *spread]).double().cpu().numpy()
        loss += float(values[0].sum())
        gradient = gradient + values[1:3] @ x_SG
        blocks = [(x_SG * weight[:, None]).T @ x_SG for weight in values[3:]]
        hessian = hessian + np.block([[blocks[0], blocks[1]], [blocks[1], blocks[2]]])
    return loss, gradient, hessian
