"""Scores of the product expert (ngram/blending/product.py) on the network's device, and the fit of its exponents.

Exponents are linear in the gate's standardised features.  Then p(target) is an exponential family in the coefficients, its
nats are convex in them, and Newton's method finds the one minimum.

Shapes: N tokens of a stream, S scored targets, V vocabulary, F features, G = F + 1 coefficients an exponent (the last one constant).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hybrid.scoring.network import Rows
from ngram import threads
from ngram.arrays import F64
from ngram.blending.gate import FALLBACK_EXPONENTS, LEAST
from ngram.online.rows import RowParts, fill_from_parts
from ngram.online.stream_cache import THREADS, StreamCache
from ngram.score_first import Tokens

LEAST_ROWS = 32  # that are worth a thread
FIT_ENTRIES = 1 << 26  # of each expert's rows that the fit keeps: 256 MB of float32; 32,768 positions instead of 80,000 lost 0.0003 BPB on dev
RIDGE = 1.0  # nats that a coefficient √2 away from its start costs, beside the sum over all positions
ITERATIONS = 20


@dataclass(frozen=True)
class Kept:
    """What a fit needs of some positions: both experts' log-probabilities (S, V) and the targets (S,) int64."""

    first_SV: Tensor
    second_SV: Tensor
    targets_S: Tensor


@dataclass
class Block:
    """What the cache said of targets start … start + size - 1 before it learned any; parts None: rows are read when they are needed.

    On the device: log_SV, log-probabilities; mixed, of what was scored last: first target, exponents, and what `_mix` gave."""

    start: int
    size: int
    parts: RowParts | None = None
    log_SV: Tensor | None = None
    mixed: tuple[int, F64, Tensor, Tensor] | None = None


class ProductScorer:
    """The product's probabilities, from the network's rows and the cache's.

    `read` a block before the cache learns any of its targets; then `score` and `row` for these, whenever and on whatever thread.
    kept: what was scored, where `keep` is set."""

    def __init__(self, cache: StreamCache, *, keep: bool = False) -> None:
        self.cache, self.keep, self.kept = cache, keep, list[Kept]()
        self._pool = ThreadPoolExecutor(THREADS)

    def read(self, tokens: Tokens, start: int, stop: int, device: torch.device) -> Block:
        """The block of targets start … stop-1, from the cache as it is now, for a network on `device`."""

        def memory(size: int) -> F64:  # that the device can read by itself
            return torch.empty(size, dtype=torch.float64, pin_memory=device.type == "cuda").numpy()

        return Block(start, stop - start, self.cache.row_parts(tokens, start, stop, None, memory, self._pool))

    def score(self, tokens: Tokens, block: Block, mine: Sequence[Rows], exponents_S2: F64) -> Tensor:
        """(S,) float64 probabilities, on the device, of the targets whose network rows are in `mine`, all of them in the block."""
        logp_SV = _joined([rows for _, rows in mine])
        targets_S = np.concatenate([tokens[t : t + len(rows)] for t, rows in mine]).astype(np.int64)
        targets = _sent(targets_S, logp_SV.device)
        second_SV = _joined([self._log_rows(tokens, block, t, t + len(rows), logp_SV) for t, rows in mine])
        if self.keep:
            self.kept.append(Kept(logp_SV, second_SV, targets))
        mixed_SV, whole_S = self._mix(block, logp_SV, second_SV, exponents_S2)
        block.mixed = (mine[0][0], exponents_S2, mixed_SV, whole_S) if len(mine) == 1 else None
        return torch.exp(-(whole_S - mixed_SV.gather(1, targets[:, None])[:, 0]).double())

    def row(self, tokens: Tokens, block: Block, t: int, logp_1V: Tensor, exponents_12: F64, *, scored: bool = False) -> Tensor:
        """(V,) float64, on the device: the whole distribution of target t of the block, whose entries are the bits that `score` gives.

        scored: as it was made for `score`, if by these exponents."""
        found = block.mixed if scored else None
        at = t - found[0] if found is not None else 0
        if found is not None and 0 <= at < len(found[1]) and np.array_equal(found[1][at], exponents_12[0]):
            mixed_1V, whole_1 = (part[at : at + 1] for part in found[2:])
        else:
            mixed_1V, whole_1 = self._mix(block, logp_1V, self._log_rows(tokens, block, t, t + 1, logp_1V), exponents_12)
        return torch.exp(-(whole_1[:, None] - mixed_1V).double())[0]

    def _log_rows(self, tokens: Tokens, block: Block, first: int, last: int, like: Tensor) -> Tensor:
        """(S, V) log-probabilities by the cache of targets first … last-1."""
        if block.log_SV is None:
            assert block.parts is not None
            block.log_SV = rows_on(block.parts, block.size, like.device).clamp_min_(LEAST).log_().to(like.dtype)
        return block.log_SV[first - block.start : last - block.start]

    @torch.inference_mode()
    def _mix(self, block: Block, logp_SV: Tensor, second_SV: Tensor, exponents_S2: F64) -> tuple[Tensor, Tensor]:
        """(S, V) unnormalised log-probabilities and (S,) logarithms of their sums.

        On CUDA the order of a sum depends on the number of rows beside it: there are always as many as the block has targets."""
        spare, exponents = 0, _sent(exponents_S2, logp_SV.device)
        if logp_SV.is_cuda and len(logp_SV) < block.size:
            spare = block.size - len(logp_SV)
            logp_SV, second_SV = (torch.nn.functional.pad(rows, (0, 0, 0, spare)) for rows in (logp_SV, second_SV))
            exponents = torch.nn.functional.pad(exponents, (0, 0, 0, spare))
        mixed_SV = _mixed(logp_SV, second_SV, exponents)
        kept, top_S1 = len(mixed_SV) - spare, mixed_SV.amax(1, keepdim=True)
        return mixed_SV[:kept], ((mixed_SV - top_S1).exp_().sum(1).log_() + top_S1[:, 0])[:kept]

    def close(self) -> None:
        """Ends the helper threads."""
        self._pool.shutdown()


def _sent(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device; nobody waits for its way there."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def rows_on(parts: RowParts, size: int, device: torch.device) -> Tensor:
    """(size, V) float64 rows on a device, to the same bits everywhere."""
    if device.type == "cpu":
        rows_SV = np.empty((size, len(parts.unigram)))
        step = max(LEAST_ROWS, -(-size // threads.COUNT))
        threads.each(lambda a: fill_from_parts(parts, a, min(a + step, size), rows_SV[a : a + step]), range(0, size, step))
        return torch.from_numpy(rows_SV)
    return scattered(parts, size, device)


def scattered(parts: RowParts, size: int, device: torch.device) -> Tensor:
    """The same by few operations on whole arrays: each costs the host more than the device."""
    vocab_size, lengths = len(parts.unigram), np.diff(parts.starts)[parts.lists] - 1  # of pairs of context length and target; X: their entries
    edges = np.concatenate([[0], lengths.sum(1).cumsum()]).tolist()
    before = lengths.cumsum().reshape(lengths.shape) - lengths
    pairs = np.stack([lengths, parts.starts[parts.lists] - before, np.broadcast_to(np.arange(size) * vocab_size, lengths.shape)])
    lengths_P, offsets_P, places_P = _sent(pairs.reshape(3, -1), device)
    arrays = parts.tokens, parts.values, parts.unigram, parts.shares[:, :, None]
    tokens_E, values_E, unigram_V, shares_KS1 = (torch.from_numpy(array).to(device, non_blocking=True) for array in arrays)
    pair_X = torch.repeat_interleave(lengths_P, output_size=edges[-1])
    from_X = torch.arange(edges[-1], device=device).add_(offsets_P[pair_X])
    to_X, values_X = places_P[pair_X].add_(tokens_E[from_X]), values_E[from_X]
    rows_SV = unigram_V * shares_KS1[0] if len(shares_KS1) else unigram_V.repeat(size, 1)
    for k in range(len(shares_KS1)):
        if k:
            rows_SV *= shares_KS1[k]
        if edges[k] < edges[k + 1]:
            rows_SV.view(-1).index_add_(0, to_X[edges[k] : edges[k + 1]], values_X[edges[k] : edges[k + 1]])  # no place twice: no order matters
    return rows_SV


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
