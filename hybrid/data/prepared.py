"""What lies beside the shards in a folder that `prepare` writes: the index of documents, and the manifest's entries of files."""

import json
import mmap
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from hybrid.data.manifest import MANIFEST, read_manifest
from hybrid.data.shards import SCAN_TOKENS, DataError, Stream, read_shard
from hybrid.data.token_bytes import TokenBytes
from ngram.arrays import digest
from ngram.container import atomic_write, pack, read_bytes, unpack
from ngram.errors import FileFormatError, SeedgramError

INDEX_MAGIC, INDEX_VERSION = b"SGDOCS\0\0", 1


def document_digest(data: bytes) -> bytes:
    """16 bytes that stand for a document: equal documents have equal ones, in whatever file, packing or vocabulary."""
    return xxhash.xxh3_128_digest(data)


@dataclass(frozen=True)
class Index:
    """The documents of one split in the order of its stream.

    tokens (D,) int64, BOS included; size_bytes (D,) int64 of the original text; digests: D times 16 bytes."""

    tokens: np.ndarray
    size_bytes: np.ndarray
    digests: list[bytes]


def index_name(name: str, split: str) -> str:
    return f"{name}_{split}_documents.idx"


def write_index(path: Path, tokens: np.ndarray, size_bytes: np.ndarray, digests: bytes) -> None:
    """The index of D documents: (D,) tokens and (D,) bytes of each, digests of 16 bytes back to back."""
    sections = {"tokens": tokens.astype("<u4").tobytes(), "bytes": size_bytes.astype("<u8").tobytes(), "digests": digests}
    atomic_write(path, pack(INDEX_MAGIC, INDEX_VERSION, {"documents": len(tokens)}, sections))


def bytes_said(counter: TokenBytes, stream: Stream) -> int:
    """Bytes of all targets of a stream, over the seams of its shards, a block at a time."""
    said = 0
    for start in range(0, len(stream) - 1, SCAN_TOKENS):
        said += counter.total(stream.read(start, min(len(stream), start + SCAN_TOKENS + 1)))
        let_go(stream)
    return said


def let_go(stream: Stream) -> None:
    """Gives the pages of a stream that were read so far back to the system; they come from the disk when they are wanted again."""
    for shard in stream.shards:
        if isinstance(shard, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
            shard.base.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr]


def read_index(path: Path) -> Index:
    """Raises SeedgramError, naming the file, when it is missing, cut, altered or inconsistent."""
    header, sections = unpack(read_bytes(path), INDEX_MAGIC, INDEX_VERSION, str(path))
    try:
        tokens, sizes = np.frombuffer(sections["tokens"], "<u4"), np.frombuffer(sections["bytes"], "<u8")
        digests = sections["digests"]
        if not len(tokens) == len(sizes) == header["documents"] == len(digests) / 16:
            raise ValueError("columns of different lengths")
    except (KeyError, ValueError) as error:
        raise FileFormatError(f"{path}: malformed index of documents ({error}); prepare the folder again") from None
    return Index(tokens.astype(np.int64), sizes.astype(np.int64), [digests[i : i + 16] for i in range(0, len(digests), 16)])


def index_of(paths: Sequence[str | os.PathLike[str]]) -> Index | None:
    """The documents of a split's shards, from its first one on; None where these are others, or have no index."""
    first = Path(paths[0])
    found = re.fullmatch(r"(.+)_([^_]+)_0+\.bin", first.name)
    path = first.with_name(index_name(*found.groups())) if found else first
    return read_index(path) if found and path.name in read_manifest(first.parent).get("files", {}) else None


def file_entry(path: Path) -> list[Any]:
    """[bytes, digest] of a file as the manifest lists it.  Raises DataError when it cannot be read."""
    content = xxhash.xxh3_128()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                content.update(block)
            return [file.tell(), content.hexdigest()]
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}; check the path") from None


def shard_entry(path: Path) -> list[Any]:
    """[tokens, digest of the tokens] of a shard as the manifest lists it.  Raises ShardError."""
    tokens = read_shard(path)
    return [len(tokens), digest(tokens)]


def is_whole(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether all that a manifest lists lies in the folder unchanged, byte for byte."""
    try:
        shards = all(shard_entry(folder / name) == entry for name, entry in manifest["shards"].items())
        return bool(manifest["shards"]) and shards and all(file_entry(folder / name) == entry for name, entry in manifest["files"].items())
    except (SeedgramError, KeyError, AttributeError):
        return False


def refuse_foreign(out: Path) -> None:
    """Raises DataError for a folder with shards of other origin, which writing would mix with ours."""
    shards = sorted(out.glob("*_train_*.bin")) + sorted(out.glob("*_val_*.bin")) if out.is_dir() else []
    ours = read_manifest(out).get("shards", {})
    foreign = [path for path in shards if path.name not in ours]
    if foreign:
        raise DataError(f"{foreign[0]}: was not written by an earlier run of this program; choose another --out")


def write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    atomic_write(out / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
