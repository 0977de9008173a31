"""How all ranks end when one fails: one line that says why, from the first rank, and no process left waiting.

Every rank leaves with a last word, an empty one or what went wrong, for which threads of the others wait: docs/faults.md says why.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from hybrid.parallel.ranks import GONE, DeviceError, RankError, Ranks, of_peers
from ngram.errors import SeedgramError, one_line

OWN_S = 0.5  # how long a rank that hears a last word may take to fail by itself
WORD_S = 2.0  # how long the first rank waits for another's last word; the others, for its own, twice that
WRITE_S = 20.0  # how long a failing rank waits for a checkpoint that is being written
WORD_BYTES = 8192
_leaving = threading.Lock()


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """Around everything that several ranks do: when one fails, all end, and the first rank says why in one line.

    With one rank: nothing.  Leaves the process on failure, with exit code 2 (1 for a fault in the program), without destructors, which may
    wait for peers that are gone, but not before a checkpoint is written."""
    if ranks.world == 1:
        yield
        return
    stopped = RankError("told to stop (SIGTERM) outside the training loop; start again with --resume")
    previous = signal.signal(signal.SIGTERM, lambda number, frame: _fail(ranks, sys.exception() or stopped))
    try:
        with _last_words(ranks):
            yield
    except BaseException as error:
        _fail(ranks, error)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _fail(ranks: Ranks, error: BaseException) -> NoReturn:
    """Says why this rank ends, unless another knows better, and ends the process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it as soon as one rank has ended
    error = of_peers(error)
    line, first, code = one_line(error), ranks.is_first, 2
    if isinstance(error, RankError):
        time.sleep(WORD_S * (2 - first))  # a thread that hears the reason ends the process
        _leave(ranks, line, code)
    if isinstance(error, KeyboardInterrupt):
        code = 130
    elif not isinstance(error, SeedgramError):
        code = 1
        traceback.print_exception(error)  # a fault in the program: whoever repairs it needs all of it
    _leave(ranks, line if first else line.replace(": ", f": rank {ranks.rank}: ", 1), code, say=first)


@contextmanager
def _last_words(ranks: Ranks) -> Iterator[None]:
    """Inside, the last word of another rank ends this one; leaving without an error says an empty one and waits for the others'."""
    threads = []
    for other in _others(ranks):
        word = torch.empty(WORD_BYTES, dtype=torch.uint8)
        work = dist.irecv(word, other, ranks.patient_group)
        threads.append(threading.Thread(target=_listen, args=(ranks, work, word), daemon=True))
    for thread in threads:
        thread.start()
    yield
    _tell(ranks, "")
    for thread in threads:
        thread.join()


def _others(ranks: Ranks) -> range:
    return range(1, ranks.world) if ranks.is_first else range(1)


def _listen(ranks: Ranks, work: Any, word: torch.Tensor) -> None:
    line, say = one_line(RankError(GONE)), True
    with suppress(RuntimeError):
        work.wait(timedelta(days=3650))
        line, say = str(bytes(word.tolist()), "utf-8", "replace").strip(), ranks.is_first
    if line:
        time.sleep(OWN_S)
        _leave(ranks, line, 2, say)


def _tell(ranks: Ranks, line: str) -> None:
    word = torch.tensor(list(line.encode().ljust(WORD_BYTES)[:WORD_BYTES]), dtype=torch.uint8)
    for other in _others(ranks):
        with suppress(RuntimeError):  # it is gone
            work: Any = dist.isend(word, other, ranks.patient_group)
            work.wait(timedelta(seconds=WORD_S))


def _leave(ranks: Ranks, line: str, code: int, say: bool = True) -> NoReturn:
    """Ends the process with a line, printed or told to others; a second thread that comes here waits for that."""
    _leaving.acquire()
    if say:
        os.write(2, f"{line}\n".encode())  # not through sys.stderr, in which the main thread may just be
    _tell(ranks, line)
    for thread in threading.enumerate():
        if thread.name == "checkpoint":  # of its Writer; threads of the main thread's own work may not end without it
            thread.join(WRITE_S)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


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
