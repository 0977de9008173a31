"""Runs in files: written range by range, read range by range, so that neither has to fit into memory.

A run is a folder with one file a column (little-endian numbers, nothing else) and `about.json`: how many entries, what the run stands for, and
a digest of each column.  It is written under another name and renamed when it is whole.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import xxhash

from ngram.arrays import I64, U64, Array
from ngram.counting.run import Room, Run, ranges
from ngram.errors import FileFormatError, SeedgramError

COLUMNS = {"hi": "<u8", "lo": "<u8", "counts": "<u2", "overflow_index": "<i8", "overflow_count": "<i8", "samples": "<u8"}  # the last: see SAMPLE
ENTRY_BYTES = 18  # of the three columns that have an entry for each key
SAMPLE = 256  # every so manieth `hi` is also a sample, which stays in memory
BLOCK_BYTES = 1 << 18  # read at once when a digest is checked
ABOUT = "about.json"
PARTIAL = "partial-"


@dataclass(frozen=True)
class RunFile:
    """A run whose entries lie in a folder.  facts: what its writer noted; overflow and samples are in memory."""

    folder: Path
    order: int
    bits: int
    size: int
    facts: dict[str, Any]
    overflow_index: I64
    overflow_count: I64
    samples: U64
    positions: int

    def __len__(self) -> int:
        return self.size

    def total(self) -> int:
        """Number of positions counted."""
        return self.positions

    def slice(self, start: int, stop: int) -> Run:
        """Entries start…stop-1, read from the files."""
        columns = [self._read(name, start, stop - start) for name in ("hi", "lo", "counts")]
        first, last = np.searchsorted(self.overflow_index, [start, stop])
        overflow = self.overflow_index[first:last] - start, self.overflow_count[first:last].copy()
        return Run(self.order, columns[0], columns[1], columns[2], *overflow, self.bits)

    def places(self, cuts: U64) -> I64:
        """Where each of these values of `hi` begins; reads one block for each."""
        found = []
        for cut, block in zip(cuts, np.searchsorted(self.samples, cuts).tolist(), strict=True):
            start = max(0, block - 1) * SAMPLE  # samples[i] is hi[i * SAMPLE], and the one before the first not smaller is smaller
            found.append(start + int(np.searchsorted(self._read("hi", start, SAMPLE), cut)))
        return np.array(found, np.int64)

    def blocks(self, name: str) -> Iterator[bytes]:
        """A column as it lies in its file."""
        with open(self.folder / name, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block

    def delete(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, name: str, start: int, count: int) -> Array:
        kind = np.dtype(COLUMNS[name])
        return np.fromfile(self.folder / name, kind, min(count, self.size - start), offset=start * kind.itemsize)


def open_run(folder: Path, *, check: bool = False) -> RunFile:
    """The run of a folder.  check: its digests too.  Raises FileFormatError when it is not whole."""
    try:
        about = json.loads((folder / ABOUT).read_text())
        sizes = {name: (folder / name).stat().st_size for name in COLUMNS}
        if sizes != about["bytes"] or (check and any(_digest(folder / name) != about["digests"][name] for name in COLUMNS)):
            raise ValueError("it was cut or altered")
        overflow_index, overflow_count, samples = (np.fromfile(folder / name, COLUMNS[name]) for name in list(COLUMNS)[3:])
        facts = about["order"], about["bits"], about["entries"], about["facts"]
        return RunFile(folder, *facts, overflow_index, overflow_count, samples, about["positions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{folder}: not a whole run ({error}); remove it, and its n-grams are counted again") from None


def _digest(path: Path) -> str:
    hasher = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


class RunWriter:
    """Writes a run's entries in rising order, a range at a time; the folder appears when `close` is called."""

    def __init__(self, folder: Path, order: int, bits: int):
        self.folder, self.order, self.bits, self.size, self.positions = folder, order, bits, 0, 0
        self._partial = folder.with_name(f"{folder.name}.{PARTIAL}{os.getpid()}")  # another process in this folder gets an error, not this file
        try:
            self._partial.mkdir(parents=True)
            self._files: dict[str, IO[bytes]] = {name: open(self._partial / name, "wb") for name in COLUMNS}
        except OSError as error:
            raise self._unwritable(error) from None
        self._hashers = {name: xxhash.xxh3_128() for name in COLUMNS}

    def append(self, run: Run) -> None:
        """Adds entries, all of which must come after those before them."""
        phase = -self.size % SAMPLE
        values = (run.hi, run.lo, run.counts, run.overflow_index + self.size, run.overflow_count, run.hi[phase::SAMPLE])
        try:
            for (name, kind), column in zip(COLUMNS.items(), values, strict=True):
                data = np.ascontiguousarray(column, kind).data
                self._files[name].write(data)
                self._hashers[name].update(data)
        except OSError as error:
            raise self._unwritable(error) from None
        self.size += len(run)
        self.positions += run.total()

    def close(self, facts: Mapping[str, Any]) -> RunFile:
        """The whole run.  facts: noted beside it, JSON values only."""
        try:
            for file in self._files.values():
                file.close()
            about = {
                "order": self.order,
                "bits": self.bits,
                "entries": self.size,
                "positions": self.positions,
                "facts": dict(facts),
                "bytes": {name: (self._partial / name).stat().st_size for name in COLUMNS},
                "digests": {name: hasher.hexdigest() for name, hasher in self._hashers.items()},
            }
            (self._partial / ABOUT).write_text(json.dumps(about, indent=1))
            self._partial.rename(self.folder)
        except OSError as error:
            raise self._unwritable(error) from None
        return open_run(self.folder)

    def drop(self) -> None:
        """Gives up: closes the files and removes them."""
        for file in self._files.values():
            with suppress(OSError):  # a full disk is the news, not that it is still full
                file.close()
        shutil.rmtree(self._partial, ignore_errors=True)

    def _unwritable(self, error: OSError) -> SeedgramError:
        return SeedgramError(f"{self._partial}: cannot write: {error.strerror}; free space or choose another folder")


def merged_ranges(runs: Sequence[Run | RunFile], entries: int) -> Iterator[Run]:
    """The sum of the runs as ranges of rising keys, each of at most `entries` entries of all runs together, or SAMPLE of each run where that is more.

    A range is merged pair by pair in room that is used again: each is to be used up before the next is asked for."""
    filled = [run for run in runs if len(run)]
    if not filled:
        return
    samples = np.sort(np.concatenate([run.samples if isinstance(run, RunFile) else run.hi[::SAMPLE] for run in filled]))
    step = max(1, entries // SAMPLE - len(filled))
    cuts = np.unique(samples[step::step])
    edges = np.array([[0, *_places(run, cuts), len(run)] for run in filled])
    room = Room(int(np.diff(edges, axis=1).sum(axis=0).max()), sum(run.total() for run in filled))
    for pieces in ranges(filled, edges):
        room.size = room.over = 0
        yield room.add(*pieces) if len(pieces) > 1 else pieces[0]


def _places(run: Run | RunFile, cuts: U64) -> I64:
    return run.places(cuts) if isinstance(run, RunFile) else np.searchsorted(run.hi, cuts).astype(np.int64)


def merge_into(writer: RunWriter, runs: Sequence[Run | RunFile], entries: int, keep: Callable[[Run], Run] | None = None) -> None:
    """Writes the sum of the runs.  entries: in memory at a time; keep: what is kept of each range, None for everything."""
    try:
        for piece in merged_ranges(runs, entries):
            writer.append(piece if keep is None else keep(piece))
    except BaseException:
        writer.drop()
        raise
