"""Writing token shards; shards.py says what they are and reads them."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hybrid.data.shards import HEADER_INTS, SHARD_MAGIC, SHARD_TYPES, DataError
from ngram.arrays import Tokens, pad_of
from ngram.container import atomic_write

SHARD_TOKENS = 10**8  # the challenge's


def write_shard(path: str | os.PathLike[str], tokens: npt.NDArray[np.integer] | Sequence[int]) -> None:
    """Writes one shard; the file appears whole or not at all.  tokens: (n,) integers in 0…65534, n ≤ 10^8; uint32 for a wide shard."""
    array = np.asarray(tokens)
    if array.ndim != 1 or len(array) > SHARD_TOKENS:
        raise DataError(f"{os.fspath(path)}: a shard holds one row of at most {SHARD_TOKENS:,} tokens; split it with write_shards")
    version = 2 if array.dtype == np.uint32 else 1
    last = pad_of(SHARD_TYPES[version]) - 1
    if len(array) and not 0 <= int(array.min()) <= int(array.max()) <= last:
        raise DataError(f"{os.fspath(path)}: tokens must lie in 0…{last}; give those of larger vocabularies as uint32")
    header = np.zeros(HEADER_INTS, dtype="<i4")
    header[:3] = SHARD_MAGIC, version, len(array)
    atomic_write(path, header.tobytes() + array.astype(SHARD_TYPES[version]).tobytes())


def write_shards(folder: str | os.PathLike[str], name: str, split: str, tokens: Tokens, shard_tokens: int = SHARD_TOKENS) -> list[Path]:
    """Cuts a stream into `<name>_<split>_000000.bin`, …; (n,) tokens, shard_tokens a file."""
    paths = []
    for number, start in enumerate(range(0, max(len(tokens), 1), shard_tokens)):
        paths.append(Path(folder) / f"{name}_{split}_{number:06d}.bin")
        write_shard(paths[-1], tokens[start : start + shard_tokens])
    return paths
