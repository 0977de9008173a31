"""How all ranks end when one fails: one line that says why, from the first rank, and no process left waiting.

A rank that fails writes its reason into the store where the ranks met, and ends; the others find their connections closed, and
the first rank says the reason in one line.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch

from hybrid.parallel.ranks import DeviceError, RankError, Ranks
from ngram.errors import SeedgramError, one_line

REASON_S = 2.0  # how long the first rank looks for the reason of a rank that went away
SAID_S = 5.0  # how long another rank waits for the first to say it
WRITE_S = 20.0  # how long a failing rank waits for a checkpoint that is being written


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """Around everything that several ranks do: when one fails, all end, and the first rank says why in one line.

    With one rank: nothing.  Leaves the process on failure, with exit code 2 (1 for a fault in the program), without
    destructors, which may wait for peers that are gone; a checkpoint that is being written is waited for."""
    if ranks.world == 1:
        yield
        return
    previous = signal.signal(signal.SIGTERM, _told_to_stop)
    try:
        try:
            yield
        except SystemExit:
            raise
        except BaseException as error:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it as soon as one rank has ended
            _fail(ranks, _first(error))
    except StoppedError as error:  # it came between the last two lines: leaving here would wait for peers that are gone
        _fail(ranks, _first(error))
    finally:
        signal.signal(signal.SIGTERM, previous)


class StoppedError(RankError):
    """SIGTERM outside the training loop."""


def _told_to_stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: another must not come between this one and its report
    raise StoppedError("told to stop (SIGTERM) outside the training loop; start again with --resume")


def _first(error: BaseException) -> BaseException:
    """What went wrong first: SIGTERM often comes while a rank is already on its way out, because another has ended."""
    while isinstance(error, StoppedError) and error.__context__ is not None:
        error = error.__context__
    return error


def _fail(ranks: Ranks, error: BaseException) -> None:
    """Prints the reason (first rank) or leaves it in the store (others), and ends the process."""
    own = not isinstance(error, RankError)
    line = one_line(error)
    if own and not isinstance(error, (SeedgramError, KeyboardInterrupt)):
        traceback.print_exception(error)  # a fault in the program: whoever repairs it needs all of it
    if ranks.is_first:
        print(line if own else _wait(ranks, "reason", REASON_S) or line, file=sys.stderr)
        _leave(ranks, "said", "yes")
    elif own:
        _leave(ranks, "reason", line.replace(": ", f": rank {ranks.rank}: ", 1))
    elif not _wait(ranks, "said", SAID_S):
        print(line, file=sys.stderr)
    end = time.monotonic() + WRITE_S
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join(max(0.0, end - time.monotonic()))
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(130 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, SeedgramError) else 1)


def _leave(ranks: Ranks, key: str, words: str) -> None:
    """Writes into the store, unless another rank was first or the store is already gone."""
    with suppress(RuntimeError):
        ranks.store.compare_set(key, "", words)


def _wait(ranks: Ranks, key: str, seconds: float) -> str | None:
    """The value of `key`, waiting for it up to `seconds`; None if it does not come or the store is gone."""
    end = time.monotonic() + seconds
    with suppress(RuntimeError):
        while not ranks.store.check([key]):  # the store's own `wait` prints lines when its time is over
            if time.monotonic() > end:
                return None
            time.sleep(0.05)
        return str(ranks.store.get(key), "utf-8")
    return None


@contextmanager
def terminated() -> Iterator[list[int]]:
    """Collects SIGTERM and Ctrl-C instead of dying of them; the loop looks once a step.  A second Ctrl-C ends the program at once."""
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        if number == signal.SIGINT and seen:
            raise KeyboardInterrupt
        seen.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns running out of memory, on the device or the host, into one line that names the setting to change."""
    try:
        yield
    except MemoryError as error:
        raise DeviceError(f"this machine ran out of memory ({error or 'Python gave up'}); lower --batch-tokens or use a larger machine") from None
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceError(f"the GPU ran out of memory ({str(error).split('.')[0]}); lower --microbatch-tokens") from None
