"""Packed files, block by block: gzip, bzip2, xz and zstd, each with several members or frames back to back.

The libraries' own readers take some cut files for short ones (zstd), and pass over what follows a whole stream (xz, bzip2): here whatever
does not unpack to the file's last byte is an error.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import zstandard

BLOCK_BYTES = 1 << 17  # of an unpacked file taken at a time
PACKED_BYTES = 1 << 14  # packed bytes taken at a time: zstd can make 32,768 of one
WINDOW_BYTES = 1 << 31  # the longest that zstd writes, with --long=31

_FRAMES: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).decompressobj(),
}
PACKINGS = tuple(_FRAMES)
_MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
BEFORE, INSIDE, BETWEEN = range(3)  # where a reader is: no frame yet, in one, behind one
_PADDED = (".gz", ".xz")  # formats whose streams may be followed by zeros


class Damaged(Exception):
    """A file that does not unpack: cut, altered, or followed by something else."""


def packing_of(beginning: bytes) -> str:
    """The suffix of the packing that a file's first bytes tell, or "" for none: for pipes, which have no telling name."""
    return next((suffix for magic, suffix in _MAGIC.items() if beginning.startswith(magic)), "")


def unpacked(raw: BinaryIO, packing: str) -> BinaryIO:
    """The uncompressed bytes of an open file; packing: one of PACKINGS, or "".  Reading raises Damaged where it does not unpack."""
    return io.BufferedReader(_Frames(raw, packing), BLOCK_BYTES) if packing else raw


class _Frames(io.RawIOBase):
    """The content of frames back to back."""

    def __init__(self, raw: BinaryIO, packing: str) -> None:
        self._raw, self._packing, self._frame = raw, packing, _FRAMES[packing]()
        self._packed, self._ready, self._state = b"", memoryview(b""), BEFORE

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and self._more():
            pass
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _more(self) -> bool:
        """Unpacks the next packed bytes; False at the end of the file."""
        packed = self._packed
        if self._frame.eof:
            packed, self._frame, self._state = self._frame.unused_data, _FRAMES[self._packing](), BETWEEN
        packed, self._packed = packed or self._raw.read(PACKED_BYTES), b""
        if not packed:
            if self._state != BETWEEN:
                raise Damaged
            return False
        if self._state == BETWEEN and self._packing in _PADDED:
            self._packed = packed.lstrip(b"\0")
            if len(self._packed) < len(packed):
                return True
            packed, self._packed = self._packed, b""
        try:
            self._ready = memoryview(self._frame.decompress(packed))
        except (lzma.LZMAError, zstandard.ZstdError, zlib.error, OSError, EOFError):
            raise Damaged from None
        self._state = INSIDE
        return True
