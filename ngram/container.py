"""The one file layout of the project (docs/formats.md): magic, JSON header with a section table, sections, SHA-256 of all before it.

The same content gives the same bytes: no times, no paths, no pickle.  Sizes are checked before anything is allocated from them.
"""

import errno
import hashlib
import json
import os
import secrets
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import IO, Any

from ngram.errors import FileFormatError, SeedgramError

_PREFIX = struct.Struct("<8sII")
DIGEST_BYTES = 32
MAX_HEADER_BYTES = 1 << 20  # a header is settings and checksums: this is absurd
MAX_NAME_BYTES = 255  # of one file name, on every file system in use
STANDARD = "-"  # stands for standard input and output wherever a file is named
_kept: list[Any] = []  # standard output, where it is kept for the file "-"


@contextmanager
def appearing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """The file `path`, open for writing: every output of the project is written through this.

    A regular file, or a new one, is written under a temporary name beside it, flushed to disk and renamed when the body ends well: it
    appears whole or not at all, keeps its mode, and symbolic links keep pointing at it.  A pipe or a device is written to directly; "-" is
    standard output.  Raises SeedgramError, naming the file, when it cannot be written; the old file then stays."""
    name = os.fspath(path)
    try:
        with _open_stream(name) if _is_stream(name) else _replacing(Path(os.path.realpath(name))) as file:
            yield file
    except BrokenPipeError:  # run_cli ends the program without a word
        raise
    except OSError as error:
        raise _unwritable(name, error) from None


@contextmanager
def kept_stdout() -> Iterator[None]:
    """Keeps standard output for the file "-": what the body prints goes to standard error."""
    _kept.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _kept.pop()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises the SeedgramError that `appearing` would end with, before any work is done for the file; leaves nothing behind."""
    name = os.fspath(path)
    try:
        if not _is_stream(name):
            target = Path(os.path.realpath(name))
            missing = [place for place in (target, *target.parents) if place == target or not os.path.lexists(place)]
            if any(len(os.fsencode(place.name)) > MAX_NAME_BYTES for place in missing):
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            tempfile.TemporaryFile(dir=missing[-1].parent).close()
        elif name != STANDARD:
            os.stat(name)  # it may be a descriptor that nobody has opened
    except OSError as error:
        raise _unwritable(name, error) from None


def _unwritable(name: str, error: OSError) -> SeedgramError:
    return SeedgramError(f"{name or repr(name)}: cannot write: {error.strerror}; free space or choose another file")


def _is_stream(name: str) -> bool:
    """Whether a name is standard output, an open descriptor, a pipe or a device.  Raises OSError for no name at all, and for a folder."""
    if name == STANDARD:
        return True
    if not name or os.path.isdir(name):
        raise OSError(errno.EISDIR, "it is a folder" if name else "it is no file name")
    if name in ("/dev/stdout", "/dev/stderr") or name.startswith(("/dev/fd/", "/proc/")):
        return True  # even where it stands for a regular file: whoever opened that holds the file, not its name
    return os.path.exists(name) and not os.path.isfile(name)


@contextmanager
def _open_stream(name: str) -> Iterator[IO[bytes]]:
    if name != STANDARD:
        with open(name, "wb") as file:
            yield file
        return
    out = _kept[-1] if _kept else sys.stdout
    out.flush()  # what was printed before comes before
    yield out.buffer
    out.flush()


@contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        os.stat(target)  # a name too long is refused before the work
    temporary = target.parent / f".{target.name[:32]}.{secrets.token_hex(4)}"
    file = open(temporary, "xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):  # what stopped the writing is the news
            os.unlink(temporary)
        raise


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` as a whole file or not at all; see `appearing`."""
    with appearing(path) as file:
        file.write(data)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The whole file, pipe or device; "-" is standard input.  Raises SeedgramError, naming the file, when it cannot be read."""
    try:
        return sys.stdin.buffer.read() if os.fspath(path) == STANDARD else Path(path).read_bytes()
    except OSError as error:
        raise SeedgramError(f"{os.fspath(path) or repr('')}: cannot read: {error.strerror}; check the path") from None


def head(magic: bytes, version: int, header: Mapping[str, Any], sizes: Mapping[str, int]) -> bytes:
    """How a container begins; its sections follow, then the SHA-256 of all."""
    header_bytes = json.dumps({**header, "sections": list(sizes.items())}, sort_keys=True, separators=(",", ":")).encode()
    return _PREFIX.pack(magic, version, len(header_bytes)) + header_bytes


def pack(magic: bytes, version: int, header: Mapping[str, Any], sections: Mapping[str, bytes]) -> bytes:
    """One container as bytes.  magic: 8 bytes; header: JSON values only; sections: kept in the order given."""
    body = b"".join([head(magic, version, header, {name: len(data) for name, data in sections.items()}), *sections.values()])
    return body + hashlib.sha256(body).digest()


def unpack(data: bytes, magic: bytes, version: int, name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Header and sections of a container.  Raises FileFormatError naming the file `name` and the remedy."""
    end = len(data) - DIGEST_BYTES
    if end < _PREFIX.size or data[:8] != magic:
        raise FileFormatError(f"{name}: not a {magic.decode(errors='replace').strip(chr(0) + ' ')} file; check the path")
    _, found_version, header_size = _PREFIX.unpack_from(data)
    if hashlib.sha256(memoryview(data)[:end]).digest() != data[end:]:
        raise FileFormatError(f"{name}: digest does not match, the file was cut or altered; copy or make it again")
    if found_version != version:
        raise FileFormatError(f"{name}: format version {found_version}, this program reads {version}; make it again")
    try:
        if header_size > min(MAX_HEADER_BYTES, end - _PREFIX.size):
            raise ValueError("header longer than the file")
        offset = _PREFIX.size + header_size
        header = json.loads(data[_PREFIX.size : offset])
        table = header.pop("sections")
        sections: dict[str, bytes] = {}
        for section, size in table:
            if not isinstance(section, str) or type(size) is not int or not 0 <= size <= end - offset:
                raise ValueError(f"section {section!r} reaches past the end")
            sections[section] = data[offset : offset + size]
            offset += size
        if offset != end or len(sections) != len(table):
            raise ValueError("sections do not fill the file")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileFormatError(f"{name}: malformed header ({error}); make the file again") from None
    return header, sections
