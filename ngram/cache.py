"""NgramCache: counts n-grams while something else trains.

Positions are collected until there are a million keys, sorted, and merged into a few runs of rising size, as a
log-structured merge tree does: each key is merged about log2(positions / a million) times.
"""

import queue
import threading
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ngram import kernels
from ngram.contexts import check_orders, slot_mask
from ngram.errors import SeedgramError
from ngram.runs import Run, build_table, merge, run_of_keys
from ngram.table import PAD, NgramTable

BUFFER_POSITIONS = 1 << 20  # keys sorted at once: 2 × 16 MB, so the radix passes stay near the caches
QUEUE_ROWS = 256  # microsteps that may wait before `submit` blocks: a large merge takes as long as dozens of steps on a fast GPU


class NgramCache:
    """Exact counts of all n-grams up to an order, from token rows.

    vocab_size ≤ 65,535; orders: (lowest, top), top ≤ 8; bos: the token that opens a document.
    `update` counts at once; `submit` counts on a background thread whose kernels hold no interpreter lock.
    Raises SeedgramError on impossible settings or a token outside the vocabulary."""

    def __init__(self, vocab_size: int, orders: tuple[int, int] = (2, 7), bos: int = 1, buffer_positions: int = BUFFER_POSITIONS):
        if not 1 <= vocab_size <= PAD:
            raise SeedgramError(f"vocabulary of {vocab_size} is outside 1…{PAD}; choose another tokenizer")
        if not 1 <= orders[0] <= orders[1]:
            raise SeedgramError(f"orders {orders[0]}-{orders[1]} make no range; write them as 2-7")
        self.vocab_size, self.orders, self.bos = vocab_size, orders, bos
        self.order = check_orders(orders[1])
        self.positions = 0
        self._capacity = buffer_positions
        self._masks = np.array(slot_mask(self.order), np.uint64)
        self._keys = np.empty((buffer_positions, 2), np.uint64)
        self._scratch = np.empty((buffer_positions, 2), np.uint64)
        self._fill = 0
        self._runs: list[Run] = []
        self._queue: queue.Queue[npt.NDArray[np.uint16] | None] = queue.Queue(QUEUE_ROWS)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def history(self) -> int:
        """Tokens that each row carries in front of its counted positions."""
        return self.order - 1

    def warm_up(self) -> None:
        """Compiles the counting kernels on a few tokens; counts nothing.  Compiling holds the interpreter lock."""
        small = NgramCache(self.vocab_size, self.orders, self.bos, buffer_positions=8)
        small.count_stream(np.zeros(64, np.uint16))
        small.run()

    def update(self, rows: npt.ArrayLike) -> None:
        """Counts row[history:] of each row.  rows: (B, history + T) uint16, PAD where there is no token."""
        self.drain()
        self._count(_as_rows(rows, self.history))

    def submit(self, rows: npt.ArrayLike) -> None:
        """As `update`, on the background thread; `rows` is copied.  Raises what an earlier submission raised."""
        self._raise_error()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="ngram-cache", daemon=True)
            self._thread.start()
        self._queue.put(_as_rows(rows, self.history).copy())

    def drain(self) -> None:
        """Waits until everything submitted is counted.  Raises what a submission raised."""
        if self._thread is not None:
            self._queue.join()
        self._raise_error()

    def close(self) -> None:
        """Waits for the background thread and ends it; the counts stay."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._raise_error()

    def count_stream(self, tokens: npt.ArrayLike) -> None:
        """Counts every token of a stream (N,) uint16 but the first, which is given."""
        stream = np.asarray(tokens).reshape(-1)
        self.drain()
        step = self._capacity
        for start in range(0, len(stream), step):
            # the first token is context only: it sits in the history part of the first row
            low = max(start - self.history, 0)
            row = stream[low : start + step].reshape(1, -1)
            self._count(_as_rows(row, 0), start - low if start else 1)

    def run(self) -> Run:
        """Everything counted so far as one run; the same counts give the same arrays, however they were batched."""
        self.drain()
        self._flush()
        while len(self._runs) > 1:
            self._merge_last()
        return self._runs[0] if self._runs else Run.empty(self.order)

    def table(self, min_raw: list[int] | tuple[int, ...] | None = None) -> NgramTable:
        """The Kneser–Ney table of the counts; min_raw as in runs.build_table."""
        return build_table(self.run(), self.vocab_size, self.bos, self.orders, min_raw)

    def state_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """All state as plain arrays, for a checkpoint; `from_state` goes on from there bit-identically."""
        run = self.run()
        settings = np.array([self.vocab_size, *self.orders, self.bos, self.positions], np.int64)
        names = ("hi", "lo", "counts", "overflow_index", "overflow_count")
        return {"settings": settings, **dict(zip(names, run.columns(), strict=True))}

    @classmethod
    def from_state(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> "NgramCache":
        """The cache that `state_arrays` described."""
        vocab_size, low, top, bos, positions = (int(value) for value in arrays["settings"].astype(np.int64))
        cache = cls(vocab_size, (low, top), bos)
        columns = (arrays["hi"].astype(np.uint64), arrays["lo"].astype(np.uint64), arrays["counts"].astype(np.uint16))
        cache._runs = [Run(top, *columns, arrays["overflow_index"].astype(np.int64), arrays["overflow_count"].astype(np.int64))]
        cache.positions = positions
        return cache

    def _work(self) -> None:
        while True:
            rows = self._queue.get()
            try:
                if rows is None:
                    return
                if self._error is None:
                    self._count(rows)
            except BaseException as error:  # kept for the next call of the owner's thread
                self._error = error
            finally:
                self._queue.task_done()

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _count(self, rows: npt.NDArray[np.uint16], history: int | None = None) -> None:
        history = self.history if history is None else history
        counted = rows.shape[1] - history
        if counted <= 0:
            return
        step = max(1, self._capacity // counted)
        width = min(counted, self._capacity)
        for b in range(0, len(rows), step):
            for start in range(0, counted, width):
                lead = min(history + start, self.history)
                part = rows[b : b + step, history + start - lead : history + start + width]
                self._append(np.ascontiguousarray(part), lead)

    def _append(self, part: npt.NDArray[np.uint16], history: int) -> None:
        if self._fill + part.shape[0] * (part.shape[1] - history) > self._capacity:
            self._flush()
        fill = kernels.fill_keys(part, history, self.vocab_size, self.bos, self._masks, self._keys, self._fill)
        if fill < 0:
            token = int(part.reshape(-1)[-1 - fill])
            raise SeedgramError(f"token {token} is outside the vocabulary of {self.vocab_size}; use the tokenizer of the shards")
        self.positions += fill - self._fill
        self._fill = fill

    def _flush(self) -> None:
        """Sorts the collected keys into a run and merges runs of about equal length.

        Half as long again, not twice: two merged runs are a little shorter than their sum, and a rule of twice would
        then merge nearly every time."""
        if self._fill:
            self._runs.append(run_of_keys(self._keys, self._scratch, self._fill, self.order, self.vocab_size))
            self._fill = 0
        while len(self._runs) > 1 and 2 * len(self._runs[-2]) < 3 * len(self._runs[-1]):
            self._merge_last()

    def _merge_last(self) -> None:
        last = self._runs.pop()
        self._runs[-1] = merge(self._runs[-1], last)


def _as_rows(rows: npt.ArrayLike, history: int) -> npt.NDArray[np.uint16]:
    array = np.asarray(rows)
    if array.ndim != 2 or array.shape[1] < history:
        raise SeedgramError(f"rows of shape {array.shape}: each needs {history} tokens of history and the tokens to count")
    if array.dtype != np.uint16 and array.size and (array.min() < 0 or array.max() > PAD):
        raise SeedgramError(f"tokens {array.min()}…{array.max()} do not fit 16 bits; use a smaller vocabulary")
    return np.ascontiguousarray(array, dtype=np.uint16)
