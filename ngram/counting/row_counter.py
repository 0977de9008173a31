"""RowCounter: counts n-grams while something else trains, in runs that are merged level by level (docs/architecture.md)."""

from functools import partial

import numpy as np
import numpy.typing as npt

from ngram.arrays import Tokens, as_tokens, pad_of, token_type
from ngram.counting import kernels
from ngram.counting.keys import slot_bits, slot_mask
from ngram.counting.run import Run, merge, run_of_keys
from ngram.errors import SeedgramError
from ngram.table import check_order
from ngram.threads import Worker

BUFFER_POSITIONS = 1 << 18  # sorted at once: tokens and sorted positions, 10 bytes each, stay in the caches
FAN_IN = 8  # runs merged at once
QUEUE_ROWS = 256  # microsteps that may wait before `submit` blocks: a large merge takes as long as dozens of steps on a fast GPU


class RowCounter:
    """Exact counts of all n-grams up to an order, from token rows.

    vocab_size ≤ 2^18; order: of the longest n-grams, 1…8; bos: the token that opens a document.
    Raises SeedgramError on impossible settings or a token outside the vocabulary."""

    def __init__(self, vocab_size: int, order: int = 7, bos: int = 1, buffer_positions: int = BUFFER_POSITIONS):
        self.vocab_size, self.order, self.bos = vocab_size, check_order(order), bos
        self.history = self.order - 1  # tokens that each row carries in front of its counted positions
        self.positions = 0
        self._capacity = buffer_positions
        self._bits, self._type = slot_bits(vocab_size, self.order), token_type(vocab_size)
        self._layout = np.array([*slot_mask(self.order, self._bits), self._bits, pad_of(self._type)], np.uint64)
        slots = buffer_positions + self.history  # rows bring their histories
        self._tokens, self._keys = np.empty(slots, self._type), np.empty((slots, 2), np.uint64)
        self._sorted = np.empty((2, slots), np.uint32)
        self._fill = 0
        self._worker = Worker("ngram-cache", QUEUE_ROWS)
        self._levels: list[list[Run]] = [[]]
        self._lent: Run | None = None

    def warm_up(self) -> Run:
        """Compiles the counting kernels on a few tokens, whose counts it returns; counts nothing itself."""
        small = RowCounter(self.vocab_size, self.order, self.bos, buffer_positions=8)
        small.update(np.zeros((1, self.history + 64), self._type))
        return small.run()

    def update(self, rows: npt.ArrayLike) -> None:
        """Counts row[history:] of each row, at once.  rows: (B, history + T) uint16, PAD where there is no token; uint32 above 65,535 tokens."""
        self.drain()
        self._count(self._as_rows(rows), self.history)

    def submit(self, rows: npt.ArrayLike) -> None:
        """As `update`, on a background thread; `rows` is copied.  Raises what an earlier submission raised."""
        self._worker.submit(partial(self._count, self._as_rows(rows).copy(), self.history))

    def queued(self) -> int:
        """Submissions that wait."""
        return self._worker.waiting()

    def drain(self) -> None:
        """Waits until everything submitted is counted and the thread has ended.  Raises what a submission raised."""
        self._worker.wait()

    def run(self) -> Run:
        """Everything counted so far as one run; the same counts give the same arrays, however they were batched."""
        self.drain()
        self._flush()
        self._lent = self._sum([Run.empty(self.order, self._bits), *(run for level in self._levels for run in level)])
        self._levels = [[], [self._lent]]
        return self._lent

    def _count(self, rows: Tokens, given: int) -> None:
        """Counts row[given:] of each row, in parts that fit the buffer; each part brings `history` tokens that stand before it."""
        counted = rows.shape[1] - given
        if counted <= 0:
            return
        step = max(1, self._capacity // (counted + self.history))
        width = min(counted, self._capacity)
        for b in range(0, len(rows), step):
            for start in range(given, rows.shape[1], width):
                self._append(np.ascontiguousarray(rows[b : b + step, start - self.history : start + width]))

    def _append(self, part: Tokens) -> None:
        if self._fill + part.size > len(self._tokens):
            self._flush()
        counted = kernels.fill_keys(part, self.history, self.vocab_size, self.bos, self._layout, self._tokens, self._keys, self._fill)
        if counted < 0:
            token = int(part.reshape(-1)[-1 - counted])
            if token < self.vocab_size:
                raise SeedgramError(f"token {token}: keys of seven tokens have no room for it as context; count orders up to 6")
            raise SeedgramError(f"token {token} is outside the vocabulary of {self.vocab_size}; use the tokenizer of the shards")
        self.positions += counted
        self._fill += part.size

    def _flush(self) -> None:
        """Sorts the collected positions into a run of level 0; FAN_IN runs of one level become one of the next."""
        if not self._fill:
            return
        run = run_of_keys(self._tokens, self._keys, self._sorted, self._fill, self.order, self.vocab_size)
        self._fill = 0
        for level in self._levels:
            level.append(run)
            if len(level) < FAN_IN:
                return
            run = self._sum(level)
            level.clear()
        self._levels.append([run])

    def _sum(self, runs: list[Run]) -> Run:
        """Gives back the memory of those runs that no caller of `run` has."""
        return merge(*runs, spent=[run for run in runs if run is not self._lent])

    def _as_rows(self, rows: npt.ArrayLike) -> Tokens:
        array = np.asarray(rows)
        if array.ndim != 2 or array.shape[1] < self.history:
            raise SeedgramError(f"rows of shape {array.shape}: each needs {self.history} tokens of history and the tokens to count")
        return as_tokens(array, self.vocab_size)
