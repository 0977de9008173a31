"""NgramCache: RowCounter for programs, which have streams and want tables."""

import numpy as np
import numpy.typing as npt

from ngram.arrays import as_tokens, pad_of
from ngram.counting.build_table import build_table
from ngram.counting.row_counter import RowCounter
from ngram.table import NgramTable


class NgramCache(RowCounter):
    """Exact counts of all n-grams up to an order, from token rows or whole streams.

    vocab_size ≤ 2^18; order: of the longest n-grams, 1…8; bos: the token that opens a document.
    `update` and `count_stream` count at once; `submit` counts on a background thread whose kernels hold no interpreter lock.
    Raises SeedgramError on impossible settings or a token outside the vocabulary."""

    def count_stream(self, tokens: npt.ArrayLike) -> None:
        """Counts every token of a stream (N,) but the first, which is given."""
        stream = as_tokens(tokens, self.vocab_size).reshape(-1)
        self.drain()
        before = np.full(self.history, pad_of(self._type), self._type)
        for start in range(0, len(stream), self._capacity):
            row = np.concatenate([before, stream[start : start + self._capacity]])
            self._count(row[None], self.history + (start == 0))
            before = row[len(row) - self.history :]

    def table(self, min_raw: list[int] | tuple[int, ...] | None = None) -> NgramTable:
        """The Kneser–Ney table of the counts; min_raw as in `build_table`."""
        return build_table(self.run(), self.vocab_size, self.bos, min_raw=min_raw)
