"""NgramCache: RowCounter for programs, which have streams and want tables."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ngram.arrays import Tokens, as_tokens, pad_of
from ngram.counting.build_table import build_table
from ngram.counting.row_counter import RowCounter
from ngram.counting.run import Run, blank, edges_of, give_back, merge
from ngram.table import NgramTable
from ngram.threads import COUNT, each

SHARE_TOKENS = 1 << 22  # counted on a thread of its own, whose buffers take 12 MB
RANGES_A_THREAD = 8  # added up side by side, so that little is held twice


class NgramCache(RowCounter):
    """Exact counts of all n-grams up to an order, from token rows or whole streams.

    vocab_size ≤ 2^18; order: of the longest n-grams, 1…8; bos: the token that opens a document.
    `update` and `count_stream` count at once; `submit` counts on a background thread whose kernels hold no interpreter lock.
    Raises SeedgramError on impossible settings or a token outside the vocabulary."""

    def count_stream(self, tokens: npt.ArrayLike) -> None:
        """Counts every token of a stream (N,) but the first, which is given; a long one in shares side by side."""
        stream = as_tokens(tokens, self.vocab_size).reshape(-1)
        self.drain()
        shares = min(COUNT, len(stream) // SHARE_TOKENS)
        if shares < 2:
            _count_part(self, stream, 0, len(stream))
            return

        def share(edges: tuple[int, int]) -> Run:
            counter = RowCounter(self.vocab_size, self.order, self.bos, self._capacity)
            _count_part(counter, stream, *edges)
            return counter.run()

        runs = each(share, pairwise(np.linspace(0, len(stream), shares + 1).astype(int).tolist()))
        self._levels.append(runs)
        self.positions += sum(run.total() for run in runs)

    def _sum(self, runs: list[Run]) -> Run:
        """As RowCounter's, but ranges of keys are added up side by side where there is more than one thread."""
        filled = [run for run in runs if len(run)]
        size = sum(map(len, filled))
        threads = min(COUNT, size // SHARE_TOKENS)
        if threads < 2 or len(filled) < 2 or any(run is self._lent for run in filled):
            return super()._sum(runs)

        def add(edges: tuple[list[int], list[int]]) -> Run:
            pieces = [run.slice(a, b) for run, a, b in zip(filled, *edges, strict=True)]
            return merge(*pieces, spent=pieces)

        sums = each(add, pairwise(edges_of(filled, size // (RANGES_A_THREAD * threads)).T.tolist()))
        begin = np.cumsum([0, *map(len, sums)]).tolist()
        columns = blank(begin[-1], 0)[:3]

        def move(number: int) -> None:
            for column, values in zip(columns, sums[number].columns()[:3], strict=True):
                column[begin[number] : begin[number + 1]] = values
            give_back(sums[number], len(sums[number]))

        each(move, range(len(sums)))
        index = np.concatenate([part.overflow_index + at for part, at in zip(sums, begin, strict=False)])
        return Run(self.order, *columns, index, np.concatenate([part.overflow_count for part in sums]), self._bits)

    def table(self, min_raw: list[int] | tuple[int, ...] | None = None) -> NgramTable:
        """The Kneser–Ney table of the counts; min_raw as in `build_table`."""
        return build_table(self.run(), self.vocab_size, self.bos, min_raw=min_raw)


def _count_part(counter: RowCounter, stream: Tokens, first: int, last: int) -> None:
    """Counts tokens first…last-1 of a stream, but not its own first."""
    before = np.concatenate([np.full(counter.history, pad_of(stream.dtype), stream.dtype), stream[max(0, first - counter.history) : first]])
    for start in range(first, last, counter._capacity):
        row = np.concatenate([before[len(before) - counter.history :], stream[start : min(last, start + counter._capacity)]])
        counter._count(row[None], counter.history + (start == 0))
        before = row
