"""OnlineCache: StreamCache for programs, which may give histories of their own and count any part of a stream."""

import numpy as np
import numpy.typing as npt

from ngram.arrays import F32, F64, I64, NARROW, Tokens, as_tokens, pad_of
from ngram.errors import SeedgramError
from ngram.online import off_stream
from ngram.online.stream_cache import FEATURES, StreamCache
from ngram.table import check_order


def histories(tokens: npt.ArrayLike, positions: npt.ArrayLike, order: int, bos: int) -> Tokens:
    """What may be looked at when predicting `tokens[position]`: (P, order-1) of the tokens' type, PAD on the left.

    tokens: (N,) uint16 or uint32 stream; positions: (P,) integers in 0…N.  Never reaches past a BOS, which is its first token."""
    stream = tokens if isinstance(tokens, np.ndarray) and tokens.dtype == np.uint32 else as_tokens(tokens, NARROW)
    ends = np.asarray(positions, dtype=np.int64)
    out = np.full((len(ends), check_order(order) - 1), pad_of(stream.dtype), stream.dtype)
    open_ = np.ones(len(ends), bool)  # histories that no BOS has closed yet
    for back in range(1, order):
        open_ &= ends - back >= 0
        token = stream[np.maximum(ends - back, 0)] if len(stream) else np.zeros(len(ends), stream.dtype)
        out[open_, order - 1 - back] = token[open_]
        open_ &= token != bos
    return out


class OnlineCache(StreamCache):
    """A cache that starts with the counts of a table and grows.  Updates may skip positions: contexts that lack are then made, with count 0."""

    def fill(self, histories: Tokens, rows_PV: F64, features_PF: F32) -> None:
        """Writes `rows` of the histories and their features into given arrays; threads may fill parts of the arrays side by side."""
        off_stream.fill_rows(self.state, self._histories(histories), rows_PV, features_PF)

    def rows(self, histories: npt.ArrayLike) -> F64:
        """(P, V) float64 distributions, each summing to 1.  histories: (P, order-1) tokens, PAD on the left."""
        past = self._histories(histories)
        rows_PV, none = np.empty((len(past), self.vocab_size)), np.empty((0, len(FEATURES)), np.float32)
        off_stream.fill_rows(self.state, past, rows_PV, none)
        return rows_PV

    def _histories(self, histories: npt.ArrayLike) -> Tokens:
        past = as_tokens(histories, self.vocab_size)
        known = past[past != pad_of(past.dtype)]
        if past.ndim != 2 or past.shape[1] != self.order - 1 or (len(known) and int(known.max()) >= self.vocab_size):
            raise SeedgramError(f"histories of shape {past.shape} must be (P, {self.order - 1}) tokens under {self.vocab_size}")
        return past

    def _seek(self, stream: Tokens, start: int, cursor: I64, place: I64) -> None:
        self.make_room(self.order * self.order)
        off_stream.seek_making(self.state, stream, start, cursor, place)
