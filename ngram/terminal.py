"""What all command lines of the project share: errors of one line, progress bars."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn, TypeVar

from ngram.container import STANDARD, check_writable, kept_stdout
from ngram.errors import SeedgramError

T = TypeVar("T")
OUTPUTS = ("out", "json", "bits", "tokens", "png", "counts_out")  # flags of files to write, "-" for standard output


class UsageError(SeedgramError):
    """A command line that cannot be carried out."""


class OneLineParser(argparse.ArgumentParser):
    """argparse whose errors are one line and exit code 2, like those of all bad input here."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but `--flag=--` is an error: Python 3.11 makes an empty list of that value, whatever the flag's type."""
        for argument in sys.argv[1:] if args is None else args:
            if argument.startswith("-") and argument.endswith("--") and len(argument) > 2:
                self.error(f"{argument}: -- is no value")
        return super().parse_known_args(args, namespace)


def output(name: str) -> str:
    """A flag's value that names a file to write; "-" is standard output.  Raises SeedgramError now rather than when the work is done."""
    check_writable(name)
    return name


def folder(name: str) -> str:
    """A flag's value that names a folder to write; "-" is refused."""
    if name == STANDARD:
        raise argparse.ArgumentTypeError("- is standard output, and this writes a folder; give the name of one")
    return name


def carry_out(run: Callable[[argparse.Namespace], int], flags: argparse.Namespace) -> int:
    """A command's exit code; where one of its outputs is "-", standard output holds that and nothing else.

    Raises UsageError where two of them are."""
    streams = [f"--{name.replace('_', '-')}" for name in OUTPUTS if str(getattr(flags, name, None)) == STANDARD]
    if len(streams) > 1:
        raise UsageError(f"{' and '.join(streams)}: only one of them can be written to standard output; give the other a file")
    with kept_stdout() if streams else nullcontext():
        return run(flags)


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Says on stderr what is going on, and for how long, while the body runs (a terminal only)."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(SpinnerColumn(), "{task.description}", TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task(title, total=None)
        yield


def track(items: Iterable[T], title: str, total: int | None = None, *, active: bool = True) -> Iterable[T]:
    """The items, one by one, with a progress bar on stderr: for people, so on a terminal only.

    total: number of items where they have no length.  active: False on all ranks but one."""
    if not active or not sys.stderr.isatty():
        return items
    from rich import progress
    from rich.console import Console

    return progress.track(items, title, total, console=Console(stderr=True), transient=True)


def warn(message: str) -> None:
    """One line on stderr that does not stop the command."""
    print(" ".join(message.split()), file=sys.stderr)
