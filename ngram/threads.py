"""Threads: kernels and array routines let go of the interpreter, so that independent work runs side by side.

No bit depends on how many threads there are: parts share nothing that they write.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from numba import config

Item = TypeVar("Item")
Result = TypeVar("Result")

COUNT: int = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # the processors that this process may use, or NUMBA_NUM_THREADS


def each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """[function(item) for item in items], on up to COUNT threads.  Raises what the first failing item raised."""
    todo = list(items)
    if COUNT == 1 or len(todo) < 2:
        return list(map(function, todo))
    with ThreadPoolExecutor(min(COUNT, len(todo)), "seedgram") as pool:
        return list(pool.map(function, todo))


class Worker:
    """Calls functions one after the other, in the order given, on a thread of its own.

    An error ends the work: what still waits is dropped, and the owner's next call raises it.  The thread exists only while there
    is work, so a process that exits waits for unfinished work alone.
    name: of the thread.  most: functions that may wait; `submit` blocks while as many do.  daemon: no process waits for it."""

    def __init__(self, name: str, most: int, *, daemon: bool = False) -> None:
        self._name, self._most, self._daemon = name, most, daemon
        self._waiting: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._error: BaseException | None = None

    def submit(self, work: Callable[[], object]) -> None:
        """Hands over a function.  Raises what an earlier one raised."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._most)
            self._raise()
            self._waiting.append(work)
            if not self._busy:
                self._busy, self._thread = True, threading.Thread(target=self._run, name=self._name, daemon=self._daemon)
                self._thread.start()

    def waiting(self) -> int:
        """Functions that wait, without the one at work."""
        return len(self._waiting)

    def idle(self) -> bool:
        """Whether there is nothing to do.  Raises what the work raised."""
        with self._changed:
            self._raise()
            return not self._busy

    def wait(self) -> None:
        """Returns when all is done and the thread has ended.  Raises what the work raised."""
        if self._thread is not None:
            self._thread.join()
        self._raise()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._error is not None:
                    self._waiting.clear()
                self._busy = bool(self._waiting)
                self._changed.notify_all()
                if not self._busy:
                    return
                work = self._waiting.popleft()
            try:
                work()
            except BaseException as error:  # kept for the owner's next call
                self._error = error
            del work  # with the arrays that it holds

    def _raise(self) -> None:
        if self._error is not None and not self._busy:
            error, self._error = self._error, None
            raise error
