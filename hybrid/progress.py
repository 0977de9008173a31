"""A progress bar for whatever takes more than two seconds, on stderr, for people only: no bar where stderr is not a terminal."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
AFTER_S = 1.0  # quicker work needs no bar


def track(items: Sequence[T], what: str, *, active: bool = True) -> Iterator[T]:
    """The items, one by one, with a bar once the first second has passed.  active: False on all ranks but one."""
    if not active or not sys.stderr.isatty():
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TimeRemainingColumn())
    begin, bar = time.monotonic(), Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=len(items))
    started = False
    try:
        for done, item in enumerate(items):
            yield item
            if not started and time.monotonic() - begin > AFTER_S:
                bar.start()
                started = True
            if started:
                bar.update(task, completed=done + 1)
    finally:
        if started:
            bar.stop()
