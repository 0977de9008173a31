"""NgramCache: RowCounter for programs, which have streams and want tables."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ngram.arrays import Tokens, as_tokens, pad_of
from ngram.counting.build_table import build_table
from ngram.counting.row_counter import RowCounter
from ngram.counting.run import Run, _give_back, merge
from ngram.counting.whole_stream import fits, run_of_stream
from ngram.table import NgramTable
from ngram.threads import COUNT, each

SHARE_TOKENS = 1 << 22  # counted on a thread of its own, whose buffers take 12 MB
WHOLE_TOKENS = 1 << 20  # a stream of so many is sorted as a whole, where its keys fit
SAMPLES_A_SHARE = 256  # keys looked at to cut ranges of about equal size
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
        if len(stream) >= WHOLE_TOKENS and fits(self.vocab_size, self.order) and int(stream.max()) < pad_of(stream.dtype):
            first = 1 if stream[0] == self.bos else self.history
            _count_part(self, stream, 0, first)
            self._levels.append([run_of_stream(stream, self.vocab_size, self.order, self.bos, first)])
            self.positions += len(stream) - first
            return
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
        parts = RANGES_A_THREAD * min(COUNT, sum(map(len, filled)) // SHARE_TOKENS)
        if parts < 2 * RANGES_A_THREAD or len(filled) < 2 or any(run is self._lent for run in filled):
            return super()._sum(runs)
        samples = np.sort(np.concatenate([run.hi[:: SHARE_TOKENS // SAMPLES_A_SHARE] for run in filled]))
        cuts = np.unique(samples[np.arange(1, parts) * len(samples) // parts])
        edges = np.array([[0, *np.searchsorted(run.hi, cuts), len(run)] for run in filled])

        def add(part: int) -> Run:
            pieces = [run.slice(a, b) for run, a, b in zip(filled, edges[:, part], edges[:, part + 1], strict=True)]
            total = merge(*pieces, spent=pieces)
            for piece in pieces:
                if piece is not total:
                    _give_back(piece, len(piece))
            return total

        sums = each(add, range(edges.shape[1] - 1))
        begin, over = np.cumsum([0, *map(len, sums)]), [part.overflow_index for part in sums]
        hi, lo, counts = np.empty(begin[-1], np.uint64), np.empty(begin[-1], np.uint64), np.empty(begin[-1], np.uint16)

        def move(part: int) -> None:
            for column, values in zip((hi, lo, counts), sums[part].columns(), strict=False):
                column[begin[part] : begin[part + 1]] = values
            _give_back(sums[part], len(sums[part]))

        each(move, range(len(sums)))
        index = np.concatenate([places + at for places, at in zip(over, begin, strict=False)])
        return Run(self.order, hi, lo, counts, index, np.concatenate([part.overflow_count for part in sums]), self._bits)

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
