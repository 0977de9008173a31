"""Mixture: combines orders, words, gaps, recency and matches at every node of a tree, and learns as it scores.

It predicts better than one smoothing formula because it learns from the scored text how much to trust each source.  A token's
probability is a product of yes-or-no decisions (huffman.py), so every row sums to 1 by construction.
A part for ScoreFirst that starts from a table's counts.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ngram.arrays import F32, F64, I64, U8, Tokens, as_tokens, digest, token_type
from ngram.errors import SeedgramError
from ngram.mixture import successors
from ngram.mixture import walk as kernels
from ngram.mixture.context_sets import BEGINS, EXTRAS
from ngram.mixture.evidence import KINDS, LEVELS
from ngram.mixture.huffman import huffman_tree
from ngram.mixture.nodes import DEPTHS, KNOTS, MATCH_ROWS, MIXERS, PAIR_ROWS, Learned
from ngram.mixture.walk import State
from ngram.online.match import BUCKETS, INDEX_BITS, MIN_LENGTHS, WINDOW
from ngram.online.stream_cache import ChunkScores
from ngram.table import NgramTable

# Columns of ChunkScores.features: functions of the context alone.
FEATURES: tuple[str, ...] = (
    "matched_order",  # tokens in the longest context seen before
    "log_total",  # log1p of its total count
    "log_distinct",  # log1p of its number of different successors
    "backoff",  # its λ
    "log_match",  # log1p of the length of the match, 0 without one
    "match_confidence",  # share of past successes at that length, 0 without one
)
# sum of `recent`, in occurrences, at which the list of a context of 0, 1, … tokens fades; measured on books, train split
FADE_AT = (480, 120, 30, 14, 7, 4, 4, 4)
FADE_EXTRAS = 3
MAX_LIMIT = 60_000 // successors.UNIT
_LEVEL_SIZES = np.array([0, 0.3, 1, 1.5, 2, 3, 4, 6, 10, 20, 40, 100, 400, 1000])  # occurrences of a level, for the first guess


# Speeds of learning: of the mixers, of the one that joins them, the least of the maps, and of the correction tables.
RATES = (0.009, 0.002, 0.002, 0.02)
FADE = 160  # 256ths of `recent` left after fading


class Mixture:
    """Scores and learns; tokens: the whole stream (N,), BOS before each document, targets tokens[start:stop], start ≥ 1.

    table: trained counts.  classes: (V,) uint8 of context_sets.word_classes, or None when pieces are unknown.
    A score depends neither on tokens to the right nor, except through what was learned, on anything before a BOS."""

    def __init__(self, table: NgramTable, classes: U8 | None = None) -> None:
        self.order, self.vocab_size, self.bos = table.order, table.vocab_size, table.bos
        self._contexts, self._matches = table.order + EXTRAS, len(MIN_LENGTHS)
        self._inputs = table.order + 1 + 2 * self._contexts + self._matches
        limits = [*FADE_AT[: self.order], *[FADE_EXTRAS] * EXTRAS]
        entries = sum(table.sizes())
        slots = 1 << max(10, (2 * (entries - len(table.tokens[-1]) * (self.order > 1)) + 64).bit_length())
        self.state = State(
            lists=successors.empty(slots, entries + 4096, token_type(self.vocab_size)),
            tree=huffman_tree(_frequencies(table)),
            learned=self._unlearned(),
            discounts=np.array(table.discounts, np.float64),
            classes=np.full(self.vocab_size, BEGINS, np.uint8) if classes is None else np.asarray(classes, np.uint8),
            limits=np.minimum(limits, MAX_LIMIT).astype(np.int64) * successors.UNIT,
            settings=np.array([self.bos, self.vocab_size, FADE], np.int64),
            past=np.zeros(1 << 12, token_type(self.vocab_size)),
            size=np.zeros(1, np.int64),
            indices=np.zeros((self._matches, 1 << INDEX_BITS), np.int64),
            least=np.array(MIN_LENGTHS, np.int64),
        )
        if len(self.state.classes) != self.vocab_size:
            raise SeedgramError(
                f"{len(self.state.classes)} word classes for {self.vocab_size} tokens; make them from the model's tokenizer"
            )
        self._seed(table)
        self._scratch = kernels.new_scratch(self._contexts, self._matches, self._inputs)

    @property
    def learned(self) -> int:
        """Tokens learned since the table."""
        return int(self.state.size[0])

    def score(self, tokens: npt.ArrayLike, start: int, stop: int, features: bool = True) -> ChunkScores:
        """Scores of tokens[start:stop]; nothing is learned."""
        stream = self._stream(tokens, start, stop)
        scores = self._blank(stop - start, features)
        kernels.score_range(self.state, self._scratch, stream, start, stop, False, *scores)
        return ChunkScores(*scores)

    def update(self, tokens: npt.ArrayLike, start: int, stop: int) -> None:
        """Learns tokens[start:stop], one after the other."""
        self.score_then_update(tokens, start, stop, features=False)

    def score_then_update(self, tokens: npt.ArrayLike, start: int, stop: int, features: bool = True) -> ChunkScores:
        """Each token is scored and then learned: the same as chunks of one token, in one kernel."""
        stream = self._stream(tokens, start, stop)
        scores = self._blank(stop - start, features)
        at = start
        while at < stop:
            self._make_room()
            views = [column[at - start :] if len(column) else column for column in scores]
            at = kernels.score_range(self.state, self._scratch, stream, at, stop, True, *views)
        return ChunkScores(*scores)

    def rows(self, tokens: npt.ArrayLike, positions: npt.ArrayLike) -> F64:
        """(P, V) float64 distributions of the tokens at `positions` (1…N), given what stands before them in `tokens`."""
        wanted = np.asarray(positions, np.int64)
        first, last = (int(wanted.min()), int(wanted.max())) if len(wanted) else (1, 1)
        stream = as_tokens(np.append(np.asarray(tokens), 0), self.vocab_size)  # position N: nothing is read from it
        self._stream(stream, first, last)
        rows = np.empty((len(wanted), self.vocab_size))
        for row, t in zip(rows, wanted, strict=True):
            self._row(stream, int(t), row)
        return rows

    def digest(self) -> str:
        """xxh3_128 of all state that a score can depend on, as hex."""
        lists = self.state.lists
        pool = int(lists.fill[successors.POOL])
        return digest(*(part[:pool] if part.shape == lists.tokens.shape else part for part in _arrays(self.state)))

    def _row(self, stream: Tokens, t: int, row: F64) -> None:
        nodes = max(1, self.vocab_size - 1)
        sums = np.zeros((nodes, self._contexts, 2, KINDS), np.int64)
        kernels.fill_row(self.state, self._scratch, sums, stream, t, np.zeros((nodes, 2)), row)

    def _blank(self, size: int, features: bool) -> tuple[F64, F32]:
        return np.empty(size), np.empty((size if features else 0, len(FEATURES)), np.float32)

    def _stream(self, tokens: npt.ArrayLike, start: int, stop: int) -> Tokens:
        stream = as_tokens(tokens, self.vocab_size)
        if stream.ndim != 1 or not 0 < start <= stop <= len(stream):
            raise SeedgramError(f"targets {start}…{stop} of {stream.shape} tokens: token 0 is given, so 1 ≤ start ≤ stop ≤ length")
        seen = stream[max(0, start - WINDOW) : stop]
        if len(seen) and int(seen.max()) >= self.vocab_size:
            raise SeedgramError(f"token {int(seen.max())} is outside the vocabulary of {self.vocab_size}; use the model's tokenizer")
        return stream

    def _seed(self, table: NgramTable) -> None:
        """Successor lists from the table: Kneser–Ney's, and those of words and gaps, as far as its longest n-grams tell."""
        grams = np.zeros((1, 0), token_type(self.vocab_size))  # all n-grams of order n-1, the contexts of order n
        for n in range(1, self.order + 1):
            hashes = kernels.hash_rows(grams)
            columns = (table.parents[n - 1], table.tokens[n - 1], table.exact_counts(n), table.pruned[n - 1])
            successors.seed_order(self.state.lists, hashes, *columns, float(self.state.limits[n - 1]) * 0.6)
            grams = np.column_stack([grams[table.parents[n - 1]], table.tokens[n - 1]])
        counts, row = table.exact_counts(self.order).astype(np.int64), 0
        while self.order > 1 and row < len(grams):
            self._make_room()
            row = kernels.seed_extras(self.state, grams, counts, row)

    def _make_room(self) -> None:
        """Enlarges what is too small.  When that happens depends on what was learned, never on how it was split over calls."""
        state = self.state
        if state.size[0] >= len(state.past):
            self.state = state = state._replace(past=np.concatenate([state.past, np.zeros_like(state.past)]))
        while not successors.has_room(state.lists, self._contexts, self.vocab_size):
            lists = state.lists
            if lists.fill[successors.SLOTS] + self._contexts > len(lists.keys) // 8 * 5:
                wider = lists._replace(keys=np.zeros(2 * len(lists.keys), np.int64), blocks=np.zeros((2 * len(lists.keys), 4), np.uint32))
                successors.rehash(lists, wider)
            else:
                extra = max(len(lists.tokens) // 2, self._contexts * (2 * self.vocab_size + 4))
                wider = lists._replace(**{name: _longer(getattr(lists, name), extra) for name in ("tokens", "count", "recent")})
            self.state = state = state._replace(lists=wider)

    def _unlearned(self) -> Learned:
        """What it starts from: weights mostly on the longest orders, maps near the shares of the counts, corrections that change nothing."""
        nodes, contexts = max(1, self.vocab_size - 1), self._contexts
        sizes = [nodes, (self.order + 1) * DEPTHS, 3 * (BUCKETS + 1), self.vocab_size, 8 * 64]
        weights = np.zeros((sum(sizes), self._inputs))
        weights[:, max(0, self.order - 3) : self.order] = [0.2, 0.05, 0.4][-min(3, self.order) :]
        weights[:, self.order + 1 :: 2] = 0.03
        guess = (_LEVEL_SIZES[None, :] + 0.4) / (_LEVEL_SIZES[None, :] + _LEVEL_SIZES[:, None] + 0.8)
        knots = 1.0 / (1.0 + np.exp(8.0 - 0.5 * np.arange(KNOTS)))
        return Learned(
            maps=np.tile(guess, (2, contexts, 1, 1)),
            map_tries=np.zeros((2, contexts, LEVELS, LEVELS)),
            match=np.full((self._matches, BUCKETS, MATCH_ROWS), 0.9),
            match_tries=np.zeros((self._matches, BUCKETS, MATCH_ROWS)),
            weights=weights,
            first=np.cumsum([0, *sizes[:-1]]),
            join=np.full((nodes, MIXERS), 1.0 / MIXERS),
            by_node=np.tile(knots, (nodes, 1)),
            by_pair=np.tile(knots, (PAIR_ROWS, 1)),
            rates=np.array(RATES),
        )


def _longer(array: npt.NDArray[np.generic], extra: int) -> npt.NDArray[np.generic]:
    return np.concatenate([array, np.zeros(extra, array.dtype)])


def _frequencies(table: NgramTable) -> I64:
    """(V,) how often each token occurs, as far as a table can tell: its counts at the lowest and the highest order."""
    counts = table.exact_counts(1).astype(np.int64)
    if table.order > 1:
        top = table.order
        counts += np.bincount(table.tokens[top - 1], weights=table.exact_counts(top), minlength=table.vocab_size).astype(np.int64)
    return counts


def _arrays(state: State) -> Iterator[npt.NDArray[np.generic]]:
    """Every array of the state and of its parts."""
    for value in state:
        yield from value if isinstance(value, tuple) else (value,)
