"""Run → table within a budget of memory: the same table as build_table's, bit for bit.

Tokens are grouped so that all n-grams that begin with those of a group fit into the budget; for each group the run is read once from front to back.
What stays in the table goes to files, column by column, and is mapped into memory at the end; what a threshold drops takes room in its part only.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ngram.arrays import I64, U32_MAX, U64, Array, Tokens, token_type
from ngram.counting import part_kernels as kernels
from ngram.counting.build_table import thresholds
from ngram.counting.discounts import estimate_discounts
from ngram.counting.kernels import FULL, NO_KEY
from ngram.counting.keys import slot_mask, slot_shifts
from ngram.counting.run import Run
from ngram.counting.run_file import ENTRY_BYTES, RunFile
from ngram.errors import SeedgramError
from ngram.table import NgramTable
from ngram.terminal import warn

RECORD_BYTES = 24
JOIN_BYTES = 60  # an n-gram of the order at hand: the records while they are sorted, rows, columns, pruned counts
READ_SHARE = 8  # of the budget: entries that are read at once


def build_in_parts(
    run: Run | RunFile,
    vocab_size: int,
    bos: int,
    folder: Path,
    max_bytes: int,
    order: int | None = None,
    min_raw: Sequence[int] | None = None,
    cut: bool = False,
) -> NgramTable:
    """As build_table(run, vocab_size, bos, order, min_raw), in about max_bytes of memory beside the run, if that is in memory.

    folder: receives the columns, 12 bytes an n-gram that stays and 4 a context; they are the table's memory, so it must outlive the table.
    cut: histories of rare entries were cut while counting; each such entry is taken for a left neighbour that no other has.
    One first token is the smallest part there is: where its n-grams alone need more than max_bytes, more is taken, and a warning says how much.
    Raises SeedgramError on an order or thresholds that make no sense, or when the folder cannot be written."""
    wanted = thresholds(min_raw, run.order if order is None else order, run.order)
    return _Parts(run, vocab_size, bos, folder, max_bytes, wanted, cut).table()


class _Columns:
    """Columns of a table while they grow in files."""

    def __init__(self, folder: Path):
        self.folder, self.files = folder, dict[tuple[str, int], IO[bytes]]()

    def append(self, name: str, n: int, column: Array) -> None:
        if (name, n) not in self.files:
            self.files[name, n] = open(self.folder / f"{name}-{n}", "wb")
        self.files[name, n].write(np.ascontiguousarray(column).data)

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def read(self, name: str, n: int, kind: Any) -> Array:
        path = self.folder / f"{name}-{n}"
        if not path.exists() or not path.stat().st_size:
            return np.zeros(0, kind)
        return np.asarray(np.memmap(path, kind, "c"))


class _Parts:
    """One table.  wanted: smallest raw count of each order; rows: n-grams of each order so far."""

    def __init__(self, run: Run | RunFile, vocab_size: int, bos: int, folder: Path, max_bytes: int, wanted: list[int], cut: bool):
        self.run, self.vocab_size, self.bos, self.wanted, self.max_bytes = run, vocab_size, bos, wanted, max_bytes
        self.top, self.columns, self.cut = len(wanted), _Columns(folder), cut
        self.rows = [1, vocab_size, *[0] * (self.top - 1)]
        self.over: list[list[Array]] = [[] for _ in range(self.top + 1)]
        self.facts = np.zeros((self.top, 5), np.int64), np.zeros((self.top, vocab_size), np.int64), np.zeros((vocab_size, 2), np.int64)
        self.pruned_tokens = np.zeros(vocab_size, np.int64)

    def table(self) -> NgramTable:
        try:
            self.columns.folder.mkdir(parents=True, exist_ok=True)
            self._walk((0, 0), np.zeros((0, 3), np.uint64), np.zeros(self.top + 1, np.int64))
            for part in self._parts():
                self._add(part)
            self._add_tokens()
        except OSError as error:
            raise SeedgramError(f"{self.columns.folder}: cannot write: {error.strerror}; free space or choose another folder") from None
        finally:
            self.columns.close()
        return self._mapped()

    def _walk(self, part: tuple[int, int], records: U64, at: I64) -> None:
        """Reads the run from front to back; see kernels.walk."""
        setting = np.array([self.top, self.bos, self.run.bits, self.run.order, self.cut])
        state = np.full(2, NO_KEY), np.zeros(self.run.order + 2, np.int64), np.zeros(self.run.order + 2, np.int64)
        arguments = slot_shifts(self.run.bits, self.run.order), setting, state, np.array(part), records, at, self.facts
        step = max(1, self.max_bytes // (READ_SHARE * ENTRY_BYTES))
        for start in range(0, len(self.run), step):
            kernels.walk(self.run.slice(start, min(start + step, len(self.run))).columns(), *arguments)
        kernels.walk(Run.empty(self.run.order, self.run.bits).columns(), *arguments)

    def _parts(self) -> Iterator[tuple[int, int]]:
        """(first, behind the last) first token of each part."""
        sizes = self.facts[1][1:]
        room, start, held = self.max_bytes - self.max_bytes // READ_SHARE, 0, np.zeros(len(sizes), np.int64)
        for token in range(self.vocab_size):
            grown = held + sizes[:, token]
            if _part_bytes(grown) > room and held.any():
                yield start, token
                start, grown = token, sizes[:, token].copy()
            if _part_bytes(grown) > room and start == token:
                warn(f"n-grams that begin with token {token} need {_part_bytes(grown):,} bytes at once, more than the {self.max_bytes:,} allowed")
            held = grown
        if held.any():
            yield start, self.vocab_size

    def _add(self, part: tuple[int, int]) -> None:
        """All n-grams of orders 2… whose first token is in the part."""
        sizes = self.facts[1][:, part[0] : part[1]].sum(axis=1)
        begin = np.concatenate([[0, 0], np.cumsum(sizes[1:])])  # begin[n-1]…begin[n]: records of order n ≥ 2
        records, at = np.empty((int(begin[-1]), 3), np.uint64), np.concatenate([[0], begin[:-1]])
        self._walk(part, records, at)
        below, rows_below, first_below, pruned = records[:0], np.zeros(0, np.int64), 0, self.pruned_tokens
        for n in range(2, self.top + 1):
            mine = records[begin[n - 1] : begin[n]]
            other = np.empty_like(mine)
            if kernels.sort_records(mine, other, n, self.run.bits, self.vocab_size):
                mine[:] = other
            del other
            first, rows = self.rows[n], np.empty(len(mine), np.int64)
            self._join(mine, n, first_below, below, rows_below, rows, pruned)
            if n > 2:
                self.columns.append("pruned", n - 1, np.minimum(pruned, U32_MAX).astype(np.uint32))
            below, rows_below, first_below, pruned = mine, rows, first, np.zeros(self.rows[n] - first, np.int64)

    def _join(self, mine: U64, n: int, first_below: int, below: U64, rows_below: I64, rows: I64, pruned: I64) -> None:
        setting = np.array([self.run.bits, self.wanted[n - 1], self.rows[n], first_below])
        out = self._blank(len(mine))
        over = np.empty((2, self.run.total() // FULL + 1), np.int64)
        mask = np.array(slot_mask(n - 1, self.run.bits))
        size, found = kernels.join(mine, n, setting, mask, below, rows_below, rows, out, pruned, over)
        for name, column in zip(("tokens", "parents", "counts", "raw"), out, strict=True):
            self.columns.append(name, n, column[:size])
        self.over[n].append(over[:, :found].astype(np.uint32))
        self.rows[n] += size

    def _blank(self, size: int) -> tuple[Tokens, Array, Array, Array]:
        kinds = self._kinds()
        return np.empty(size, kinds["tokens"]), np.empty(size, np.uint32), np.empty(size, np.uint16), np.empty(size, np.uint32)

    def _kinds(self) -> dict[str, Any]:
        return {"tokens": token_type(self.vocab_size), "parents": np.uint32, "counts": np.uint16, "raw": np.uint32}

    def _add_tokens(self) -> None:
        """Order 1 holds every token of the vocabulary."""
        raw, adjusted = self.facts[2].T
        tokens = np.arange(self.vocab_size, dtype=token_type(self.vocab_size))
        values = tokens, np.zeros(self.vocab_size, np.uint32), np.minimum(adjusted, FULL).astype(np.uint16), raw.astype(np.uint32)
        for name, column in zip(self._kinds(), values, strict=True):
            self.columns.append(name, 1, column)
        rows = np.flatnonzero(adjusted > FULL)
        self.over[1].append(np.stack([rows, adjusted[rows]]).astype(np.uint32))
        if self.top > 1:
            self.columns.append("pruned", 1, np.minimum(self.pruned_tokens, U32_MAX).astype(np.uint32))

    def _mapped(self) -> NgramTable:
        orders = range(1, self.top + 1)
        columns = {name: [self.columns.read(name, n, kind) for n in orders] for name, kind in self._kinds().items()}
        over = {n: np.concatenate(self.over[n], axis=1) for n in orders if any(part.size for part in self.over[n])}
        return NgramTable(
            vocab_size=self.vocab_size,
            bos=self.bos,
            **columns,
            pruned=[np.zeros(1, np.uint32), *(self.columns.read("pruned", n, np.uint32) for n in orders[:-1])],
            discounts=estimate_discounts(self.facts[0][:, 1:]),
            excess={n: (columns[0], columns[1]) for n, columns in over.items()},
        )


def _part_bytes(sizes: I64) -> int:
    """Memory of a part with so many n-grams of orders 2, 3, …"""
    return RECORD_BYTES * int(sizes.sum()) + JOIN_BYTES * int(sizes.max(initial=0))
