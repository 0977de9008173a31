"""Threads that share out the rows of a step of the coder."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

PART = 32  # rows that are worth handing to another thread


class Threads:
    """A few threads that share rows out.  Each row is computed whole by one thread, so no bit depends on how many there are."""

    def __init__(self, count: int) -> None:
        self.count, self.pool = count, ThreadPoolExecutor(count + 1)  # one more, for the thread that hands out

    def over(self, rows: int, work: Callable[[int, int], None]) -> None:
        """work(begin, end) for parts of range(rows), the first of them in this thread; returns when all are done."""
        parts = max(1, min(self.count, rows // PART))
        edges = [rows * i // parts for i in range(parts + 1)]
        others = [self.pool.submit(work, edges[i], edges[i + 1]) for i in range(1, parts)]
        work(edges[0], edges[1])
        for other in others:
            other.result()

    def close(self) -> None:
        self.pool.shutdown()
