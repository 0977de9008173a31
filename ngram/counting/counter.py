"""NgramCache: RowCounter for programs, which have streams and want tables."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ngram.arrays import Tokens, as_tokens, pad_of
from ngram.counting.build_table import build_table
from ngram.counting.row_counter import RowCounter
from ngram.counting.run import Run, edges_of, merge
from ngram.table import NgramTable
from ngram.threads import COUNT, each

SHARE_TOKENS = 1 << 20  # what is shorter is counted on one thread
RANGES_A_THREAD = 4  # added up side by side


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
        if threads < 2 or len(filled) < 2:
            return super()._sum(runs)
        own = [any(run is one for one in self._own(filled)) for run in filled]

        def add(edges: tuple[list[int], list[int]]) -> Run:
            pieces = [run.slice(a, b) for run, a, b in zip(filled, *edges, strict=True)]
            return merge(*pieces, spent=[piece for piece, mine in zip(pieces, own, strict=True) if mine])

        sums = each(add, pairwise(edges_of(filled, size // (RANGES_A_THREAD * threads)).T.tolist()))
        begin = np.cumsum([0, *map(len, sums)]).tolist()
        index = np.concatenate([part.overflow_index + at for part, at in zip(sums, begin, strict=False)])
        overflow = index, np.concatenate([part.overflow_count for part in sums])
        parts, columns = [list(part.columns()[:3]) for part in sums], []
        del sums
        for column in range(3):
            columns.append(np.concatenate([part[column] for part in parts]))
            for part in parts:
                part[column] = part[column][:0].copy()  # lets go of its memory before the next column takes as much
        return Run(self.order, *columns, *overflow, self._bits)

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
