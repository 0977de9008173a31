"""Predictor: the one definition of what this project predicts, used by eval.py, the audit, the certificate and the coder.

For every target: network, n-gram cache, their product and match model, mixed by the gate; then all of them learn.  A target's bits are a
function of its position in the stream and of the tokens before it, and not of how calls cut the stream:

    cache, match model   learn after every token; with `by_chunk`, at the end of a chunk
    product              reads the cache's rows at the beginning of a block of `read_tokens` targets, counted from the chunk's beginning
    gate                 learns at the end of a chunk of `chunk_tokens` targets
    network              as its source says: frozen, or learning from its own chunks (test_time_training.py)

A caller may stop anywhere and ask for the whole distribution of the position that comes next (`row`), in the state in which it is scored.
Where the text is known, the parts work side by side (docs/architecture.md); who does not know it gets the same bits (network.ahead False).

Shapes: n targets, N tokens of the stream, K experts (mixture.EXPERTS), F features, V vocabulary.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from threading import Lock
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hybrid.parallel.ranks import Ranks
from hybrid.scoring.mixture import EXPERTS, MATCH, NEURAL, NGRAM, PRODUCT, Mixture, features_of
from hybrid.scoring.network import Network, NeuralScores, Rows, rows_of
from hybrid.scoring.options import READ_TOKENS
from hybrid.scoring.product import ProductScorer
from hybrid.scoring.scores import BlendScores, CheckError
from hybrid.scoring.watching import Noted, Watching
from ngram.arrays import F32, F64, I64
from ngram.errors import SeedgramError
from ngram.online.match import MatchModel
from ngram.online.stream_cache import Block, ChunkScores, StreamCache
from ngram.score_first import Tokens

AHEAD = 8  # stretches that cache and match model may be ahead of network and product, these of the gate
READ = 2  # of these, with the cache's rows


@dataclass
class Stretch:
    """Targets start … stop-1 of a block; asked: the watched ones among them.  told: what cache and match model will have said; pieces: what the
    network says; rows (S, V): the cache's for those of the network that are here, None: none are."""

    start: int
    stop: int
    block: Block
    asked: Block
    told: list[Future[ChunkScores]]
    pieces: Sequence[NeuralScores] = ()
    rows: Future[Tensor] | None = None


class Predictor:
    """A Part of ScoreFirst.

    match None: it has no say.  by_chunk: see the module.  product: the scorer of that expert, where it is not the usual one.
    others: caches as `cache` is, which take turns; together: blocks that are taken at once where the text is known.
    watch: positions to check against their whole distributions, CheckError.
    collect: keep every piece's features and expert probabilities."""

    def __init__(
        self, network: Network, cache: StreamCache, match: MatchModel | None, mixture: Mixture, *,
        read_tokens: int = READ_TOKENS, by_chunk: bool = False, product: ProductScorer | None = None, others: Sequence[StreamCache] = (),
        together: int = 1, ranks: Ranks | None = None, watch: Sequence[int] = (), collect: bool = False,
    ) -> None:
        self.network, self.cache, self.match, self.mixture, self.ranks = network, cache, match, mixture, ranks
        self.read_tokens, self.by_chunk, self.together, self.collect = read_tokens, by_chunk, together, collect
        self.product = (product or ProductScorer()) if PRODUCT in mixture.present else None
        self._caches = [cache, *others]
        self._experts: list[StreamCache | MatchModel] = [*self._caches, *([match] if match is not None else [])]
        self._watching = Watching(self.product)
        self._threads = {id(part): ThreadPoolExecutor(1) for part in (*self._experts, ProductScorer, Mixture, Watching)}
        self._beside = False  # whether they are used
        self._block = Block(cache, [0])  # the open one
        self._watch = np.unique(np.asarray(watch, np.int64))
        self._scored = list[tuple[F32, F64]]()  # of the pending chunk; no score depends on it, so no digest sees it
        self.collected: list[tuple[F32, F64]] = []
        self.seconds, self._adding = dict.fromkeys(("cache", "match", "gate", "product", "check"), 0.0), Lock()  # of work

    # ---- the steps of ScoreFirst

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
        block = self._opened(tokens, t)
        asked, match = block.cache.ask(tokens, t, t + 1), [self.match.score(tokens, t, t + 1)] if self.match is not None else []
        there = [neural.rows] + ([self.product.read_next(tokens, block, t, neural.rows)] if self.product is not None else [])
        first = np.zeros(1, np.int64)
        noted = self._note(first + t, first, first, neural.features(), there, asked, match)
        noted.weights_WK[:] = self.mixture.weights(noted.features_WF)
        return np.asarray(self._watching.rows(self.mixture, [noted])[0].cpu())

    def close(self) -> None:
        """Ends the helper threads."""
        for thread in self._threads.values():
            thread.shutdown(cancel_futures=True)

    def digest(self) -> str:
        return self.cache.digest() + (self.match.digest() if self.match is not None else "") + self.mixture.digest()

    @property
    def checked(self) -> int:
        """Positions whose row was compared."""
        return self._watching.checked

    # ---- where chunks and blocks lie

    def _chunk(self, size: int, t: int) -> tuple[int, int]:
        """The chunk of target t, in a stream of `size` tokens."""
        start = 1 + (t - 1) // self.mixture.chunk_tokens * self.mixture.chunk_tokens
        return start, min(start + self.mixture.chunk_tokens, size)

    def _opened(self, tokens: Tokens, t: int) -> Block:
        """The block of target t, with those that are taken at once with it, which becomes the open one."""
        if not 0 <= t - self._block.begins[0] < self._block.size:
            begins, stop = list[int](), t
            while stop < len(tokens) and len(begins) < (self.together if self._beside else 1):
                first, stop = self._bounds(len(tokens), stop)
                begins.append(first)
            if self.product is not None:
                self.product.open(tokens, begins[0])
            self._block = Block(self._caches[self._caches.index(self._block.cache) - 1], begins, stop - begins[0])
        return self._block

    def _bounds(self, size: int, t: int) -> tuple[int, int]:
        """The block of target t; a chunk is one where there is no product."""
        first, stop = self._chunk(size, t)
        if self.product is not None:
            first += (t - first) // self.read_tokens * self.read_tokens
            stop = min(first + self.read_tokens, stop)
        return first, stop

    # ---- scoring

    def _score(self, tokens: Tokens, start: int, stop: int, *, learn: bool) -> BlendScores:
        """Any range, cut where blocks end; with `learn`, what learns after every token or chunk does."""
        self._beside, by_token, scored = self.network.ahead and not self.by_chunk, learn and not self.by_chunk, list[Future[Future[None]]]()
        out = BlendScores(np.zeros((stop - start, len(EXPERTS))), np.empty(stop - start), np.empty((stop - start, len(EXPERTS))))
        waiting, first = deque[Stretch](), start
        while start < stop or waiting:
            if start < stop:
                block = self._opened(tokens, start)
                end = min(stop, int(block.begins[0]) + block.size)
                watched = self._watch[slice(*np.searchsorted(self._watch, [start, end]))]
                waiting.append(Stretch(start, end, block, Block(block.cache, watched), []))
                for expert in self._experts:
                    if expert in (block.cache, self.match):
                        waiting[-1].told.append(self._on(expert, self._follow, expert, tokens, waiting[-1], by_token))
                    elif by_token:
                        self._on(expert, expert.update, tokens, start, end)
                start = end
            if start == stop or len(waiting) > AHEAD * self._beside:
                for one in islice(waiting, READ):
                    if not one.pieces:
                        one.pieces = self.network.take(tokens, one.start, one.stop)
                        if self.product is not None and (mine := rows_of(one.pieces)):
                            one.rows = self._on(ProductScorer, self._read, tokens, one, mine)
                one = waiting.popleft()
                a, b = one.start, one.stop
                here = BlendScores(*(column[a - first : b - first] for column in vars(out).values()))
                scored.append(self._on(Mixture, self._finish, tokens, a, here, learn, *self._multiply(tokens, one, here.probs)))
                scored[max(0, len(scored) - AHEAD)].result()
                begin, end = self._chunk(len(tokens), a)
                if self.by_chunk and learn and b == end < len(tokens):
                    self._learn_chunk(tokens, begin, end)
        held = [one.result() for one in scored]
        held.append(self._on(Watching, self._timed("check")(self._watching.settle), self.mixture))
        for last in (*held, *(self._on(expert, int) for expert in self._experts)):
            last.result()  # of the experts: nobody waited for a cache that only counted
        return out

    def _on(self, part: object, task: Callable[..., Any], *given: Any) -> Future[Any]:
        """Has it done on the thread of that part, or here and now."""
        if self._beside:
            return self._threads[id(part)].submit(task, *given)
        done = Future[Any]()
        done.set_result(task(*given))
        return done

    def _follow(self, expert: StreamCache | MatchModel, tokens: Tokens, one: Stretch, learn: bool) -> ChunkScores:
        """An expert's scores, and what it says of each watched target when it has learned what stands before it and no more."""
        step: Callable[..., ChunkScores] = expert.score_then_update if learn else expert.score
        if isinstance(expert, StreamCache):
            step = partial(step, block=one.block if self.product is not None and self.product.by_parts else None, asked=one.asked)
        counted = expert.counted
        with self._timed("match" if expert is self.match else "cache"):
            scores = step(tokens, one.start, one.stop)
        if scores.counted != counted and len(one.asked.begins):
            raise CheckError(f"position {one.asked.begins[0]}: learned before it was looked at; the score is not printed")
        return scores

    def _read(self, tokens: Tokens, one: Stretch, mine: Sequence[Rows]) -> Tensor:
        """The cache's rows for those of `mine`, when it has counted them."""
        one.told[0].result()
        assert self.product is not None
        with self._timed("product"):
            rows_SV = _joined([self.product.read(tokens, one.block, t, t + len(rows), rows) for t, rows in mine])
        if self.product.by_parts and one.stop == one.block.begins[0] + one.block.size:
            one.block.end()
        return rows_SV

    def _multiply(self, tokens: Tokens, one: Stretch, probs_nK: F64) -> tuple[F32, Tensor, Noted]:
        """Features (n, F), probabilities of the product (n,) on the device, and watched targets; the others' probabilities → probs (n, K)."""
        told = [said.result() for said in one.told]
        probs_nK[:, NEURAL] = np.exp(-np.concatenate([piece.nll_nats for piece in one.pieces]))
        for expert, scores in zip((NGRAM, MATCH), told, strict=False):
            probs_nK[:, expert] = scores.prob
        neural_n2 = np.concatenate([piece.features() for piece in one.pieces])
        features_nF = features_of(neural_n2, *(scores.features for scores in told))
        mine = rows_of(one.pieces)
        where = np.concatenate([np.arange(t, t + len(rows)) for t, rows in mine] or [np.arange(0)])
        there = [_joined([rows for _, rows in mine])] if mine else []
        with self._timed("product"):
            product_n = self._product(tokens, where, one, there, features_nF)
        with self._timed("check"):
            places = np.flatnonzero(np.isin(one.asked.begins, where))
            watched = one.asked.begins[places]
            if len(places):
                at = np.searchsorted(where, watched).tolist()  # as numbers: a tensor of them would wait for the device
                there = [torch.stack([rows[i] for i in at]) for rows in there]
            return features_nF, product_n, self._note(watched, places, watched - one.start, neural_n2, there, one.asked, told[1:])

    def _note(self, where: I64, places: I64, at: I64, neural_n2: F32, there: list[Tensor], asked: Block, match: Sequence[ChunkScores]) -> Noted:
        """Targets `where`: entries `at` of what network and match model say, and `places` of the cache's."""
        features_WF = features_of(neural_n2[at], asked.parts.features[places], *(scores.features[at] for scores in match))
        return Noted(where, places, features_WF, there, asked, [scores.said[at] for scores in match])

    def _product(self, tokens: Tokens, where: I64, one: Stretch, there: list[Tensor], features_nF: F32) -> Tensor:
        """(n,) float64; 0 where no rank has the network's row.  there: rows of the targets `where` (S,), to which the cache's are added."""
        product_n = torch.zeros(one.stop - one.start, dtype=torch.float64)
        if one.rows is not None and self.product is not None:
            there.append(one.rows.result())
            exponents_S2 = self.mixture.gate.exponents(features_nF[where - one.start])
            found_S = self.product.score(tokens[where].astype(np.int64), there[0], there[1], exponents_S2)
            if len(where) == len(product_n):
                product_n = found_S
            else:
                product_n[torch.from_numpy(where - one.start)] = found_S.cpu()
        if self.product is not None and self.ranks is not None and self.ranks.world > 1:
            product_n = product_n.cpu()
            dist.all_reduce(product_n, group=self.ranks.patient_group)  # zero elsewhere: the sum is an exact gather
        return product_n

    def _finish(self, tokens: Tokens, start: int, out: BlendScores, learn: bool, features_nF: F32, product_n: Tensor, noted: Noted) -> Future[None]:
        """Mixes a piece and, with `learn`, has the gate learn it.  Returns what may hold its watched targets against their rows."""
        with self._timed("product"):
            out.probs[:, PRODUCT] = product_n.cpu().numpy()
        if self.product is not None and not (out.probs[:, PRODUCT] > 0).all():
            raise SeedgramError("the network's rows are missing or hold no numbers; lower --ttt-rate if it learns, or give --no-product")
        stop, chunk = start + len(features_nF), self.mixture.chunk_tokens
        for a, b in pairwise([start, *range(self._chunk(stop, start)[0] + chunk, stop, chunk), stop]):
            here, some = slice(a - start, b - start), slice(*np.searchsorted(noted.where, [a, b]))
            with self._timed("gate"):
                weights = self.mixture.weights(np.concatenate([features_nF[here], noted.features_WF[some]]))
                out.weights[here], noted.weights_WK[some] = np.split(weights, [b - a])
                out.mixed[here] = self.mixture.mixed(out.weights[here], out.probs[here])
            self._scored.append((features_nF[here], out.probs[here]))
            if self.collect:
                self.collected.append(self._scored[-1])
            if learn:
                self._teach_gate()
        noted.tokens_W[:], noted.reported_W[:] = tokens[noted.where], out.mixed[noted.where - start]
        return self._on(Watching, self._timed("check")(self._watching.hold), self.mixture, noted)

    def _teach_gate(self) -> None:
        with self._timed("gate"):
            for features_nF, probs_nK in self._scored:
                self.mixture.note(features_nF, probs_nK)
        self._scored = []

    def _learn_chunk(self, tokens: Tokens, start: int, stop: int) -> None:
        with self._timed("cache"):
            for expert in self._experts:
                expert.update(tokens, start, stop)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        with self._adding:
            self.seconds[part] += time.perf_counter() - began


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
