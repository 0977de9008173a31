"""OnlineCache: an exact n-gram model that scores, and then counts what it has scored.

Seeded with a trained table it is the trained model; never updated it stays that.  Counts go on by update exclusion:
from the longest order down, stopping at the first n-gram already seen, which keeps lower orders at numbers of
distinct left neighbours without a set of neighbours.  (Kneser & Ney 1995; update exclusion after Moffat 1990.)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from ngram import online_kernels as kernels
from ngram import trie
from ngram.errors import SeedgramError
from ngram.table import F64, NgramTable
from ngram.trie import DEPTH, State

# What a gate may look at: functions of the context alone, in the order of the columns of ChunkScores.features.
FEATURES: tuple[str, ...] = (
    "matched_order",  # tokens in the longest context seen before
    "log_total",  # log1p of its total count
    "log_distinct",  # log1p of its number of different successors
    "backoff",  # its λ: share of probability it leaves to shorter contexts
    "log_total_below",  # the same three for the next shorter context seen
    "log_distinct_below",
    "backoff_below",
    "sure_contexts",  # how many matched contexts had a single successor
    "log_escape",  # -log of the product of λ over contexts of 2 tokens and more: how little is left to bigrams
)
SLACK = 1 << 20  # room for growth from the start: pages that are never written take no memory


@dataclass(frozen=True)
class ChunkScores:
    """prob (n,) float64 of each target; features (n, len(FEATURES)) float32; by_order (n, order + 1) float64 or None:
    the target's probability when only orders up to 0, 1, … are used."""

    prob: F64
    features: npt.NDArray[np.float32]
    by_order: F64 | None = None


class OnlineCache:
    """A growing exact cache over a table.  Nothing is hashed away: keys are compared in full.

    tokens: the whole stream, (N,) uint16, BOS before each document; targets are tokens[start:stop], start ≥ 1, whose
    histories are read from the stream to their left and never reach past a BOS."""

    def __init__(self, table: NgramTable):
        self.order, self.vocab_size, self.bos = table.order, table.vocab_size, table.bos
        sizes = table.sizes()
        nodes = sum(sizes[: max(1, self.order - 1)])
        entries = 1 + sum(int(trie.pool_size(parents)) for parents in table.parents[1:])
        discounts = np.zeros((self.order, 4))
        discounts[:, 1:] = table.discounts
        unigrams = table.exact_counts(1)
        meta = np.zeros(trie.META_SIZE, np.int64)
        meta[trie.N_NODES], meta[trie.POOL_USED] = nodes, 1
        self.state = State(
            nodes=_aligned(nodes + nodes // 2 + SLACK, 8),
            pool=_aligned(entries + entries // 2 + SLACK, 3),
            unigrams=unigrams,
            root=_root(unigrams, int(table.pruned[0][0])),
            meta=meta,
            discounts=discounts,
            settings=np.array([self.order, self.vocab_size, self.bos], np.int64),
        )
        self.state.nodes[:nodes] = 0
        self.state.pool[0] = (trie.EMPTY, 0, 0)
        self._seed(table)

    @property
    def counted(self) -> int:
        """Tokens counted since the table."""
        return int(self.state.meta[trie.COUNTED])

    def score(self, tokens: npt.ArrayLike, start: int, stop: int, features: bool = True, with_orders: bool = False) -> ChunkScores:
        """Scores of tokens[start:stop]; the state does not change."""
        stream = self._stream(tokens, start, stop)
        scores = self._blank(stop - start, features, with_orders)
        kernels.score_range(self.state, stream, start, stop, *scores)
        return ChunkScores(scores[0], scores[1], scores[2] if with_orders else None)

    def update(self, tokens: npt.ArrayLike, start: int, stop: int) -> None:
        """Counts tokens[start:stop]."""
        stream = self._stream(tokens, start, stop)
        self._count(stream, start, stop, self._blank(0, False, False))

    def score_then_update(
        self, tokens: npt.ArrayLike, start: int, stop: int, features: bool = True, with_orders: bool = False
    ) -> ChunkScores:
        """Each token is scored and then counted: the same as chunks of one token, in one kernel."""
        stream = self._stream(tokens, start, stop)
        scores = self._blank(stop - start, features, with_orders)
        self._count(stream, start, stop, scores)
        return ChunkScores(scores[0], scores[1], scores[2] if with_orders else None)

    def update_column(self, streams_ST: npt.NDArray[np.uint16], rows: npt.NDArray[np.int64], column: int) -> None:
        """Counts the token in `column` ≥ 1 of the streams `rows`, in that order: `update` of each, in one kernel."""
        if streams_ST.ndim != 2 or not 0 < column < streams_ST.shape[1]:
            raise SeedgramError(f"column {column} of streams {streams_ST.shape}: column 0 is given, so 1 ≤ column < length")
        seen = streams_ST[rows, max(0, column - self.order + 1) : column + 1]
        if seen.size and int(seen.max()) >= self.vocab_size:
            raise SeedgramError(f"token {int(seen.max())} is outside the vocabulary of {self.vocab_size}; use the model's tokenizer")
        cursor, place, at = *_walk(), 0
        while at < len(rows):
            self._make_room(self.order * self.order + self.order)
            at = kernels.count_column(self.state, _read_only(streams_ST), rows, at, column, cursor, place)

    def fill(self, histories: npt.NDArray[np.uint16], rows_PV: F64, features_PF: npt.NDArray[np.float32]) -> None:
        """`rows` and `row_features` in one walk, into arrays at hand; threads may fill parts of the rows side by side."""
        kernels.fill_rows(self.state, self._histories(histories), rows_PV, features_PF)

    def fill_range(self, tokens: npt.ArrayLike, start: int, stop: int, rows_NV: F64) -> None:
        """The distributions of targets start … stop-1 of a stream, into (n, V) at hand; as `fill`, but for the walk."""
        kernels.row_range(self.state, self._stream(tokens, start, stop), start, stop, rows_NV)

    def rows(self, histories: npt.ArrayLike) -> F64:
        """(P, V) float64 distributions, each summing to 1.  histories: (P, order-1) uint16, PAD on the left."""
        past = self._histories(histories)
        rows = np.empty((len(past), self.vocab_size))
        kernels.fill_rows(self.state, past, rows, np.empty((0, len(FEATURES)), np.float32))
        return rows

    def row_features(self, histories: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """(P, len(FEATURES)) float32, as in ChunkScores."""
        past = self._histories(histories)
        features = np.empty((len(past), len(FEATURES)), np.float32)
        kernels.fill_rows(self.state, past, np.empty((0, self.vocab_size)), features)
        return features

    def digest(self) -> str:
        """xxh3_128 of all state, as hex: equal before and after anything that only reads."""
        state, hasher = self.state, xxhash.xxh3_128()
        nodes, pool = int(state.meta[trie.N_NODES]), int(state.meta[trie.POOL_USED])
        for part in (state.nodes[:nodes], state.pool[:pool], state.unigrams, state.root, state.meta, state.discounts, state.settings):
            hasher.update(np.ascontiguousarray(part).view(np.uint8).reshape(-1).data)
        return hasher.hexdigest()

    def _seed(self, table: NgramTable) -> None:
        base = np.cumsum([0, *table.sizes()])
        for n in range(2, self.order + 1):
            columns = (table.tokens[n - 1], table.parents[n - 1], table.exact_counts(n))
            own = base[n - 1] if n < self.order else -1
            fits = trie.seed_order(self.state, *columns, base[n - 2], own)
            context = self.state.nodes[base[n - 2] : base[n - 1]]
            total = context[:, trie.TOTAL].astype(np.int64) + table.pruned[n - 1]
            if not fits or (len(total) and total.max() > trie.U32_MAX):
                raise SeedgramError(f"a context of order {n} has more than 2^32 - 1 counts; train on less text")
            context[:, trie.TOTAL] = total
            context[:, trie.PRUNED] = table.pruned[n - 1]

    def _stream(self, tokens: npt.ArrayLike, start: int, stop: int) -> npt.NDArray[np.uint16]:
        stream = np.ascontiguousarray(tokens, dtype=np.uint16)
        if stream.ndim != 1 or not 0 < start <= stop <= len(stream):
            raise SeedgramError(f"targets {start}…{stop} of {stream.shape} tokens: token 0 is given, so 1 ≤ start ≤ stop ≤ length")
        seen = stream[max(0, start - self.order + 1) : stop]
        if len(seen) and int(seen.max()) >= self.vocab_size:
            raise SeedgramError(f"token {int(seen.max())} is outside the vocabulary of {self.vocab_size}; use the model's tokenizer")
        return _read_only(stream)

    def _histories(self, histories: npt.ArrayLike) -> npt.NDArray[np.uint16]:
        past = np.ascontiguousarray(histories, dtype=np.uint16)
        known = past[past != 65535]
        if past.ndim != 2 or past.shape[1] != self.order - 1 or (len(known) and int(known.max()) >= self.vocab_size):
            raise SeedgramError(f"histories of shape {past.shape} must be (P, {self.order - 1}) tokens under {self.vocab_size}")
        return past

    def _blank(self, size: int, features: bool, with_orders: bool) -> tuple[F64, npt.NDArray[np.float32], F64]:
        return (
            np.empty(size),
            np.empty((size if features else 0, len(FEATURES)), np.float32),
            np.empty((size if with_orders else 0, self.order + 1)),
        )

    def _count(self, stream: npt.NDArray[np.uint16], start: int, stop: int, scores: tuple[F64, npt.NDArray[np.float32], F64]) -> None:
        cursor, place = _walk()
        if trie.seek(self.state, stream, start, cursor, place):
            self._make_room(self.order * self.order)
            trie.seek_making(self.state, stream, start, cursor, place)
        at = start
        while at < stop:
            self._make_room(self.order)
            views = [column[at - start :] if len(column) else column for column in scores]
            at = kernels.count_range(self.state, stream, at, stop, cursor, place, *views)

    def _make_room(self, inserts: int) -> None:
        """Makes what is too small half as large again; only spare room moves, so the state stays the same."""
        while not trie.has_room(self.state, inserts):
            state = self.state
            nodes, pool = int(state.meta[trie.N_NODES]), int(state.meta[trie.POOL_USED])
            moved = inserts * 4 * (self.vocab_size + 2)
            if nodes + inserts > len(state.nodes):
                self.state = state._replace(nodes=_longer(state.nodes, nodes, inserts))
            elif pool + moved > len(state.pool):
                self.state = state._replace(pool=_longer(state.pool, pool, moved))


def _walk() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cursor and places of one lane."""
    return np.zeros((1, DEPTH + 1), np.int64), np.empty((1, 2 * DEPTH), np.int64)


def _read_only(tokens: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """A view of one type, whether the stream is a map of a file or lies in memory: kernels are compiled for one."""
    view = tokens.view()
    view.flags.writeable = False
    return view


def _aligned(rows: int, columns: int) -> npt.NDArray[np.uint32]:
    """(rows, columns) uint32, not initialised, on a cache line: a node record then never straddles two."""
    raw = np.empty(rows * columns + 16, np.uint32)
    skip = -raw.ctypes.data % 64 // 4
    return raw[skip : skip + rows * columns].reshape(rows, columns)


def _longer(array: npt.NDArray[np.uint32], used: int, extra: int) -> npt.NDArray[np.uint32]:
    """A copy of the `used` first rows, with half as many again and `extra` more behind them."""
    longer = _aligned(used + used // 2 + extra, array.shape[1])
    longer[:used] = array[:used]
    return longer


def _root(unigrams: npt.NDArray[np.uint32], pruned: int) -> npt.NDArray[np.int64]:
    counts = unigrams.astype(np.int64)
    return np.array([[counts.sum() + pruned, (counts == 1).sum(), (counts == 2).sum(), (counts > 2).sum(), pruned]], np.int64)
