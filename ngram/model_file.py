"""The files of `python -m ngram`: a model (tokenizer + coded table) and exact counts (tokenizer + sorted run).

A model holds adjusted counts on a log scale, which do not add up over corpora; a counts file holds what does, so `merge`
reads those.  Both are containers (container.py) with the tokenizer inside, xz-compressed.
"""

import lzma
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ngram import codec, prune
from ngram.container import atomic_write, pack, read_bytes, unpack
from ngram.contexts import unpack_keys
from ngram.errors import FileFormatError, SeedgramError
from ngram.runs import Run
from ngram.table import MAX_ORDER, PAD, NgramTable
from ngram.text import TextTokenizer

MODEL_MAGIC = b"SGNGRAM\0"
COUNTS_MAGIC = b"SGCOUNTS"
VERSION = 1
MAX_TOKENIZER_BYTES = 1 << 26  # 65,535 pieces take a few megabytes: more is an attempt to fill memory
MAX_EXPANSION = 64  # bytes a packed byte, beside a megabyte: tokenizers pack to a third
XZ_BYTES = 1 << 27  # of memory for unpacking: preset 9 needs 65 MiB
_COLUMNS = {"hi": "<u8", "lo": "<u8", "counts": "<u2", "overflow_index": "<i8", "overflow_count": "<i8"}
_CHECK_BLOCK = 1 << 20


@dataclass(frozen=True)
class Model:
    """What a model file says.  `section_bytes`: name → bytes in the file; `file_bytes`: all of it."""

    table: NgramTable
    tokenizer: TextTokenizer
    section_bytes: dict[str, int]
    file_bytes: int


@dataclass(frozen=True)
class Counts:
    """What a counts file says: exact counts of `positions` tokens under one tokenizer."""

    run: Run
    tokenizer: TextTokenizer
    positions: int


def model_bytes(table_code: bytes, tokenizer: TextTokenizer) -> bytes:
    """A model file from an encoded table."""
    header, section = _pack_tokenizer(tokenizer)
    return pack(MODEL_MAGIC, VERSION, header, {"tokenizer": section, "table": table_code})


def fit_model(table: NgramTable, tokenizer: TextTokenizer, max_bytes: int | None) -> tuple[NgramTable, bytes]:
    """The table as its reader will get it, and the whole model file, at most `max_bytes` long where that is given.

    Raises SeedgramError with the smallest possible file when max_bytes is below it."""
    if max_bytes is None:
        code = codec.encode(table)
        return codec.decode(code), model_bytes(code, tokenizer)
    frame = len(model_bytes(b"", tokenizer)) + len(str(max_bytes)) - 1  # the table's size is written in the header
    try:
        fitted, code = prune.fit_bytes(table, max_bytes - frame)
    except SeedgramError:
        smallest = codec.encode(prune.prune(table, table.vocab_size))
        if len(smallest) <= max_bytes - frame:
            raise
        minimum = len(smallest) + frame
        raise SeedgramError(
            f"--max-bytes {max_bytes}: too small, the tokenizer and single tokens alone take {minimum}; allow at least that"
        ) from None
    return fitted, model_bytes(code, tokenizer)


def read_model(path: str | os.PathLike[str]) -> Model:
    """Reads a model file.  Raises SeedgramError, naming the file, when it is missing, cut, altered or foreign."""
    name, data = os.fspath(path), read_bytes(path)
    header, sections = unpack(data, MODEL_MAGIC, VERSION, name)
    tokenizer = _unpack_tokenizer(header, sections, name, {"tokenizer", "table"})
    try:
        table = codec.decode(sections["table"])
    except FileFormatError as error:
        raise FileFormatError(f"{name}: {error}") from None
    if (table.vocab_size, table.bos) != (tokenizer.vocab_size, tokenizer.bos):
        raise FileFormatError(f"{name}: table and tokenizer have different vocabularies; train it again")
    return Model(table, tokenizer, {key: len(value) for key, value in sections.items()}, len(data))


def write_counts(path: str | os.PathLike[str], counts: Counts) -> None:
    """Writes a counts file; see `read_counts`."""
    run = counts.run
    header, section = _pack_tokenizer(counts.tokenizer)
    columns = dict(zip(_COLUMNS, run.columns(), strict=True))
    data = {name: np.ascontiguousarray(columns[name], dtype=kind).tobytes() for name, kind in _COLUMNS.items()}
    facts = {**header, "order": run.order, "positions": counts.positions}
    atomic_write(path, pack(COUNTS_MAGIC, VERSION, facts, {"tokenizer": section, **data}))


def read_counts(path: str | os.PathLike[str]) -> Counts:
    """Reads exact counts back.  Raises SeedgramError, naming the file, when it is missing, cut, altered or inconsistent."""
    name = os.fspath(path)
    header, sections = unpack(read_bytes(path), COUNTS_MAGIC, VERSION, name)
    tokenizer = _unpack_tokenizer(header, sections, name, {"tokenizer", *_COLUMNS})
    try:
        columns = [np.frombuffer(sections[key], kind) for key, kind in _COLUMNS.items()]
        order, positions = header["order"], header["positions"]
        if type(order) is not int or not 1 <= order <= MAX_ORDER or type(positions) is not int:
            raise ValueError("order or positions")
        run = Run(order, *columns)
        _check_run(run, tokenizer.vocab_size, positions)
    except (ValueError, KeyError) as error:
        raise FileFormatError(f"{name}: counts are inconsistent ({error}); count again") from None
    return Counts(run, tokenizer, positions)


def is_counts_file(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as a counts file does."""
    return _first_bytes(path) == COUNTS_MAGIC


def is_arpa_file(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as an ARPA file does."""
    return _first_bytes(path).lstrip().startswith(b"\\data")


def _first_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise SeedgramError(f"{path}: cannot read: {error.strerror}; check the path") from None


def _check_run(run: Run, vocab_size: int, positions: int) -> None:
    """Raises ValueError unless a run could have been counted: lengths, order of keys, tokens, sums."""
    size = len(run.hi)
    if not len(run.lo) == len(run.counts) == size or len(run.overflow_index) != len(run.overflow_count):
        raise ValueError("columns of different lengths")
    if not ((run.hi[1:] > run.hi[:-1]) | (run.hi[1:] == run.hi[:-1]) & (run.lo[1:] > run.lo[:-1])).all():
        raise ValueError("keys do not rise")
    if not np.array_equal(np.flatnonzero(run.counts == 65535), run.overflow_index) or (run.overflow_count < 65535).any():
        raise ValueError("overflow")
    if (run.counts == 0).any() or run.total() != positions:
        raise ValueError("sum")
    for start in range(0, size, _CHECK_BLOCK):
        block = slice(start, start + _CHECK_BLOCK)
        ngrams = unpack_keys(run.hi[block], run.lo[block], MAX_ORDER)
        used, spare = ngrams[:, MAX_ORDER - run.order :], ngrams[:, : MAX_ORDER - run.order]
        if spare.any() or ((used >= vocab_size) & (used != PAD)).any() or (used[:, -1] == PAD).any():
            raise ValueError("tokens outside the vocabulary")


def _pack_tokenizer(tokenizer: TextTokenizer) -> tuple[dict[str, Any], bytes]:
    packed = lzma.compress(tokenizer.model, lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=9 | lzma.PRESET_EXTREME)
    return {"tokenizer_bytes": len(tokenizer.model)}, packed


def _unpack_tokenizer(header: dict[str, Any], sections: dict[str, bytes], name: str, wanted: set[str]) -> TextTokenizer:
    """The tokenizer inside; also checks that exactly the `wanted` sections are there."""
    size = header.get("tokenizer_bytes")
    if set(sections) != wanted or type(size) is not int or not 0 < size <= MAX_TOKENIZER_BYTES:
        raise FileFormatError(f"{name}: sections are missing; make the file again")
    if size > (1 << 20) + MAX_EXPANSION * len(sections["tokenizer"]):
        raise FileFormatError(f"{name}: {len(sections['tokenizer'])} bytes claim to hold a tokenizer of {size}; make the file again")
    try:
        model = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_BYTES).decompress(sections["tokenizer"], max_length=size + 1)
    except lzma.LZMAError:
        model = b""
    if len(model) != size:
        raise FileFormatError(f"{name}: the tokenizer inside does not unpack; make the file again")
    return TextTokenizer(model, name)
