"""One log, two readers: JSON lines on disk, an aligned line on screen, the same keys."""

import json
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeElapsedColumn

from hybrid.parallel.ranks import Ranks
from ngram.errors import SeedgramError
from ngram.terminal import stage


def environment(ranks: Ranks) -> dict[str, Any]:
    """Commit, versions and device, to judge the log's figures by."""
    commit = None  # installed without git, or not a checkout
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        commit = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return {"commit": commit, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version(), "device": ranks.device_name}


class RunLog:
    """Appends records to a JSONL file and shows them on stderr; silent on ranks other than the first.  seconds: of each phase that ended."""

    def __init__(self, path: Path, *, active: bool = True) -> None:
        self.path, self._begin, self.seconds = path, time.monotonic(), dict[str, float]()
        self._console = Console(stderr=True, quiet=not active)
        try:
            self._file = open(path, "a", encoding="utf-8") if active else None
            if self._file is not None:
                with open(path, "rb") as file:  # whose last line may have been cut off, for example by a full disk
                    file.seek(max(0, file.seek(0, 2) - 1))
                    self._file.write("" if file.read(1) in (b"", b"\n") else "\n")
        except OSError as error:
            raise SeedgramError(f"{path}: cannot write the log: {error.strerror}; choose another --out") from None

    def record(self, event: str, **values: Any) -> None:
        """Writes one JSON line; values must be JSON."""
        if self._file is not None:
            line = {"event": event, "at_s": round(time.monotonic() - self._begin, 3), **values}
            try:
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
            except OSError as error:
                self.close()
                again = "--resume" if self.path.with_name("checkpoint.bin").exists() else "start again"
                raise SeedgramError(f"{self.path}: cannot write the log: {error.strerror}; free space, then {again}") from None

    def show(self, event: str, **values: Any) -> None:
        """The same record on disk and as one aligned line on screen."""
        self.record(event, **values)
        text = "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        self._console.print(f"{event:<10} {text}", highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[dict[str, Any]]:
        """Says on a terminal what is going on while the body runs, then shows the figures that it put into the dict, and its seconds."""
        begin, figures = time.monotonic(), dict[str, Any]()
        with stage(name):
            yield figures
        self.seconds[name] = time.monotonic() - begin
        self.show(name, **figures, seconds=self.seconds[name])

    @contextmanager
    def bar(self, what: str) -> Iterator[None]:
        """Shows the share of the run that is done, and the newest figures, while the body runs."""
        columns = "{task.description}", BarColumn(), "{task.percentage:>3.0f}%", TimeElapsedColumn(), "{task.fields[note]}"
        with Progress(*columns, console=self._console, transient=True, disable=self._console.quiet) as self._bar:
            self._task = self._bar.add_task(what, total=1.0, note="")
            yield

    def advance(self, share: float, note: str) -> None:
        self._bar.update(self._task, completed=share, note=note)

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # every record was flushed when it was made, or its error raised; closing tries to write again
                self._file.close()
            self._file = None
