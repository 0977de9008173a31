"""StreamCache: an exact n-gram model that scores a stream, and then counts what it has scored.

Until it is updated, it scores exactly like the table it was built from.  It counts by update exclusion: docs/architecture.md.
(Kneser & Ney 1995; update exclusion: Moffat 1990.)
"""

from dataclasses import dataclass, field
from functools import partial, partialmethod

import numpy as np
import numpy.typing as npt

from ngram.arrays import F32, F64, I64, U32, U32_MAX, Tokens, digest, read_only
from ngram.errors import SeedgramError
from ngram.online import kernels, seed, trie
from ngram.online.kernels import RowParts
from ngram.online.trie import DEPTH, State
from ngram.table import NgramTable
from ngram.threads import each

# Columns of ChunkScores.features, which a gate may look at because they depend on the context alone.
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
ENTRIES = 256  # of lists for each target that RowParts have room for at first
SLACK = 1 << 20  # room for growth from the start: pages that are never written take no memory


class Block:
    """What `cache` says of targets before it counts them: parts, filled as it does.

    size: of so many from begins[0] on, each by what had been counted at the last of `begins` before it; 0: of `begins` alone, with features."""

    def __init__(self, cache: "StreamCache", begins: npt.ArrayLike, size: int = 0) -> None:
        self.cache, self.begins, self.alone = cache, np.array(begins, np.int64), not size
        self.size, self.parts = size or len(self.begins), NO_PARTS

    def begin(self) -> None:
        """Before the first call that fills it, and then again at will."""
        if self.parts is not NO_PARTS:
            return
        cache, lengths, size = self.cache, self.cache.order - 1, self.cache.vocab_size
        most, room = lengths * self.size, ENTRIES * self.size + 4 * size
        if not self.alone and cache.serial + most > U32_MAX:
            cache.state.nodes[:, trie.SPARE], cache.serial = 0, 0
        meta = np.array([0, 0, 0, -1 if self.alone else cache.serial, 0, 0])
        lists, starts = np.zeros((lengths + 1, self.size), np.int64), np.zeros(most + 2, np.int64)
        cells, values = cache.spare.pop() if cache.spare and not self.alone else (np.empty(room, np.int64), np.empty(room))
        unigram, features = np.empty((len(self.begins), size)), np.empty((self.size * self.alone, len(FEATURES)), np.float32)
        self.parts = RowParts(lists, np.ones(most + 1), starts, cells, values, unigram, self.begins, features, meta)

    def rows(self) -> F64:
        """(size, V) distributions, each summing to 1."""
        rows_NV = np.empty((self.size, self.cache.vocab_size))
        kernels.fill_from_parts(self.parts, 0, rows_NV)
        return rows_NV

    def grow(self) -> None:
        """Makes room for twice as many entries."""
        old = self.parts
        self.parts = old._replace(cells=np.concatenate([old.cells, old.cells]), values=np.concatenate([old.values, old.values]))

    def end(self) -> None:
        """Nobody looks at the parts any more; another block of the cache may have their room, on whatever thread this is."""
        self.cache.spare.append((self.parts.cells, self.parts.values))
        self.parts = NO_PARTS


NO_PARTS = RowParts._make([np.zeros((0,) * (1 + (at in (0, 5, 7))), kind) for at, kind in enumerate("qdqqddqfq")])


@dataclass(frozen=True)
class ChunkScores:
    """prob (n,) float64 of each target; features (n, F) float32, functions of the context alone, (0, F) where none were asked for.
    counted: tokens that were learned before the first; said (n, 2): see match.py."""

    prob: F64
    features: F32
    counted: int = 0
    said: F64 = field(default_factory=partial(np.zeros, (0, 2)))


class StreamCache:
    """A cache that starts with the counts of a table and grows.  Keys are compared in full, so no two n-grams share a count.

    tokens: the whole stream, (N,) uint16 (uint32 above 65,535 tokens), BOS before each document; targets are tokens[start:stop], start ≥ 1.
    Histories are read from the stream to their left and never reach past a BOS."""

    def __init__(self, table: NgramTable):
        self.order, self.vocab_size, self.bos = table.order, table.vocab_size, table.bos
        sizes = table.sizes()
        nodes = sum(sizes[: max(1, self.order - 1)])
        *pools, entries = np.cumsum([1, *each(seed.pool_size, table.parents[1:])]).tolist()  # where the children of each order begin
        unigrams, pruned = table.exact_counts(1), int(table.pruned[0][0])
        total = unigrams.sum(dtype=np.int64) + pruned
        meta = np.zeros(trie.META_SIZE, np.int64)
        meta[[trie.N_NODES, trie.POOL_USED]] = nodes, entries
        root = np.array([[total, (unigrams == 1).sum(), (unigrams == 2).sum(), (unigrams > 2).sum(), pruned]], np.int64)
        rooms = _aligned(nodes + nodes // 2 + SLACK, 8), _aligned(entries + entries // 2 + SLACK, 3)
        settings = np.array([self.order, self.vocab_size, self.bos], np.int64)
        self.state = State(*rooms, unigrams, root, meta, np.pad(table.discounts, ((0, 0), (1, 0))), settings)
        self.serial = 0  # of the list that was made last
        self.spare = list[tuple[I64, F64]]()  # cells and values of blocks that have ended
        self.state.nodes[: sizes[0]], self.state.pool[0] = 0, (trie.EMPTY, 0, 0)
        self._seed(table, pools)

    @property
    def counted(self) -> int:
        """Tokens counted since the table."""
        return int(self.state.meta[trie.COUNTED])

    def score(
        self, tokens: npt.ArrayLike, start: int, stop: int, features: bool = True, block: Block | None = None, asked: Block | None = None,
        *, learn: bool = False, unknown: int = 0
    ) -> ChunkScores:
        """Scores of tokens[start:stop]; without `learn` the state does not change.  block, asked: filled with what they are made of.

        unknown: so many targets at the end are not looked at, and have features alone."""
        stream = self._stream(tokens, start, stop, unknown)
        counted, scores = self.counted, (np.empty(stop - start), np.empty((stop - start if features else 0, len(FEATURES)), np.float32))
        blocks = [one for one in (block, asked) if one]
        for one in blocks:
            one.begin()
        (cursor, place), at, reached = walk(), start, start
        cursor[DEPTH] = -1
        while at < stop:
            if reached < 0:
                self._seek(stream, start, cursor, place)
            self.make_room(self.order)
            views = [column[at - start :] for column in scores]
            parts = [one.parts if one else NO_PARTS for one in (block, asked)]
            reached = kernels.count_range(self.state, stream, at, stop - unknown, stop, learn, cursor, place, *views, *parts)
            at = max(at, reached)
            for one in blocks:
                if not one.alone:
                    self.serial = int(one.parts.meta[kernels.SERIAL] + one.parts.meta[kernels.LISTS])
                if one.parts.meta[kernels.NEEDED] > len(one.parts.cells):
                    one.grow()
        return ChunkScores(*scores, counted)

    def update(self, tokens: npt.ArrayLike, start: int, stop: int) -> None:
        """Counts tokens[start:stop]."""
        self.score(tokens, start, stop, False, learn=True)

    # As `score`, but each token is then counted: the same as chunks of one token, in one kernel.
    score_then_update = partialmethod(score, learn=True)

    def ask(self, tokens: npt.ArrayLike, start: int, stop: int) -> Block:
        """What it says of targets start … stop-1, each by itself.  Reads no token behind stop - 2: the last target may be unknown."""
        asked = Block(self, np.arange(start, stop))
        self.score(tokens, start, stop, False, None, asked, unknown=1)
        return asked

    def digest(self) -> str:
        """xxh3_128 of all state, as hex: equal before and after anything that only reads."""
        state = self.state
        nodes, pool = state.nodes[: state.meta[trie.N_NODES], : trie.SPARE], state.pool[: state.meta[trie.POOL_USED]]
        return digest(nodes, pool, state.unigrams, state.root, state.meta, state.discounts, state.settings)

    def _seed(self, table: NgramTable, pools: list[int]) -> None:
        base = np.cumsum([0, *table.sizes()])

        def add(n: int) -> None:
            columns = (table.tokens[n - 1], table.parents[n - 1], table.exact_counts(n))
            context, meta = self.state.nodes[base[n - 2] : base[n - 1]], self.state.meta.copy()
            context[:], meta[trie.POOL_USED] = 0, pools[n - 2]
            fits = seed.seed_order(self.state._replace(meta=meta), *columns, base[n - 2], base[n - 1] if n < self.order else -1)
            total = context[:, trie.TOTAL].astype(np.int64) + table.pruned[n - 1]
            if not fits or total.max(initial=0) > U32_MAX:
                raise SeedgramError(f"a context of order {n} has more than 2^32 - 1 counts; train on less text")
            context[:, trie.TOTAL] = total
            context[:, trie.PRUNED] = table.pruned[n - 1]

        each(add, range(2, self.order + 1))  # orders write to places of their own

    def _stream(self, tokens: npt.ArrayLike, start: int, stop: int, unknown: int = 0) -> Tokens:
        stream = read_only(tokens, self.vocab_size)
        if stream.ndim != 1 or not 0 < start <= stop <= len(stream) + unknown:
            raise SeedgramError(f"targets {start}…{stop} of {stream.shape} tokens: token 0 is given, so 1 ≤ start ≤ stop ≤ length")
        seen = stream[max(0, start - self.order + 1) : stop - unknown]
        if len(seen) and int(seen.max()) >= self.vocab_size:
            raise SeedgramError(f"token {int(seen.max())} is outside the vocabulary of {self.vocab_size}; use the model's tokenizer")
        return stream

    def _seek(self, stream: Tokens, start: int, cursor: I64, place: I64) -> None:
        """Puts the cursor on the context of position `start`, which is not there."""
        raise SeedgramError(f"position {start} was reached without counting those before it; ngram.OnlineCache may skip some")

    def make_room(self, inserts: int) -> None:
        """Enlarges what is too small by half.  Only unused room changes, so what is counted stays the same."""
        state, moved = self.state, inserts * 4 * (self.vocab_size + 2)
        nodes, pool = int(state.meta[trie.N_NODES]), int(state.meta[trie.POOL_USED])
        if nodes + inserts > len(state.nodes):
            self.state = state = state._replace(nodes=_longer(state.nodes, nodes, inserts))
        if pool + moved > len(state.pool):
            self.state = state._replace(pool=_longer(state.pool, pool, moved))


def walk() -> tuple[I64, I64]:
    """Cursor and places."""
    return np.zeros(DEPTH + 1, np.int64), np.empty(2 * DEPTH, np.int64)


def _aligned(rows: int, columns: int) -> U32:
    """(rows, columns) uint32, not initialised, on a cache line: a node record then never straddles two."""
    raw = np.empty(rows * columns + 16, np.uint32)
    skip = -raw.ctypes.data % 64 // 4
    return raw[skip : skip + rows * columns].reshape(rows, columns)


def _longer(array: U32, used: int, extra: int) -> U32:
    """A copy of the `used` first rows, with half as many again and `extra` more behind them."""
    longer = _aligned(used + used // 2 + extra, array.shape[1])
    longer[:used] = array[:used]
    return longer
