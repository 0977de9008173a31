"""Blend: network, n-gram cache, their product, match model and gate as one part of ScoreFirst.

The network's scores come block by block (windows.py, adapt.py); cache, match model and gate learn from what has been scored.
The gate learns once a chunk; the others by whole chunks too, or after every token (`cache_by_chunk=False`), which is the same
as one-token chunks and goes through ScoreFirst.score_then_update.  For the product the cache's whole distributions are read
every `read_tokens` targets, before the cache learns any of them.

Shapes: n targets of a chunk, N tokens of the stream, K experts (EXPERTS), V vocabulary.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hybrid.distributed import Ranks, peers
from hybrid.product_scores import READ_TOKENS, Kept, ProductScorer
from ngram import match, online
from ngram.errors import SeedgramError
from ngram.gate import F32, F64, Gate, mix
from ngram.match import MatchModel
from ngram.online import ChunkScores, OnlineCache
from ngram.score_first import ScoreFirst, Tokens

NEURAL_FEATURES = ("neural_entropy", "neural_max_logp")
EXPERTS = ("neural", "product", "ngram", "match")
NEURAL, PRODUCT, NGRAM, MATCH = range(len(EXPERTS))
Rows = tuple[int, Tensor]  # first target, (S, V) log-probabilities
GATE_FEATURES: tuple[str, ...] = (*NEURAL_FEATURES, *online.FEATURES, *match.FEATURES)


@dataclass(frozen=True)
class NeuralScores:
    """The network's view of a run of targets; entry i belongs to target first + i.

    nll_nats (n,) float64; entropy (n,) float32, nats; max_logp (n,) float32, nats, the likeliest token's.
    rows (S, V): whole log-probabilities, on the network's device, of the targets rows_first … that this rank has computed."""

    nll_nats: F64
    entropy: F32
    max_logp: F32
    first: int = 1
    rows: Tensor | None = None
    rows_first: int = 1

    @property
    def stop(self) -> int:
        """The target behind the last."""
        return self.first + len(self.nll_nats)

    def part(self, start: int, stop: int) -> "NeuralScores":
        """Targets start … stop-1 of it, views."""
        inside = slice(start - self.first, stop - self.first)
        rows, at = self.rows, max(start, self.rows_first)
        if rows is not None:
            rows = rows[at - self.rows_first : max(0, stop - self.rows_first)]
        return NeuralScores(self.nll_nats[inside], self.entropy[inside], self.max_logp[inside], start, rows, at)

    def features(self) -> F32:
        """(n, 2) float32, the NEURAL_FEATURES."""
        return np.stack([self.entropy, self.max_logp], axis=1)


def joined(blocks: Iterable[NeuralScores]) -> NeuralScores:
    """Consecutive blocks as one, without rows."""
    all_of = list(blocks)
    nats, entropy, max_logp = (np.concatenate([getattr(block, name) for block in all_of]) for name in ("nll_nats", "entropy", "max_logp"))
    return NeuralScores(nats, entropy, max_logp, all_of[0].first)


class NeuralStream:
    """The network's scores of a whole stream, computed as they are asked for, in order.  seconds: of work."""

    def __init__(self, blocks: Iterable[NeuralScores]) -> None:
        self._blocks, self._held, self._nats, self.seconds = iter(blocks), list[NeuralScores](), list[F64](), 0.0

    def take(self, start: int, stop: int) -> Sequence[NeuralScores]:
        """Targets start … stop-1 in consecutive pieces; what lies before `start` is let go."""
        while not self._held or self._held[-1].stop < stop:
            self._pull()
        self._held = [block for block in self._held if block.stop > start]
        return [block.part(max(start, block.first), min(stop, block.stop)) for block in self._held if block.first < stop]

    def begin(self) -> None:
        """Computes the first block now."""
        if not self._held:
            self._pull()

    def nll_nats(self) -> F64:
        """(N-1,) float64 nats of every target of the stream; computes what is left."""
        with suppress(StopIteration):
            while True:
                self._held = []
                self._pull()
        return np.concatenate(self._nats)

    def _pull(self) -> None:
        began = time.perf_counter()
        block = next(self._blocks)
        self.seconds += time.perf_counter() - began
        self._held.append(block)
        self._nats.append(block.nll_nats)


@dataclass(frozen=True)
class BlendScores:
    """Probabilities of n targets by each expert (n, K) and mixed (n,); weights (n, K), the experts' shares; float64."""

    probs: F64
    mixed: F64
    weights: F64


class Blend:
    """A Part: p = Σ w_k p_k over EXPERTS, with w from the gate.

    match None, product False: those have no say, the others share their weight.  ranks: that have the network's rows among
    them.  collect: keep every chunk's features and expert probabilities; keep_rows: and what a fit of the product needs."""

    def __init__(
        self,
        neural: NeuralStream,
        cache: OnlineCache,
        match: MatchModel | None,
        gate: Gate,
        *,
        product: bool = True,
        read_tokens: int = READ_TOKENS,
        ranks: Ranks | None = None,
        collect: bool = False,
        keep_rows: bool = False,
    ) -> None:
        self.neural, self.cache, self.match, self.gate, self.collect, self.ranks = neural, cache, match, gate, collect, ranks
        self.product = ProductScorer(cache, read_tokens, keep=keep_rows) if product else None
        self.read_tokens = read_tokens
        self._beside = ThreadPoolExecutor(1)  # where the match model works while the cache does
        self.collected: list[tuple[F32, F64]] = []
        self.seconds = {"cache": 0.0, "gate": 0.0, "product": 0.0}  # of work
        self._absent = [k for k, part in ((PRODUCT, self.product), (MATCH, match)) if part is None]
        self._scored: tuple[F32, F64] | None = None  # of the pending chunk; no score depends on it, so no digest sees it

    def score(self, tokens: Tokens, start: int, stop: int) -> BlendScores:
        return self._score(tokens, start, stop, learn=False)

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        with self._timed("cache"):
            self.cache.update(tokens, start, stop)
            if self.match is not None:
                self.match.update(tokens, start, stop)
        self._teach_gate()

    def score_then_update(self, tokens: Tokens, start: int, stop: int) -> BlendScores:
        """One-token chunks for cache and match model, one chunk start … stop-1 for the gate."""
        scores = self._score(tokens, start, stop, learn=True)
        self._teach_gate()
        return scores

    def close(self) -> None:
        """Ends the helper threads."""
        self._beside.shutdown()
        if self.product is not None:
            self.product.close()

    @property
    def kept(self) -> list[Kept]:
        """What a fit of the product needs of everything scored."""
        return self.product.kept if self.product is not None else []

    def digest(self) -> str:
        return self.cache.digest() + (self.match.digest() if self.match is not None else "") + self.gate.digest()

    def _score(self, tokens: Tokens, start: int, stop: int, *, learn: bool) -> BlendScores:
        copying = self._beside.submit(self.match.score_then_update if learn else self.match.score, tokens, start, stop) if self.match is not None else None
        pieces = self.neural.take(start, stop)
        probs_NK = np.empty((stop - start, len(EXPERTS)))
        probs_NK[:, NEURAL] = np.exp(-np.concatenate([piece.nll_nats for piece in pieces]))
        features_NF = np.zeros((stop - start, len(GATE_FEATURES)), np.float32)
        neural_F, ngram_F, match_F = np.split(features_NF, np.cumsum([len(NEURAL_FEATURES), len(online.FEATURES)]), axis=1)  # views
        neural_F[:] = np.concatenate([piece.features() for piece in pieces])
        step = self.read_tokens if self.product is not None else stop - start
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            here = slice(begin - start, end - start)
            mine = _rows_of(pieces, begin, end)
            ngram = self._count(tokens, begin, end, mine, learn)
            ngram_F[here], probs_NK[here, NGRAM] = ngram.features, ngram.prob
            if copying is not None and begin == start:
                match_F[:], probs_NK[:, MATCH] = copying.result().features, copying.result().prob
            if self.product is not None:
                probs_NK[here, PRODUCT] = self._multiply(tokens, begin, mine, features_NF[here])
        return self._combine(features_NF, probs_NK)

    def _count(self, tokens: Tokens, start: int, stop: int, mine: Sequence[Rows], learn: bool) -> ChunkScores:
        """The cache's scores of start … stop-1.  First, before it learns any of them, its rows for the product."""
        if self.product is not None:
            with self._timed("product"):
                for first, rows_SV in mine:
                    self.product.read(tokens, first, first + len(rows_SV), rows_SV.device)
        with self._timed("cache"):
            return (self.cache.score_then_update if learn else self.cache.score)(tokens, start, stop)

    def _multiply(self, tokens: Tokens, start: int, mine: Sequence[Rows], features_NF: F32) -> F64:
        """(n,) the product's probabilities of the targets from `start` on: zero where another rank has the network's rows."""
        out = np.zeros(len(features_NF))
        if mine and self.product is not None:
            with self._timed("product"):
                where = np.concatenate([np.arange(first, first + len(rows_SV)) for first, rows_SV in mine])
                exponents = self.gate.exponents(features_NF[where - start])
                out[where - start] = self.product.score(torch.cat([rows_SV for _, rows_SV in mine]), exponents, tokens[where])
        return out

    def _combine(self, features_NF: F32, probs_NK: F64) -> BlendScores:
        if self.product is not None and self.ranks is not None and self.ranks.world > 1:
            product_N = torch.from_numpy(np.ascontiguousarray(probs_NK[:, PRODUCT]))
            with peers():
                dist.all_reduce(product_N, group=self.ranks.patient_group)  # zero elsewhere: the sum is an exact gather
            probs_NK[:, PRODUCT] = product_N.numpy()
        if self.product is not None and not (probs_NK[:, PRODUCT] > 0).all():
            raise SeedgramError("the network's rows are missing or hold no numbers; lower --ttt-rate if it learns, or give --no-product")
        with self._timed("gate"):
            weights_NK = share_out(self.gate.weights(features_NF), self._absent)
        if self._absent:
            there = [k for k in range(len(EXPERTS)) if k not in self._absent]
            probs_NK[:, self._absent] = mix(weights_NK[:, there], probs_NK[:, there])[:, None]  # as the others say: the gate learns nothing from it
        self._scored = features_NF, probs_NK
        if self.collect:
            self.collected.append(self._scored)
        return BlendScores(probs_NK, mix(weights_NK, probs_NK), weights_NK)

    def _teach_gate(self) -> None:
        assert self._scored is not None
        with self._timed("gate"):
            self.gate.update(*self._scored)
        self._scored = None

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - began


def _rows_of(pieces: Sequence[NeuralScores], begin: int, end: int) -> list[Rows]:
    """This rank's rows of targets begin … end-1."""
    inside = [piece.part(max(begin, piece.first), min(end, piece.stop)) for piece in pieces if piece.first < end and piece.stop > begin]
    return [(piece.rows_first, piece.rows) for piece in inside if piece.rows is not None and len(piece.rows)]


def share_out(weights_NK: F64, absent: Sequence[int]) -> F64:
    """The weights without those of absent experts, to the sum 1 again."""
    if not absent:
        return weights_NK
    kept = weights_NK.copy()
    kept[:, absent] = 0.0
    return kept / kept.sum(axis=1, keepdims=True)


def run(order: ScoreFirst, part: str, chunk_tokens: int, *, cache_by_chunk: bool) -> BlendScores:
    """Scores the whole stream of `order`: entry i is target i + 1."""
    size = len(order.tokens) - 1
    out = BlendScores(np.empty((size, len(EXPERTS))), np.empty(size), np.empty((size, len(EXPERTS))))
    for start, stop in order.chunks(chunk_tokens):
        if cache_by_chunk or order.frozen:
            result = order.score(start, stop)[part]
            if not order.frozen and stop < len(order.tokens):
                order.update(start, stop)
        else:
            result = order.score_then_update(start, stop)[part]
        for whole, piece in ((out.probs, result.probs), (out.mixed, result.mixed), (out.weights, result.weights)):
            whole[start - 1 : stop - 1] = piece
    return out
