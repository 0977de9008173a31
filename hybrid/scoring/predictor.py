"""Predictor: the one definition of what this project predicts, used by eval.py, the audit, the certificate and the coder.

For every target: network, n-gram cache, their product and match model, mixed by the gate; then all of them learn.  A target's bits are a
function of its position in the stream and of the tokens before it, and not of how calls cut the stream:

    cache, match model   learn after every token; with `by_chunk`, at the end of a chunk
    product              reads the cache's rows at the beginning of a block of `read_tokens` targets, counted from the chunk's beginning
    gate                 learns at the end of a chunk of `chunk_tokens` targets
    network              as its source says: frozen, or learning from its own chunks (test_time_training.py)

So a caller may stop anywhere and ask for the whole distribution of the position that comes next (`row`), in the state in which it is
scored.  A reader who does not know the text, decoder or audit, gets the same bits from the tokens before it (network.ahead False).

Shapes: n targets, N tokens of the stream, K experts (mixture.EXPERTS), F features, V vocabulary.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hybrid.parallel.ranks import Ranks, peers
from hybrid.scoring.mixture import EXPERTS, MATCH, NEURAL, NGRAM, PRODUCT, Mixture, features_of
from hybrid.scoring.network import Network, NeuralScores, rows_of
from hybrid.scoring.options import READ_TOKENS
from hybrid.scoring.product import Kept, ProductScorer
from hybrid.scoring.scores import BlendScores, check_row, joined
from ngram.arrays import F32, F64
from ngram.errors import SeedgramError
from ngram.online import stream_cache as online
from ngram.online.match import MatchModel
from ngram.online.stream_cache import ChunkScores, StreamCache
from ngram.score_first import Tokens

TOGETHER = 64  # watched targets whose rows are made at once, with one transfer from the device
Asked = tuple[F64, F32]  # distribution (V,) and features (1, F) of a target, by an expert that has not seen it


@dataclass
class Noted:
    """What was known of target t before it was looked at, and from which its whole distribution is made; all of it copies.

    weights (K,): of the experts.  asked: cache and match model, where it is there.  logp, second (1, V), where the network is: the network's
    and the cache's logarithms that the product, in a block of so many targets, raises to its exponents (1, 2).
    token, reported: the target and the probability that was reported of it, once it was scored."""

    t: int
    weights_K: F64
    asked: Sequence[Asked]
    logp_1V: Tensor
    second_1V: Tensor
    exponents_12: F64
    block: int
    token: int = 0
    reported: float = 0.0


class Predictor:
    """A Part of ScoreFirst.

    match None, product False: these experts have no say.  by_chunk: see the module.  online False: nothing learns.
    product: the scorer of that expert where it is not to be made here.
    watch: positions whose whole distribution is made from what was known before they were scored.  Many at a time, and the last ones at the end
    of the stream, they are held against what was reported: CheckError where they do not say that.
    collect: keep every piece's features and expert probabilities; keep_rows: and what a fit of the product needs."""

    def __init__(
        self,
        network: Network,
        cache: StreamCache,
        match: MatchModel | None,
        mixture: Mixture,
        *,
        read_tokens: int = READ_TOKENS,
        by_chunk: bool = False,
        product: ProductScorer | None = None,
        ranks: Ranks | None = None,
        watch: Sequence[int] = (),
        collect: bool = False,
        keep_rows: bool = False,
    ) -> None:
        self.network, self.cache, self.match, self.mixture, self.ranks = network, cache, match, mixture, ranks
        self.read_tokens, self.by_chunk, self.collect = read_tokens, by_chunk, collect
        self.product: ProductScorer | None = None
        if PRODUCT in mixture.present:
            self.product = product or ProductScorer(cache, read_tokens, keep=keep_rows)
        self._beside = ThreadPoolExecutor(1)  # where the match model works while the cache does
        self._block = 0, 0  # the open block of the product
        self._watch = np.unique(np.asarray(watch, np.int64))
        self._noted = list[Noted]()  # of watched targets that were scored
        self._scored = list[tuple[F32, F64]]()  # of the pending chunk; no score depends on it, so no digest sees it
        self.checked = 0  # positions whose row was compared
        self.collected: list[tuple[F32, F64]] = []
        self.seconds, self._adding = dict.fromkeys(("cache", "match", "gate", "product", "check"), 0.0), Lock()  # of work

    # ---- the steps of ScoreFirst ---------------------------------------------------------------------------------

    def score(self, tokens: Tokens, start: int, stop: int) -> BlendScores:
        """A whole chunk (or, where nothing learns, any range); nothing is learned."""
        self._scored = []
        return joined([self._score(tokens, a, b, learn=False) for a, b in self._pieces(len(tokens), start, stop)])

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        """Learns the chunk that was scored last."""
        self._learn_chunk(tokens, start, stop)
        self._teach_gate()

    def score_then_update(self, tokens: Tokens, start: int, stop: int) -> BlendScores:
        """Any range; what learns after every token has learned all of it, what learns by chunks all chunks that end in it."""
        pieces = []
        for a, b in self._pieces(len(tokens), start, stop):
            pieces.append(self._score(tokens, a, b, learn=not self.by_chunk))
            self._teach_gate()
            first, end = self._chunk(len(tokens), a)
            if self.by_chunk and b == end and end < len(tokens):
                self._learn_chunk(tokens, first, end)
        return joined(pieces)

    def row(self, tokens: Tokens, t: int) -> F64 | None:
        """(V,) float64: what position t is drawn from, as `score_then_update` scores it next; tokens from t on are not looked at.

        None where another rank has the network's row."""
        neural = self.network.look(tokens, t)
        if neural.rows is None or not len(neural.rows):
            return None
        if self.product is not None:
            self._open(tokens, t)
        asked = [self._ask(expert, tokens, t) for expert in (self.cache, self.match) if expert is not None]
        return next(self._rows([self._note(tokens, t, neural, asked)]))

    def close(self) -> None:
        """Ends the helper threads."""
        self._beside.shutdown()
        if self.product is not None:
            self.product.close()

    def digest(self) -> str:
        return self.cache.digest() + (self.match.digest() if self.match is not None else "") + self.mixture.digest()

    @property
    def kept(self) -> list[Kept]:
        """What a fit of the product needs of everything scored."""
        return self.product.kept if self.product is not None else []

    # ---- where chunks and blocks lie -----------------------------------------------------------------------------

    def _chunk(self, size: int, t: int) -> tuple[int, int]:
        """The chunk of target t, in a stream of `size` tokens."""
        start = 1 + (t - 1) // self.mixture.chunk_tokens * self.mixture.chunk_tokens
        return start, min(start + self.mixture.chunk_tokens, size)

    def _pieces(self, size: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """start … stop-1 cut where a chunk ends."""
        while start < stop:
            end = min(stop, self._chunk(size, start)[1])
            yield start, end
            start = end

    def _open(self, tokens: Tokens, t: int) -> int:
        """Makes the block of target t the open one, and returns the target behind its last."""
        if not self._block[0] <= t < self._block[1]:
            first, stop = self._chunk(len(tokens), t)
            first += (t - first) // self.read_tokens * self.read_tokens
            self._block = first, min(first + self.read_tokens, stop)
            assert self.product is not None
            mine = rows_of(self.network.take(tokens, *self._block)) if self.network.ahead else []
            with self._timed("product"):
                self.product.open(tokens, *self._block, mine)
        return self._block[1]

    # ---- scoring -------------------------------------------------------------------------------------------------

    def _score(self, tokens: Tokens, start: int, stop: int, *, learn: bool) -> BlendScores:
        """start … stop-1, inside one chunk; with `learn`, cache and match model learn each token after scoring it."""
        copying = self._beside.submit(self._follow, self.match, tokens, start, stop, learn) if self.match is not None else None
        probs_nK, features, noted, begin = np.zeros((stop - start, len(EXPERTS))), list[F32](), list[Noted](), start
        while begin < stop:
            end = min(stop, self._open(tokens, begin)) if self.product is not None else stop
            here = slice(begin - start, end - start)
            counted, asked = self._follow(self.cache, tokens, begin, end, learn)
            pieces = self.network.take(tokens, begin, end)
            probs_nK[here, NGRAM] = counted.prob
            probs_nK[here, NEURAL] = np.exp(-np.concatenate([piece.nll_nats for piece in pieces]))
            told = [counted.features]
            if copying is not None:
                copied, asked_too = copying.result()
                probs_nK[here, MATCH] = copied.prob[here]
                told.append(copied.features[here])
                asked = {t: [*asked[t], *asked_too[t]] for t in asked}
            with self._timed("check"):
                noted += [self._note(tokens, t, at, asked[t]) for t in asked if rows_of([at := self.network.look(tokens, t)])]
            features.append(features_of(np.concatenate([piece.features() for piece in pieces]), *told))
            self._multiply(tokens, begin, pieces, features[-1], probs_nK[here])
            begin = end
        scores = self._combine(features[0] if len(features) == 1 else np.concatenate(features), probs_nK)
        with self._timed("check"):
            for one in noted:
                one.token, one.reported = int(tokens[one.t]), float(scores.mixed[one.t - start])
                if self._noted and (one.block != self._noted[0].block or len(self._noted) >= min(TOGETHER, one.block)):
                    self._settle()
                self._noted.append(one)
            if stop == len(tokens):
                self._settle()
        return scores

    def _follow(
        self, expert: StreamCache | MatchModel, tokens: Tokens, start: int, stop: int, learn: bool
    ) -> tuple[ChunkScores, dict[int, list[Asked]]]:
        """An expert's scores of start … stop-1, and what it says of each watched target when it has learned what stands before it and no more."""
        step, asked, scores = expert.score_then_update if learn else expert.score, dict[int, list[Asked]](), list[ChunkScores]()
        watched = self._watch[np.searchsorted(self._watch, start) : np.searchsorted(self._watch, stop)].tolist()
        for a, b in pairwise(sorted({start, stop, *watched})):
            if a in watched:
                with self._timed("check"):
                    asked[a] = [self._ask(expert, tokens, a)]
            with self._timed("cache" if expert is self.cache else "match"):
                scores.append(step(tokens, a, b))
        return ChunkScores(np.concatenate([one.prob for one in scores]), np.concatenate([one.features for one in scores])), asked

    def _ask(self, expert: StreamCache | MatchModel, tokens: Tokens, t: int) -> Asked:
        if expert is self.match:
            return self.match.row(tokens, t), self.match.score(tokens, t, t + 1).features
        row_1V, told_1F = np.empty((1, self.cache.vocab_size)), np.empty((1, len(online.FEATURES)), np.float32)
        self.cache.fill_range(tokens, t, t + 1, row_1V, told_1F)
        return row_1V[0], told_1F

    def _note(self, tokens: Tokens, t: int, neural: NeuralScores, asked: Sequence[Asked]) -> Noted:
        """Target t, whose network row is here."""
        assert neural.rows is not None
        features_1F = features_of(neural.features(), *(told for _, told in asked))
        logp_1V = second_1V = neural.rows.clone()
        if self.product is not None:
            second_1V = self.product.second(tokens, t, logp_1V)
        weights_K, exponents_12 = self.mixture.weights(features_1F)[0], self.mixture.exponents(features_1F)
        return Noted(t, weights_K, asked, logp_1V, second_1V, exponents_12, self._block[1] - self._block[0])

    def _settle(self) -> None:
        """Holds what was reported of the noted targets against their whole distributions."""
        for one, row_V in zip(self._noted, self._rows(self._noted), strict=True):
            check_row(row_V, one.token, one.reported, one.t)
            self.checked += 1
        self._noted = []

    def _rows(self, noted: Sequence[Noted]) -> Iterator[F64]:
        """(V,) float64: the whole distribution of each."""
        if not noted:
            return
        logp_SV, second_SV = (torch.cat([getattr(one, name) for one in noted]) for name in ("logp_1V", "second_1V"))
        made = [logp_SV.double()]
        if self.product is not None:
            made.append(self.product.rows(logp_SV, second_SV, np.concatenate([one.exponents_12 for one in noted]), noted[0].block))
        made_ESV = torch.stack(made).cpu().numpy()
        for i, one in enumerate(noted):
            rows_KV = np.zeros((len(EXPERTS), self.cache.vocab_size))
            rows_KV[: len(made)] = made_ESV[:, i]  # NEURAL, PRODUCT
            rows_KV[NEURAL] = np.exp(rows_KV[NEURAL])
            for expert, (row_V, _) in zip((NGRAM, MATCH), one.asked, strict=False):
                rows_KV[expert] = row_V
            yield self.mixture.mixed_row(one.weights_K, rows_KV)

    def _multiply(self, tokens: Tokens, start: int, pieces: Sequence[NeuralScores], features_nF: F32, probs_nK: F64) -> None:
        """Fills the product's column: zero where another rank has the network's rows."""
        mine = rows_of(pieces)
        if self.product is None or not mine:
            return
        with self._timed("product"):
            where = np.concatenate([np.arange(first, first + len(rows)) for first, rows in mine]) - start
            probs_nK[where, PRODUCT] = self.product.score(tokens, mine, self.mixture.exponents(features_nF[where]))

    def _combine(self, features_nF: F32, probs_nK: F64) -> BlendScores:
        if self.product is not None and self.ranks is not None and self.ranks.world > 1:
            product_n = torch.from_numpy(np.ascontiguousarray(probs_nK[:, PRODUCT]))
            with peers():
                dist.all_reduce(product_n, group=self.ranks.patient_group)  # zero elsewhere: the sum is an exact gather
            probs_nK[:, PRODUCT] = product_n.numpy()
        if self.product is not None and not (probs_nK[:, PRODUCT] > 0).all():
            raise SeedgramError("the network's rows are missing or hold no numbers; lower --ttt-rate if it learns, or give --no-product")
        with self._timed("gate"):
            weights_nK = self.mixture.weights(features_nF)
            mixed_n = self.mixture.mixed(weights_nK, probs_nK)
        self._scored.append((features_nF, probs_nK))
        if self.collect:
            self.collected.append(self._scored[-1])
        return BlendScores(probs_nK, mixed_n, weights_nK)

    def _teach_gate(self) -> None:
        with self._timed("gate"):
            for features_nF, probs_nK in self._scored:
                self.mixture.note(features_nF, probs_nK)
        self._scored = []

    def _learn_chunk(self, tokens: Tokens, start: int, stop: int) -> None:
        with self._timed("cache"):
            self.cache.update(tokens, start, stop)
            if self.match is not None:
                self.match.update(tokens, start, stop)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        with self._adding:
            self.seconds[part] += time.perf_counter() - began
