"""Independent parts on threads: kernels and array routines let go of the interpreter, and results come in order.

What is computed may not depend on how many threads there are: parts share nothing that they write.
"""

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
        return [function(item) for item in todo]
    with ThreadPoolExecutor(min(COUNT, len(todo)), "seedgram") as pool:
        return list(pool.map(function, todo))
