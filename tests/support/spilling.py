"""Documents that need more memory than they are given, and a process that counts them and may kill itself.

python -m tests.support.spilling FOLDER [DOCUMENTS]: counts, and after that many documents kills itself; else prints at which position it went on, the
most bytes of arrays that were held at once, and the digest of the table.
"""

import os
import signal
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from ngram.arrays import U16, digest
from ngram.counting.counter import NgramCache
from ngram.counting.spill import SpillingCache
from ngram.counting.table_in_parts import build_in_parts
from ngram.table import NgramTable

Result = TypeVar("Result")
VOCAB, ORDER, BOS = 300, 5, 1
MEMORY_BYTES = 1 << 21
BUFFER = 1 << 11


def documents(size: int = 20_000) -> list[U16]:
    """Eight documents, hardly any of whose 5-grams occurs twice.  size: tokens of each."""
    random = np.random.default_rng(3)
    return [np.concatenate([[BOS], random.integers(2, VOCAB, size)]).astype(np.uint16) for _ in range(8)]


def table_digest(table: NgramTable) -> str:
    assert table.raw is not None
    return digest(*table.tokens, *table.parents, *table.counts, *table.raw, *table.pruned, table.discounts)


def at_once(texts: list[U16]) -> str:
    """The digest of the table that is made in memory."""
    cache = NgramCache(VOCAB, ORDER, BOS, BUFFER)
    for tokens in texts:
        cache.count_stream(tokens)
    return table_digest(cache.table())


def within(folder: Path, texts: list[U16], kill_after: int = 0) -> tuple[int, str]:
    """(position at which it went on, digest of the table)."""
    cache = SpillingCache(VOCAB, ORDER, BOS, folder, MEMORY_BYTES, {}, BUFFER)
    for tokens in texts[cache.documents :]:
        cache.count_stream(tokens)
        if cache.documents == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
    return cache.resumed_at, table_digest(build_in_parts(cache.finish(), VOCAB, BOS, folder / "table", MEMORY_BYTES))


def peak_bytes(function: Callable[[], Result]) -> tuple[Result, int]:
    """What it returns, and the most bytes of arrays that it held at once."""
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:  # compiles, which takes memory too
        within(Path(name), documents(500))
    folder, kill_after = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    texts = documents()
    (resumed_at, found), peak = peak_bytes(lambda: within(folder, texts, kill_after))
    print(resumed_at, peak, found)


if __name__ == "__main__":
    main()
