"""Scores of the product expert (ngram/blending/product.py) on the network's device, and the fit of its exponents.

Exponents are linear in the gate's standardised features.  Then p(target) is an exponential family in the coefficients, its
nats are convex in them, and Newton's method finds the one minimum.

Shapes: N tokens of a stream, S scored targets, V vocabulary, F features, G = F + 1 coefficients an exponent (the last one constant).
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hybrid.scoring.network import Rows
from ngram.arrays import F64
from ngram.blending.gate import FALLBACK_EXPONENTS, LEAST
from ngram.online.stream_cache import StreamCache
from ngram.score_first import Tokens

MOST_READERS = min(8, os.cpu_count() or 1)  # threads that read rows
LEAST_READ = 32  # rows that are worth a thread
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
    """The product's probabilities, from the network's rows and the cache's.

    The cache's rows are read block by block: `open` at the beginning of a block, before the cache learns any of its targets, then
    `score` and `second` for targets of this block.  room: most targets of a block.  kept: what was scored, where `keep` is set."""

    def __init__(self, cache: StreamCache, room: int, *, keep: bool = False) -> None:
        self.cache, self.room, self.keep, self.kept = cache, room, keep, list[Kept]()
        self._readers = ThreadPoolExecutor(MOST_READERS)
        self._host = torch.empty(0, 0, dtype=torch.float64)
        self._block, self._where = 0, np.zeros(0, np.int64)  # targets of the block; those whose rows were read, ascending
        self._second = torch.empty(0, 0)
        self._is_log = False

    def open(self, tokens: Tokens, start: int, stop: int, mine: Sequence[Rows]) -> None:
        """Reads the cache's rows, as it is now, of those targets of the block start … stop-1 whose network rows are in `mine`.

        Their way to the device goes on beside other work."""
        self._block, self._is_log = stop - start, False
        self._where = np.concatenate([np.zeros(0, np.int64), *(np.arange(t, t + len(rows)) for t, rows in mine)])
        if not len(self._where):
            return
        device = mine[0][1].device
        if not len(self._host):
            self._host = torch.empty(self.room, self.cache.vocab_size, dtype=torch.float64, pin_memory=device.type == "cuda")
        read, rows_SV, reading = 0, self._host.numpy(), []
        size = max(LEAST_READ, -(-len(self._where) // MOST_READERS))
        for first, rows in mine:
            for t in range(first, first + len(rows), size):
                end = min(t + size, first + len(rows))
                reading.append(self._readers.submit(self.cache.fill_range, tokens, t, end, rows_SV[read : read + end - t]))
                read += end - t
        for done in reading:
            done.result()
        self._second = self._host[:read].to(device, non_blocking=True)

    def score(self, tokens: Tokens, mine: Sequence[Rows], exponents_S2: F64) -> F64:
        """(S,) float64 probabilities of the targets whose network rows are in `mine`, all of them in the open block."""
        logp_SV = torch.cat([rows for _, rows in mine])
        first, last = mine[0][0], mine[-1][0] + len(mine[-1][1])
        targets_S = np.concatenate([tokens[t : t + len(rows)] for t, rows in mine]).astype(np.int64)
        targets = torch.from_numpy(targets_S).to(logp_SV.device)
        second_SV = self._log_rows(tokens, first, last, logp_SV)
        if self.keep:
            self.kept.append(Kept(logp_SV, second_SV, targets))
        mixed_SV, whole_S = self._mix(logp_SV, second_SV, exponents_S2, self._block)
        return torch.exp(-(whole_S - mixed_SV.gather(1, targets[:, None])[:, 0]).double()).cpu().numpy()

    def second(self, tokens: Tokens, t: int, like: Tensor) -> Tensor:
        """(1, V) the cache's log-probabilities of target t of the open block, a copy."""
        return self._log_rows(tokens, t, t + 1, like).clone()

    def rows(self, logp_SV: Tensor, second_SV: Tensor, exponents_S2: F64, block: int) -> Tensor:
        """(S, V) float64: whole distributions of targets of blocks of so many; their entries are the bits that `score` gives."""
        mixed_SV, whole_S = self._mix(logp_SV, second_SV, exponents_S2, block)
        return torch.exp(-(whole_S[:, None] - mixed_SV).double())

    def _log_rows(self, tokens: Tokens, first: int, last: int, like: Tensor) -> Tensor:
        """(S, V) log-probabilities by the cache of those of the targets first … last-1 that were read."""
        if not self._is_log:
            self._second, self._is_log = self._second.clamp_min(LEAST).log().to(like.dtype), True
        begin, end = np.searchsorted(self._where, [first, last])
        return self._second[begin:end]

    @torch.inference_mode()
    def _mix(self, logp_SV: Tensor, second_SV: Tensor, exponents_S2: F64, block: int) -> tuple[Tensor, Tensor]:
        """(S, V) unnormalised log-probabilities and (S,) logarithms of their sums.

        On CUDA the order of a sum depends on the number of rows beside it: there are always as many as the block has targets."""
        spare, exponents = 0, torch.from_numpy(exponents_S2)
        if logp_SV.is_cuda and len(logp_SV) < block:
            spare = block - len(logp_SV)
            logp_SV, second_SV = (torch.nn.functional.pad(rows, (0, 0, 0, spare)) for rows in (logp_SV, second_SV))
            exponents = torch.nn.functional.pad(exponents, (0, 0, 0, spare))
        mixed_SV = _mixed(logp_SV, second_SV, exponents.to(logp_SV.device))
        kept = len(mixed_SV) - spare
        return mixed_SV[:kept], torch.logsumexp(mixed_SV, 1)[:kept]

    def close(self) -> None:
        """Ends the helper threads."""
        self._readers.shutdown()


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
