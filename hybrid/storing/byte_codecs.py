"""Compresses the sections of an artifact with brotli, the smallest of four codecs on every section of weights (LOG.md)."""

import struct

import brotli

from ngram.threads import each

PART_BYTES = 1 << 20  # that one thread packs; apart, parts of 1 MiB of weights were 0.02 % larger (LOG.md)


def compress(data: bytes) -> tuple[str, bytes]:
    """(name of the codec, the smaller of `data` itself and its compressed bytes).  Equal data give equal bytes."""
    pieces = (data[start : start + PART_BYTES] for start in range(0, max(1, len(data)), PART_BYTES))
    parts = each(lambda piece: brotli.compress(piece, quality=11, lgwin=24), pieces)
    name, sizes = ("brotli", b"") if len(parts) == 1 else ("brotli parts", struct.pack(f"<{len(parts)}I", *map(len, parts)))
    packed = sizes + b"".join(parts)
    return (name, packed) if len(packed) < len(data) else ("none", data)


def _promised(raw: bytes, raw_bytes: int) -> bytes:
    if len(raw) != raw_bytes:
        raise ValueError(f"data give {len(raw)} bytes or more, {raw_bytes} were promised")
    return raw


def _decode_parts(data: bytes, raw_bytes: int) -> bytes:
    count = -(-raw_bytes // PART_BYTES)
    if len(data) < 4 * count:
        raise ValueError(f"{count} parts in {len(data)} bytes")
    at, out = 4 * count, list[bytes]()
    for i, size in enumerate(struct.unpack_from(f"<{count}I", data)):
        out.append(_decode(data[at : at + size], min(PART_BYTES, raw_bytes - i * PART_BYTES)))
        at += size
    if at != len(data):
        raise ValueError(f"parts end at byte {at} of {len(data)}, where {raw_bytes} raw bytes were promised")
    return b"".join(out)


def _decode(data: bytes, raw_bytes: int) -> bytes:
    decoder, out, rest = brotli.Decompressor(), b"", data
    try:
        while len(out) <= raw_bytes:  # brotli hands out as much as the limit allows, then goes on with empty input
            part = decoder.process(rest, output_buffer_limit=raw_bytes + 1 - len(out))
            out, rest = out + part, b""
            if not part:
                break
    except brotli.error as error:
        raise ValueError(f"malformed brotli data: {error}") from None
    return _promised(out, raw_bytes)


DECODERS = {"none": _promised, "brotli": _decode, "brotli parts": _decode_parts}  # the last: the parts' sizes, uint32, before them


def decompress(data: bytes, codec: str, raw_bytes: int) -> bytes:
    """The `raw_bytes` bytes that `compress` was given.  Raises ValueError for another codec, or if data are malformed.

    No more than raw_bytes + 1 bytes are ever allocated for the result, whatever the data claim."""
    if codec not in DECODERS:
        raise ValueError(f"codec {codec!r} is none of {', '.join(DECODERS)}")
    return DECODERS[codec](data, raw_bytes)
