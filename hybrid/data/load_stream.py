"""A whole split as one array."""

import os

from hybrid.data.shards import find_shards, predictable
from ngram.arrays import Tokens


def load_stream(path: str | os.PathLike[str], split: str, vocab_size: int | None = None) -> Tokens:
    """All tokens of a split, (N,), memory-mapped when one shard holds them.  Raises DataError where there are none to score."""
    stream = predictable(find_shards(path, split), vocab_size)
    return stream.read(0, len(stream))
