"""Documents from files: `.txt` (one document a file), `.jsonl` (one JSON object a line), either compressed, or folders."""

import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from hybrid.data import DataError

KINDS = (".txt", ".jsonl")
PACKINGS = ("", ".xz", ".zst", ".gz")
SUFFIXES = tuple(kind + packing for kind in KINDS for packing in PACKINGS)
MAX_DOCUMENT_BYTES = 1 << 30  # unpacked: a file of a megabyte can unpack to a terabyte
BLOCK_BYTES = 1 << 17  # packed bytes taken at a time: one may unpack to a thousand times as much

_DAMAGE = (lzma.LZMAError, zstandard.ZstdError, gzip.BadGzipFile, zlib.error, EOFError)


def find_inputs(places: Sequence[str]) -> list[Path]:
    """The text files meant by files and folders, folders searched all the way down, by name.

    Raises DataError when a path is missing, of no known kind, or a folder without text."""
    found = []
    for place in map(Path, places):
        if place.is_dir():
            inside = sorted(path for path in place.rglob("*") if path.is_file() and path.name.endswith(SUFFIXES))
            if not inside:
                raise DataError(f"{place}: no text in this folder; put files named {', '.join(SUFFIXES)} there")
            found += inside
        elif not place.is_file():
            raise DataError(f"{place}: no such file or folder; check the path")
        elif not place.name.endswith(SUFFIXES):
            raise DataError(f"{place}: not a kind of text file known here; name it {', '.join(SUFFIXES)}")
        else:
            found.append(place)
    return found


class _ZstdFrames(io.RawIOBase):
    """The content of zstd frames back to back.  The library's own stream reader takes a cut file for a short one."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self._frame = raw, zstandard.ZstdDecompressor().decompressobj()
        self._packed, self._ready, self._inside = b"", memoryview(b""), False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if self._frame.eof:
                self._packed = self._frame.unused_data
                self._frame, self._inside = zstandard.ZstdDecompressor().decompressobj(), False
            self._packed = self._packed or self._raw.read(BLOCK_BYTES)
            if not self._packed:
                if self._inside:
                    raise EOFError
                return 0
            self._ready, self._packed, self._inside = memoryview(self._frame.decompress(self._packed)), b"", True
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


def _unpacked(path: Path, raw: BinaryIO) -> io.BufferedIOBase | BinaryIO:
    """The uncompressed bytes of an open file, by its name."""
    if path.suffix == ".xz":
        return lzma.open(raw)
    if path.suffix == ".gz":
        return gzip.open(raw)
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdFrames(raw), BLOCK_BYTES)
    return raw


def _text_of(line: bytes, field: str, where: str) -> str:
    """The text in one line of JSON."""
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not a JSON object in UTF-8; repair or remove the line") from None
    text = value.get(field) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{where}: no text under {field!r}; name its key with --field")
    return text


def _checked(size: int, where: str) -> None:
    if size > MAX_DOCUMENT_BYTES:
        raise DataError(f"{where}: a document of more than {MAX_DOCUMENT_BYTES:,} bytes; cut it into smaller ones")


def _whole(file: Any, name: str) -> bytes:
    """A file of one document, block by block: asked for all at once, memory would be taken for the largest that is allowed."""
    data = bytearray()
    while part := file.read(BLOCK_BYTES):
        data += part
        _checked(len(data), name)
    return bytes(data)


def _lines(file: Any, field: str, name: str) -> Iterator[str]:
    for number in count(1):
        line = file.readline(MAX_DOCUMENT_BYTES + 1)
        if not line:
            return
        _checked(len(line), f"{name}: line {number}")
        if line.strip():
            yield _text_of(line, field, f"{name}: line {number}")


def documents(paths: Sequence[Path], field: str, progress: Callable[[int, int], None]) -> Iterator[str]:
    """The non-empty documents of some files, in order.

    progress: called with (bytes read, bytes in all) of the files as they are on disk.  Raises DataError naming file and line."""
    total, before = sum(path.stat().st_size for path in paths), 0
    for path in paths:
        try:
            with open(path, "rb") as raw:
                file = _unpacked(path, raw)
                if ".jsonl" in path.suffixes[-2:]:
                    texts = _lines(file, field, str(path))
                else:
                    texts = iter([_whole(file, str(path)).decode()])
                for text in texts:
                    if text:
                        yield text
                    progress(before + raw.tell(), total)
        except _DAMAGE:
            raise DataError(f"{path}: cut or damaged, it does not unpack; copy or download it again") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: byte {error.start:,} is not UTF-8; convert the file") from None
        except OSError as error:
            raise DataError(f"{path}: cannot read: {error.strerror}; check the file") from None
        before += path.stat().st_size
