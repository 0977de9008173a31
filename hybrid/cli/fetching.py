"""What a command shows while bytes arrive: how many, how fast, and how long it will take; a line now and then where no terminal listens."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

LINE_EVERY_S = 60.0


@contextmanager
def progress(stream: TextIO) -> Iterator[Callable[[str, int, int], None]]:
    """A function of (what is done, bytes done, bytes in all; 0 where that is unknown) that shows it on `stream`."""
    if stream.isatty():
        with _bar(stream) as report:
            yield report
    else:
        yield _Lines(stream).report


class _Lines:
    """For logs: one line, at most every LINE_EVERY_S seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._began, self._next = stream, time.monotonic(), LINE_EVERY_S

    def report(self, what: str, done: int, total: int) -> None:
        elapsed = time.monotonic() - self._began
        if elapsed >= self._next and what.startswith("fetching"):
            self._next = elapsed + LINE_EVERY_S
            rate = done / elapsed
            left = f"; {(total - done) / rate:,.0f} s left" if total and rate > 0 else ""
            print(f"{what}: {done / 1e6:,.0f} MB of {total / 1e6:,.0f}, {rate / 1e6:,.1f} MB/s{left}", file=self._stream, flush=True)


@contextmanager
def _bar(stream: TextIO) -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("", total=None)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield report
