"""Byte compressors for the sections of an artifact: zlib, LZMA, zstd-22, brotli, and the best of those installed."""

import importlib.util
import lzma
import zlib
from typing import Any

from hybrid.config import ConfigError, QuantConfig
from ngram.threads import each

CODECS = ("zlib", "lzma", "zstd", "brotli")
_PACKAGES = {"zstd": "zstandard", "brotli": "brotli"}  # the other two come with Python
# Sections are near-random bytes: position bits only dilute the literal model, so pb = 0
_LZMA_FILTERS: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 3, "lp": 0, "pb": 0}]


def is_installed(codec: str) -> bool:
    return codec not in _PACKAGES or importlib.util.find_spec(_PACKAGES[codec]) is not None


def check_codecs(config: QuantConfig) -> None:
    """Raises ConfigError when the codec asked for is not installed: at the start of a run, not when it is saved."""
    if config.codec != "best" and not is_installed(config.codec):
        package = _PACKAGES[config.codec]
        raise ConfigError(f"--codec {config.codec}: package {package} is not installed; pip install {package}, or --codec best")


def _encode(data: bytes, codec: str) -> bytes:
    if codec == "zlib":
        return zlib.compress(data, 9)
    if codec == "lzma":
        return lzma.compress(data, lzma.FORMAT_RAW, filters=_LZMA_FILTERS)
    if codec == "zstd":
        import zstandard

        packed: bytes = zstandard.ZstdCompressor(level=22).compress(data)
        return packed
    import brotli

    smallest: bytes = brotli.compress(data, quality=11, lgwin=24)
    return smallest


def compress(data: bytes, codec: str) -> tuple[str, bytes]:
    """(name of the codec used, compressed bytes).  "best" tries every installed codec and storing; ties go to the first."""
    if codec != "best":
        return codec, _encode(data, codec)
    names = [name for name in CODECS if is_installed(name)]
    tried = [("none", data), *zip(names, each(lambda name: _encode(data, name), names), strict=True)]
    return min(tried, key=lambda pair: len(pair[1]))


def decompress(data: bytes, codec: str, raw_bytes: int) -> bytes:
    """The `raw_bytes` bytes that `compress` was given.  Raises ConfigError if the codec is missing, ValueError if data are malformed.

    No more than raw_bytes + 1 bytes are ever allocated for the result, whatever the data claim."""
    check_codecs(QuantConfig(codec=codec) if codec != "none" else QuantConfig())
    try:
        raw = _decode(data, codec, raw_bytes)
    except (lzma.LZMAError, zlib.error, EOFError) as error:
        raise ValueError(f"malformed {codec} data: {error}") from None
    if len(raw) != raw_bytes:
        raise ValueError(f"{codec} data give {len(raw)} bytes or more, {raw_bytes} were promised")
    return raw


def _decode(data: bytes, codec: str, raw_bytes: int) -> bytes:
    if codec == "none":
        return data
    if codec == "zlib":
        return zlib.decompressobj().decompress(data, raw_bytes + 1)
    if codec == "lzma":
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA_FILTERS).decompress(data, raw_bytes + 1)
    if codec == "zstd":
        import zstandard

        try:
            with zstandard.ZstdDecompressor().stream_reader(data) as reader:
                raw: bytes = reader.read(raw_bytes + 1)
        except zstandard.ZstdError as error:
            raise ValueError(f"malformed zstd data: {error}") from None
        return raw
    import brotli

    decoder, out, rest = brotli.Decompressor(), b"", data
    try:
        while len(out) <= raw_bytes:  # brotli hands out as much as the limit allows, then goes on with empty input
            part = decoder.process(rest, output_buffer_limit=raw_bytes + 1 - len(out))
            out, rest = out + part, b""
            if not part:
                break
    except brotli.error as error:
        raise ValueError(f"malformed brotli data: {error}") from None
    return out
