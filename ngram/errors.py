"""Errors that a user can act on, and the one place where they become one line and exit code 2."""

import io
import os
import sys
from collections.abc import Callable


class SeedgramError(Exception):
    """Bad input or a missing resource: what was wrong, where, and what to do."""


class FileFormatError(SeedgramError):
    """A file is cut, altered, foreign or of another version."""


class DataError(SeedgramError):
    """Text or token data that is missing, too short or does not fit the settings."""


class LeakageError(SeedgramError):
    """A score would have seen its own token, or an update came out of order."""


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def run_cli(main: Callable[[], int | None]) -> None:
    """Runs `main` and exits with its code; a SeedgramError becomes one line on stderr and exit code 2.

    What a terminal cannot show (a text in Chinese under cp1252 or LC_ALL=C) is printed as an escape, \\u4e2d."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main()
    except SeedgramError as error:
        print(one_line(error), file=sys.stderr)
        code = 2
    except ModuleNotFoundError as error:  # of the entry scripts; `seedgram` knows more packages
        if error.name not in ("torch", "brotli"):
            raise
        print(f"{one_line(error)}; pip install 'seedgram[hybrid]', in a checkout '.[hybrid]'", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our output went away: nothing left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code or 0)
