"""Cache and match model for streams that advance side by side, a column of tokens at a time: what the coder of many streams needs."""

import numpy as np

from ngram.arrays import F32, F64, I64, Array, Tokens, read_only
from ngram.compiled import njit
from ngram.errors import SeedgramError
from ngram.online.kernels import count_token
from ngram.online.match import MatchState, history_start, learn_token, look, new_state
from ngram.online.off_stream import seek_making
from ngram.online.stream_cache import StreamCache, walk
from ngram.online.trie import State, has_room, resolve, seek, touch


@njit
def _count_column(state: State, streams_ST: Array, rows: Array, at: int, column: int, cursor: Array, place: Array) -> int:
    """Counts the token in `column` of streams rows[at], rows[at + 1], … in turn, each after all before it; column ≥ 1.

    The same as `count_range` over [column, column + 1) of one stream after another.  Returns the index in `rows` where it
    stopped for want of room."""
    order = state.settings[0]
    for i in range(at, len(rows)):
        if not has_room(state, order * order + order):
            return i
        tokens = streams_ST[rows[i]]
        if seek(state, tokens, column, cursor, place):
            seek_making(state, tokens, column, cursor, place)
        token = np.int64(tokens[column])
        touch(state, cursor, place, token)
        resolve(state, cursor, place, token)
        count_token(state, cursor, place, token)
    return len(rows)


@njit
def _fill_rows(state: MatchState, past: Array, size: int, streams: Array, where: Array, rows: Array, features: Array, found: Array) -> None:
    """What is known of position where[i, 1] of stream where[i, 0], nothing learned.

    Writes rows (P, V), features (P, 2) float32 and found (P, 2) int64: the candidate or -1, and its verified length."""
    for i in range(len(where)):
        tokens, t = streams[where[i, 0]], where[i, 1]
        candidate, length, sure = look(state, past, size, tokens, t, history_start(tokens, t, state.settings[0]))
        rows[i, :] = (1.0 - sure) / rows.shape[1]
        if candidate >= 0:
            rows[i, candidate] += sure
        features[i, 0], features[i, 1] = np.log1p(np.float64(length)), sure
        found[i, 0], found[i, 1] = candidate, length


@njit
def _learn_column(state: MatchState, past: Array, streams: Array, column: int, active: Array, found: Array) -> None:
    """The active streams' tokens of a column, in that order.  past: the streams (S, T) themselves, place s·T + column."""
    for s in active:
        low = history_start(streams[s], column, state.settings[0])
        learn_token(state, past, s * streams.shape[1] + column, streams[s], column, low, found[s, 0], found[s, 1])


def update_column(cache: StreamCache, streams_ST: Tokens, rows: I64, column: int) -> None:
    """Counts the token in `column` ≥ 1 of the streams `rows`, in that order: `OnlineCache.update` of each, in one kernel."""
    if streams_ST.ndim != 2 or not 0 < column < streams_ST.shape[1]:
        raise SeedgramError(f"column {column} of streams {streams_ST.shape}: column 0 is given, so 1 ≤ column < length")
    seen = streams_ST[rows, max(0, column - cache.order + 1) : column + 1]
    if seen.size and int(seen.max()) >= cache.vocab_size:
        raise SeedgramError(f"token {int(seen.max())} is outside the vocabulary of {cache.vocab_size}; use the model's tokenizer")
    cursor, place, at = *walk(), 0
    while at < len(rows):
        cache.make_room(cache.order * cache.order + cache.order)
        at = _count_column(cache.state, read_only(streams_ST, cache.vocab_size), rows, at, column, cursor, place)


class MatchColumns:
    """The match model for S streams that advance side by side and share what they learn, as the cache does.

    tokens: (S, T) uint16, filled by the caller a column at a time, BOS in column 0; they are the past that is searched.  With
    one stream this is MatchModel on it, to the last bit."""

    def __init__(self, tokens: Tokens, bos: int) -> None:
        self.tokens, self.state = tokens, new_state(bos)
        self._where = np.column_stack([np.arange(len(tokens)), np.zeros(len(tokens), np.int64)])
        self._found = np.full((len(tokens), 2), -1, np.int64)

    def fill(self, column: int, out_SV: F64, out_SF: F32) -> None:
        """Distributions and features of a column, of which nothing is known, given those before it."""
        self._where[:, 1] = column
        flat = self.tokens.reshape(-1)
        _fill_rows(self.state, flat, len(flat), self.tokens, self._where, out_SV, out_SF, self._found)

    def learn(self, column: int, active: I64) -> None:
        """The active streams' tokens of the column that was filled last."""
        _learn_column(self.state, self.tokens.reshape(-1), self.tokens, column, active, self._found)
