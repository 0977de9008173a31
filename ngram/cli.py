"""What every command line of the project shares: one-line errors, a progress bar, a line of JSON."""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ngram.container import atomic_write
from ngram.errors import SeedgramError

T = TypeVar("T")
BAR_AFTER_S = 1.0  # quicker work needs no bar


class UsageError(SeedgramError):
    """A command line that cannot be carried out."""


class OneLineParser(argparse.ArgumentParser):
    """argparse whose errors are one line and exit code 2, like every other bad input here."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def parse_orders(text: str) -> tuple[int, int]:
    """ "2-7" → (2, 7).  Shorter n-grams down to the single token are always in the model, so 1-7 is the same one.

    Raises UsageError unless the low end is 1 or 2 and the high end at most 8."""
    low, dash, high = text.partition("-")
    if not (dash and low.isdecimal() and high.isdecimal() and len(text) <= 5):
        raise UsageError(f"--orders {text!r}: expected LOW-HIGH; write for example 2-7")
    if int(low) not in (1, 2) or not max(2, int(low)) <= int(high) <= 8:
        raise UsageError(f"--orders {text}: the low order must be 1 or 2 and the high one 2 to 8; write for example 2-7")
    return int(low), int(high)


def parse_thresholds(text: str, order: int) -> list[int]:
    """ "1,1,1,2" → smallest raw count kept at orders 1…order; the last one holds for the orders above it.

    Raises UsageError when they decrease: a long n-gram kept without its parts would have no place in the model."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) < 1 << 31 for part in parts) or len(parts) > order:
        raise UsageError(f"--min-count {text!r}: expected at most {order} counts with commas; write for example 1,1,1,2")
    values = [max(1, int(part)) for part in parts]
    values += [values[-1]] * (order - len(values))
    if values != sorted(values) or values[0] > 1:
        raise UsageError(f"--min-count {text}: must begin with 1 (every single token stays) and never decrease; write for example 1,1,1,2")
    return values


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Says on stderr what is going on, with the time it has taken, while the body runs (a terminal only)."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task(title, total=None)
        yield


def track(items: Iterable[T], title: str, total: int | None = None, *, active: bool = True) -> Iterator[T]:
    """The items, one by one, with a progress bar on stderr once the first second has passed: for people only, so on a terminal only.

    total: number of items where they have no length.  active: False on all ranks but one."""
    if not active or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    begin, bar, started = time.monotonic(), Progress(*columns, console=Console(stderr=True), transient=True), False
    task = bar.add_task(title, total=len(items) if isinstance(items, Sized) else total)
    try:
        for done, item in enumerate(items):
            yield item
            if not started and time.monotonic() - begin > BAR_AFTER_S:
                bar.start()
                started = True
            if started:
                bar.update(task, completed=done + 1)
    finally:
        if started:
            bar.stop()


def emit_json(values: dict[str, Any], path: Path | None) -> None:
    """One line of JSON on stdout, and the same in a file when one is named."""
    line = json.dumps(values, sort_keys=True)
    if path is not None:
        atomic_write(path, line.encode() + b"\n")
    print(line)


def warn(message: str) -> None:
    """One line on stderr that does not stop the command."""
    print(" ".join(message.split()), file=sys.stderr)
