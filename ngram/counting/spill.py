"""Counting more than memory holds: runs go to files when a budget is used up, and are merged in one pass at the end.

Each file says up to which token of which document it counts, so that a killed process goes on behind the last whole one.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ngram.arrays import as_tokens, pad_of
from ngram.container import atomic_write
from ngram.counting.counter import NgramCache
from ngram.counting.row_counter import BUFFER_POSITIONS
from ngram.counting.run import Run
from ngram.counting.run_file import ENTRY_BYTES, PARTIAL, SAMPLE, RunFile, RunWriter, merge_into, open_run
from ngram.errors import FileFormatError, SeedgramError

BUFFER_SHARE = 400  # bytes of the budget for each position of the buffer, which takes 44
HELD_SHARE = 0.4  # of the budget, for runs: merging them to one of the next level may take as much again
TASK = "task.json"


class SpillingCache(NgramCache):
    """Exact counts as NgramCache's, of documents of which only a part fits into memory.

    folder: for files, about 40 bytes a distinct n-gram of the highest order; max_bytes: of memory for counts; task: what is counted,
    JSON values only.  A folder that was begun for the same task is gone on with: skip its first `documents`, `noted` is what was noted for them.
    Raises SeedgramError when the folder was begun for another task or cannot be written."""

    def __init__(self, vocab_size: int, order: int, bos: int, folder: Path, max_bytes: int, task: Any, buffer_positions: int | None = None):
        buffer = max(1, min(BUFFER_POSITIONS, max_bytes // BUFFER_SHARE))
        super().__init__(vocab_size, order, bos, buffer if buffer_positions is None else buffer_positions)
        self.folder, self.max_bytes = folder, max_bytes
        self.noted: dict[str, Any] = {}
        self.documents, self._tokens_done = 0, 0
        self.files: list[RunFile] = []
        self.whole: RunFile | None = None
        self._begin(task)
        self.resumed_at = self.positions

    def count_stream(self, tokens: npt.ArrayLike) -> None:
        """Counts every token of the next document but the first, which is given; what an earlier process has of it is left out."""
        stream = np.concatenate([np.full(self.history, pad_of(self._type), self._type), as_tokens(tokens, self.vocab_size).reshape(-1)])
        size = len(stream) - self.history
        for start in range(max(1, self._tokens_done), size, self._capacity):
            stop = min(start + self._capacity, size)
            self.update(stream[None, start : stop + self.history])
            self._tokens_done = stop
            if ENTRY_BYTES * sum(len(run) for level in self._levels for run in level) > HELD_SHARE * self.max_bytes:
                self.spill()
        self.documents, self._tokens_done = self.documents + 1, 0

    def spill(self) -> None:
        """Writes what is in memory as one run, and forgets it."""
        self._flush()
        writer = RunWriter(self.folder / f"run-{len(self.files):05}", self.order, self._bits)
        runs = self._in_memory()
        merge_into(writer, runs, self._entries(len(runs)))
        self.files.append(writer.close({"documents": self.documents, "tokens": self._tokens_done, "noted": self.noted}))
        self._levels = [[]]

    def finish(self, keep: Callable[[Run], Run] | None = None) -> RunFile:
        """Everything counted as one run in files; the others are deleted.  keep: what is kept of each range of entries, None for all."""
        if self.whole is None:
            self.drain()
            self._flush()
            runs: list[Run | RunFile] = [*self.files, *self._in_memory()]
            writer = RunWriter(self.folder / "whole", self.order, self._bits)
            merge_into(writer, runs, self._entries(len(runs)), keep)
            self.whole = writer.close({"documents": self.documents, "tokens": 0, "noted": self.noted})
            self._levels = [[]]
        for file in self.files:
            file.delete()
        self.files.clear()
        return self.whole

    def _in_memory(self) -> list[Run]:
        return [run for level in self._levels for run in level]

    def _entries(self, runs: int) -> int:
        """How many entries are merged at a time: they and each round of pairs take a quarter of the budget together."""
        return max(SAMPLE, int(self.max_bytes) // (4 * ENTRY_BYTES * (2 + runs.bit_length())))

    def _begin(self, task: Any) -> None:
        """Takes up what the folder holds, or begins it."""
        if self.max_bytes < 1:
            raise SeedgramError(f"memory of {self.max_bytes} bytes: give a positive number")
        named, note = json.dumps(task, sort_keys=True), self.folder / TASK
        if not note.exists():
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise SeedgramError(f"{self.folder}: holds other files; name a folder that is empty or new")
            atomic_write(note, named.encode())
            return
        if note.read_text() != named:
            raise SeedgramError(f"{self.folder}: was begun with other texts or settings; remove it to begin anew")
        for left in self.folder.glob(f"*.{PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        self._take_up(sorted(self.folder.glob("run-*")))

    def _take_up(self, folders: list[Path]) -> None:
        """The files as far as they are whole; what comes behind the first that is not is counted again."""
        if (self.folder / "whole").is_dir():
            try:
                self.whole = open_run(self.folder / "whole", check=True)
            except FileFormatError:
                shutil.rmtree(self.folder / "whole")
        for number, folder in enumerate(folders):
            try:
                if folder.name != f"run-{number:05}":
                    raise FileFormatError(f"{folder}: the run before it is missing")
                self.files.append(open_run(folder, check=True))
            except FileFormatError:
                for left in folders[number:]:
                    shutil.rmtree(left)
                break
        last = self.whole or (self.files[-1] if self.files else None)
        if last is not None:
            self.documents, self._tokens_done, self.noted = (last.facts[name] for name in ("documents", "tokens", "noted"))
            self.positions = last.positions if self.whole else sum(file.positions for file in self.files)
