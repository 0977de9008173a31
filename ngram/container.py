"""The one file layout of the project: magic, JSON header with a section table, sections, SHA-256 of all before it.

    8 bytes   magic
    4 bytes   format version, little-endian
    4 bytes   length of the header in bytes, little-endian
    header    UTF-8 JSON with sorted keys; its "sections" lists [name, size_bytes] in file order
    sections  raw bytes, back to back
    32 bytes  SHA-256 of everything above

The same content gives the same bytes: no times, no paths, no pickle.  Sizes are checked against the file's length
before anything is allocated from them.
"""

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ngram.errors import FileFormatError, SeedgramError

_PREFIX = struct.Struct("<8sII")
DIGEST_BYTES = 32
MAX_HEADER_BYTES = 1 << 20  # a header is settings and checksums; a megabyte is already absurd


@contextmanager
def appearing(path: str | os.PathLike[str], *, text: bool = False) -> Iterator[IO[Any]]:
    """A file that takes the name `path` when the body ends well: written under a temporary name beside it, flushed to disk, renamed.

    text: ASCII instead of bytes.  Raises SeedgramError, naming the file, when it cannot be written; the old file then stays."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="ascii") if text else os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):  # a folder that became read-only keeps it; what stopped the writing is the news
                os.unlink(temporary)
            raise
    except OSError as error:
        raise SeedgramError(f"{target}: cannot write: {error.strerror}; free space or choose another folder") from None


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` as a whole file or not at all; see `appearing`."""
    with appearing(path) as file:
        file.write(data)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The whole file.  Raises SeedgramError, naming the file, when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SeedgramError(f"{path}: cannot read: {error.strerror}; check the path") from None


def pack(magic: bytes, version: int, header: Mapping[str, Any], sections: Mapping[str, bytes]) -> bytes:
    """One container as bytes.  magic: 8 bytes; header: JSON values only; sections: kept in the order given."""
    full_header = {**header, "sections": [[name, len(data)] for name, data in sections.items()]}
    header_bytes = json.dumps(full_header, sort_keys=True, separators=(",", ":")).encode()
    body = b"".join([_PREFIX.pack(magic, version, len(header_bytes)), header_bytes, *sections.values()])
    return body + hashlib.sha256(body).digest()


def unpack(data: bytes, magic: bytes, version: int, name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Header and sections of a container.  Raises FileFormatError naming the file `name` and the remedy."""
    if len(data) < _PREFIX.size + DIGEST_BYTES or data[:8] != magic:
        raise FileFormatError(f"{name}: not a {magic.decode(errors='replace').strip(chr(0) + ' ')} file; check the path")
    _, found_version, header_size = _PREFIX.unpack_from(data)
    if hashlib.sha256(memoryview(data)[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
        raise FileFormatError(f"{name}: digest does not match, the file was cut or altered; copy or make it again")
    if found_version != version:
        raise FileFormatError(f"{name}: format version {found_version}, this program reads {version}; make it again")
    try:
        if header_size > min(MAX_HEADER_BYTES, len(data) - _PREFIX.size - DIGEST_BYTES):
            raise ValueError("header longer than the file")
        header = json.loads(data[_PREFIX.size : _PREFIX.size + header_size])
        table = header.pop("sections")
        offset = _PREFIX.size + header_size
        sections: dict[str, bytes] = {}
        for section, size in table:
            if not isinstance(section, str) or type(size) is not int or not 0 <= size <= len(data) - DIGEST_BYTES - offset:
                raise ValueError(f"section {section!r} reaches past the end")
            sections[section] = data[offset : offset + size]
            offset += size
        if offset != len(data) - DIGEST_BYTES or len(sections) != len(table):
            raise ValueError("sections do not fill the file")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileFormatError(f"{name}: malformed header ({error}); make the file again") from None
    return header, sections
