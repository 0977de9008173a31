"""Predictor: the one definition of what this project predicts, used by eval.py, the audit, the certificate and the coder.

For every target: network, n-gram cache, their product and match model, mixed by the gate; then all of them learn.  A target's bits are a
function of its position in the stream and of the tokens before it, and not of how calls cut the stream:

    cache, match model   learn after every token; with `by_chunk`, at the end of a chunk
    product              reads the cache's rows at the beginning of a block of `read_tokens` targets, counted from the chunk's beginning
    gate                 learns at the end of a chunk of `chunk_tokens` targets
    network              as its source says: frozen, or learning from its own chunks (test_time_training.py)

So a caller may stop anywhere and ask for the whole distribution of the position that comes next (`row`), in the state in which it is
scored.  A reader who does not know the text, decoder or audit, gets the same bits from the tokens before it (network.ahead False).

Three things go on side by side, each in the order of the text: cache and match model, which need the text alone, read ahead; network and
product follow on the device; the gate, which learns from all of them, comes last.

Shapes: n targets, N tokens of the stream, K experts (mixture.EXPERTS), F features, V vocabulary.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hybrid.parallel.ranks import Ranks, peers
from hybrid.scoring.mixture import EXPERTS, MATCH, NEURAL, NGRAM, PRODUCT, Mixture, features_of
from hybrid.scoring.network import Network, NeuralScores, rows_of
from hybrid.scoring.options import READ_TOKENS
from hybrid.scoring.product import Block, Kept, ProductScorer
from hybrid.scoring.scores import BlendScores, check_row, joined
from ngram.arrays import F32, F64
from ngram.errors import SeedgramError
from ngram.online import stream_cache as online
from ngram.online.match import MatchModel
from ngram.online.stream_cache import ChunkScores, StreamCache
from ngram.score_first import Tokens

READ_AHEAD = 3  # pieces that cache and match model may be ahead of network and product
Asked = tuple[F64, F32]  # an expert's distribution (V,) of a target that it has not learned, and its features (1, F)
Rows = tuple[F32, dict[int, F64 | Tensor]]  # features (1, F) of a target; distributions (V,) by expert, the network's as logarithms


@dataclass(frozen=True)
class _Read:
    """Of targets start … stop-1, in one block: told, the scores of cache and match model; asked, what they said of each watched one before."""

    start: int
    stop: int
    pieces: Sequence[NeuralScores]
    block: Block | None
    told: Sequence[ChunkScores]
    asked: dict[int, list[Asked]]


class Predictor:
    """A Part of ScoreFirst.

    match None, product False: these experts have no say.  by_chunk: see the module.  online False: nothing learns.
    product: the scorer of that expert where it is not to be made here.
    watch: positions whose whole distribution is made before they are scored; CheckError where it does not say the reported probability.
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
            self.product = product or ProductScorer(cache, keep=keep_rows)
        self._matching, self._reading, self._gating = (ThreadPoolExecutor(1) for _ in range(3))
        self._block = Block(0, 0)  # the open one of the product
        self._watch = np.unique(np.asarray(watch, np.int64))
        self._scored = list[tuple[F32, F64]]()  # of the pending chunk; no score depends on it, so no digest sees it
        self.checked = 0  # positions whose row was compared
        self.collected: list[tuple[F32, F64]] = []
        self.seconds = {"cache": 0.0, "gate": 0.0, "product": 0.0, "check": 0.0}  # of work

    # ---- the steps of ScoreFirst ---------------------------------------------------------------------------------

    def score(self, tokens: Tokens, start: int, stop: int) -> BlendScores:
        """A whole chunk (or, where nothing learns, any range); nothing is learned."""
        self._scored = []
        return self._score(tokens, start, stop, learn=False)

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        """Learns the chunk that was scored last."""
        self._learn_chunk(tokens, start, stop)
        self._teach_gate()

    def score_then_update(self, tokens: Tokens, start: int, stop: int) -> BlendScores:
        """Any range; what learns after every token has learned all of it, what learns by chunks all chunks that end in it."""
        return self._score(tokens, start, stop, learn=True)

    def row(self, tokens: Tokens, t: int) -> F64 | None:
        """(V,) float64: what position t is drawn from, as `score_then_update` scores it next; tokens from t on are not looked at.

        None where another rank has the network's row."""
        neural = self.network.look(tokens, t)
        if neural.rows is None or not len(neural.rows):
            return None
        asked = [self._ask_cache(tokens, t), *([self._ask_match(tokens, t)] if self.match is not None else [])]
        block = self._opened(tokens, t, neural.rows.device) if self.product is not None else None
        return self._mixed_row(self._rows(tokens, t, neural, block, asked))

    def close(self) -> None:
        """Ends the helper threads."""
        for lane in (self._matching, self._reading, self._gating):
            lane.shutdown(cancel_futures=True)
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

    def _edges(self, size: int, t: int) -> tuple[int, int]:
        """The block of target t: first target, and the one behind the last."""
        first, stop = self._chunk(size, t)
        if self.product is None:
            return first, stop
        first += (t - first) // self.read_tokens * self.read_tokens
        return first, min(first + self.read_tokens, stop)

    def _pieces(self, size: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """start … stop-1 cut where a block ends."""
        while start < stop:
            end = min(stop, self._edges(size, start)[1])
            yield start, end
            start = end

    def _opened(self, tokens: Tokens, t: int, device: torch.device) -> Block:
        """The block of target t, read now unless it is open."""
        if not self._block.start <= t < self._block.start + self._block.size:
            assert self.product is not None
            with self._timed("product"):
                self._block = self.product.read(tokens, *self._edges(len(tokens), t), device)
        return self._block

    # ---- scoring -------------------------------------------------------------------------------------------------

    def _score(self, tokens: Tokens, start: int, stop: int, *, learn: bool) -> BlendScores:
        """learn: what learns, learns; otherwise what was scored is kept for `update`."""
        pieces, scored = list(self._pieces(len(tokens), start, stop)), list[Future[BlendScores]]()
        beside = self.network.ahead and len(pieces) > 1 and not self.by_chunk
        for read in self._reads(tokens, pieces, learn, beside):
            scored.append((self._gating.submit if beside else _now)(self._finish, tokens, read, *self._multiplied(tokens, read), learn))
            first, end = self._chunk(len(tokens), read.start)
            if self.by_chunk and learn and read.stop == end < len(tokens):
                self._learn_chunk(tokens, first, end)
        return joined([piece.result() for piece in scored])

    def _reads(self, tokens: Tokens, pieces: Sequence[tuple[int, int]], learn: bool, beside: bool) -> Iterator[_Read]:
        """`_read` of each piece in turn; with `beside`, it is ahead of whoever asks."""
        waiting = deque[Future[_Read]]()
        for start, stop in pieces:
            neural = self.network.take(tokens, start, stop)
            waiting.append((self._reading.submit if beside else _now)(self._read, tokens, start, stop, neural, learn and not self.by_chunk))
            if len(waiting) > READ_AHEAD * beside:
                yield waiting.popleft().result()
        yield from (read.result() for read in waiting)

    def _read(self, tokens: Tokens, start: int, stop: int, pieces: Sequence[NeuralScores], learn: bool) -> _Read:
        """Asks cache and match model, which, with `learn`, learn each token after scoring it."""
        block, mine, copying = None, rows_of(pieces), None
        if self.match is not None:
            copying = self._matching.submit(self._follow, self.match, self._ask_match, tokens, start, stop, learn)
        if self.product is not None:
            block = self._opened(tokens, start, mine[0][1].device if mine else torch.device("cpu"))
        with self._timed("cache"):
            followed = [self._follow(self.cache, self._ask_cache, tokens, start, stop, learn)]
        told, asked = zip(*followed, *([copying.result()] if copying is not None else []), strict=True)
        return _Read(start, stop, pieces, block, told, {t: [one[t] for one in asked] for t in asked[0]})

    def _follow(
        self, expert: StreamCache | MatchModel, ask: Callable[[Tokens, int], Asked], tokens: Tokens, start: int, stop: int, learn: bool
    ) -> tuple[ChunkScores, dict[int, Asked]]:
        """An expert's scores of start … stop-1; it is asked for each watched target before."""
        step, asked, scores = expert.score_then_update if learn else expert.score, dict[int, Asked](), list[ChunkScores]()
        watched = self._watch[np.searchsorted(self._watch, start) : np.searchsorted(self._watch, stop)].tolist()
        for a, b in pairwise(sorted({start, stop, *watched})):
            if a in watched:
                asked[a] = ask(tokens, a)
            scores.append(step(tokens, a, b))
        return ChunkScores(np.concatenate([one.prob for one in scores]), np.concatenate([one.features for one in scores])), asked

    def _ask_cache(self, tokens: Tokens, t: int) -> Asked:
        row_1V, told_1F = np.empty((1, self.cache.vocab_size)), np.empty((1, len(online.FEATURES)), np.float32)
        self.cache.fill_range(tokens, t, t + 1, row_1V, told_1F)
        return row_1V[0], told_1F

    def _ask_match(self, tokens: Tokens, t: int) -> Asked:
        assert self.match is not None
        return self.match.row(tokens, t), self.match.score(tokens, t, t + 1).features

    def _multiplied(self, tokens: Tokens, read: _Read) -> tuple[F32, F64, Tensor | None, dict[int, Rows]]:
        """Features (n, F) and probabilities (n, K) of a piece, the product's (n,) apart, on the device, and `_rows` of its watched targets.

        Nothing waits for the device here: it gets its next work first."""
        features_nF = features_of(np.concatenate([piece.features() for piece in read.pieces]), *(told.features for told in read.told))
        probs_nK = np.zeros((read.stop - read.start, len(EXPERTS)))
        probs_nK[:, NEURAL] = np.exp(-np.concatenate([piece.nll_nats for piece in read.pieces]))
        for expert, told in zip((NGRAM, MATCH), read.told, strict=False):
            probs_nK[:, expert] = told.prob
        with self._timed("product"):
            product_n = self._product(tokens, read, features_nF) if self.product is not None else None
        rows = dict[int, Rows]()
        with self._timed("check"):
            for t, asked in read.asked.items():
                at = [piece.part(t, t + 1) for piece in read.pieces if piece.first <= t < piece.stop]
                if rows_of(at):
                    rows[t] = self._rows(tokens, t, at[0], read.block, asked, scored=True)
        return features_nF, probs_nK, product_n, rows

    def _product(self, tokens: Tokens, read: _Read, features_nF: F32) -> Tensor:
        """(n,) float64 of a piece; every rank multiplies where it has rows."""
        assert self.product is not None and read.block is not None
        mine, found_S = rows_of(read.pieces), torch.zeros(0, dtype=torch.float64)
        where = np.concatenate([np.zeros(0, np.int64), *(np.arange(first, first + len(rows)) for first, rows in mine)]) - read.start
        if mine:
            found_S = self.product.score(tokens, read.block, mine, self.mixture.exponents(features_nF[where]))
        if self.ranks is None or self.ranks.world == 1:
            return found_S
        product_n = torch.zeros(len(features_nF), dtype=torch.float64)
        product_n[torch.from_numpy(where)] = found_S.cpu()
        with peers():
            dist.all_reduce(product_n, group=self.ranks.patient_group)  # zero elsewhere: the sum is an exact gather
        return product_n

    def _rows(
        self, tokens: Tokens, t: int, neural: NeuralScores, block: Block | None, asked: Sequence[Asked], *, scored: bool = False
    ) -> Rows:
        """What the experts say of target t, whose network row is here."""
        assert neural.rows is not None
        features_1F = features_of(neural.features(), *(told for _, told in asked))
        rows: dict[int, F64 | Tensor] = {NEURAL: neural.rows[0].double(), **dict(zip((NGRAM, MATCH), (row for row, _ in asked), strict=False))}
        if self.product is not None and block is not None:
            rows[PRODUCT] = self.product.row(tokens, block, t, neural.rows, self.mixture.exponents(features_1F), scored=scored)
        return features_1F, rows

    def _mixed_row(self, said: Rows) -> F64:
        rows_KV = np.zeros((len(EXPERTS), self.cache.vocab_size))
        for expert, row_V in said[1].items():
            rows_KV[expert] = row_V.cpu().numpy() if isinstance(row_V, Tensor) else row_V
        rows_KV[NEURAL] = np.exp(rows_KV[NEURAL])
        return self.mixture.mixed_row(self.mixture.weights(said[0])[0], rows_KV)

    def _finish(
        self, tokens: Tokens, read: _Read, features_nF: F32, probs_nK: F64, product_n: Tensor | None, rows: dict[int, Rows], learn: bool
    ) -> BlendScores:
        """Mixes a piece, checks its watched targets and, with `learn`, gives it to the gate."""
        if product_n is not None:
            probs_nK[: len(product_n), PRODUCT] = product_n.cpu().numpy()
            if not (probs_nK[:, PRODUCT] > 0).all():
                raise SeedgramError("the network's rows are missing or hold no numbers; lower --ttt-rate if it learns, or give --no-product")
        with self._timed("gate"):
            weights_nK = self.mixture.weights(features_nF)
            mixed_n = self.mixture.mixed(weights_nK, probs_nK)
        for t, row in rows.items():
            check_row(self._mixed_row(row), int(tokens[t]), float(mixed_n[t - read.start]), t)
            self.checked += 1
        self._scored.append((features_nF, probs_nK))
        if self.collect:
            self.collected.append(self._scored[-1])
        if learn:
            self._teach_gate()
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
        self.seconds[part] += time.perf_counter() - began


def _now(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Calls a function as an executor would, at once and here."""
    done = Future[Any]()
    done.set_result(function(*arguments))
    return done
