"""The files of `python -m ngram`: a model (tokenizer + coded table) and exact counts (tokenizer + sorted run).

In place of a tokenizer there may be a vocabulary of words, or only the number of token ids: the header says so.

A model holds adjusted counts on a log scale, which cannot be added up over corpora; a counts file holds exact counts, which can,
so `merge` reads counts files.  Both are containers (container.py) with the tokenizer inside, xz-compressed.
"""

import hashlib
import lzma
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ngram.arrays import pad_of
from ngram.container import appearing, head, pack, read_bytes, unpack
from ngram.counting.keys import slot_bits, slot_mask
from ngram.counting.run import Run
from ngram.counting.run_file import RunFile
from ngram.counting.unpack_keys import unpack_keys
from ngram.errors import FileFormatError, SeedgramError
from ngram.storing import prune, table_codec
from ngram.table import MAX_ORDER, NgramTable
from ngram.vocabulary import Vocabulary, from_model, kind_of

MODEL_MAGIC = b"SGNGRAM\0"
COUNTS_MAGIC = b"SGCOUNTS"
VERSION = 1
MAX_TOKENIZER_BYTES = 1 << 26  # 65,535 pieces take a few megabytes: more is an attempt to fill memory
MAX_EXPANSION = 64  # bytes a packed byte, beside a megabyte: tokenizers pack to a third
XZ_BYTES = 1 << 27  # of memory for unpacking: preset 9 needs 65 MiB
_COLUMNS = {"hi": "<u8", "lo": "<u8", "counts": "<u2", "overflow_index": "<i8", "overflow_count": "<i8"}
_CHECK_BLOCK = 1 << 20
AnyRun = TypeVar("AnyRun", Run, RunFile)


@dataclass(frozen=True)
class Model:
    """What a model file says.  `section_bytes`: name → bytes in the file; `file_bytes`: all of it."""

    table: NgramTable
    tokenizer: Vocabulary
    section_bytes: dict[str, int]
    file_bytes: int


@dataclass(frozen=True)
class Counts(Generic[AnyRun]):
    """What a counts file says: exact counts of `positions` tokens under one tokenizer."""

    run: AnyRun
    tokenizer: Vocabulary
    positions: int


def model_bytes(table_code: bytes, tokenizer: Vocabulary) -> bytes:
    """A model file from an encoded table."""
    header, section = _pack_tokenizer(tokenizer)
    return pack(MODEL_MAGIC, VERSION, header, {"tokenizer": section, "table": table_code})


def fit_model(table: NgramTable, tokenizer: Vocabulary, max_bytes: int | None) -> tuple[NgramTable, bytes]:
    """The table as its reader will get it, and the whole model file, at most `max_bytes` long where that is given.

    Raises SeedgramError with the smallest possible file when max_bytes is below it."""
    if max_bytes is None:
        code = table_codec.encode(table)
        return table_codec.decode(code), model_bytes(code, tokenizer)
    frame = len(model_bytes(b"", tokenizer)) + len(str(max_bytes)) - 1  # the table's size is written in the header
    try:
        fitted, code = prune.fit_bytes(table, max_bytes - frame)
    except SeedgramError:
        smallest = table_codec.encode(prune.prune(table, table.vocab_size))
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
        table = table_codec.decode(sections["table"])
    except FileFormatError as error:
        raise FileFormatError(f"{name}: {error}") from None
    if (table.vocab_size, table.bos) != (tokenizer.vocab_size, tokenizer.bos):
        raise FileFormatError(f"{name}: table and tokenizer have different vocabularies; train it again")
    return Model(table, tokenizer, {key: len(value) for key, value in sections.items()}, len(data))


def write_counts(path: str | os.PathLike[str], counts: Counts[Run] | Counts[RunFile]) -> None:
    """Writes a counts file, block by block where the counts lie in files; see `read_counts`."""
    run = counts.run
    header, section = _pack_tokenizer(counts.tokenizer)
    facts = {**header, "order": run.order, "positions": counts.positions}
    sizes = {name: np.dtype(kind).itemsize * (len(run.overflow_index) if "overflow" in name else len(run)) for name, kind in _COLUMNS.items()}
    with appearing(path) as file:
        hasher = hashlib.sha256()
        columns = (block for name, kind in _COLUMNS.items() for block in _blocks(run, name, kind))
        for block in (head(COUNTS_MAGIC, VERSION, facts, {"tokenizer": len(section), **sizes}), section, *columns):
            hasher.update(block)
            file.write(block)
        file.write(hasher.digest())


def _blocks(run: Run | RunFile, name: str, kind: str) -> Iterator[Any]:
    """A column's bytes, little-endian."""
    if isinstance(run, RunFile):
        yield from run.blocks(name)
    else:
        yield np.ascontiguousarray(getattr(run, name), kind).data.cast("B")


def read_counts(path: str | os.PathLike[str]) -> Counts[Run]:
    """Reads exact counts back.  Raises SeedgramError, naming the file, when it is missing, cut, altered or inconsistent."""
    name = os.fspath(path)
    header, sections = unpack(read_bytes(path), COUNTS_MAGIC, VERSION, name)
    tokenizer = _unpack_tokenizer(header, sections, name, {"tokenizer", *_COLUMNS})
    try:
        hi, lo, counts, *overflow = (np.frombuffer(sections[key], kind) for key, kind in _COLUMNS.items())
        order, positions = header["order"], header["positions"]
        if type(order) is not int or not 1 <= order <= MAX_ORDER or type(positions) is not int:
            raise ValueError("order or positions")
        run = Run(order, hi, lo, counts, overflow[0], overflow[1], slot_bits(tokenizer.vocab_size, order))
        _check_run(run, tokenizer.vocab_size, positions)
    except (ValueError, KeyError) as error:
        raise FileFormatError(f"{name}: counts are inconsistent ({error}); count again") from None
    return Counts(run, tokenizer, positions)


def is_counts_file(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as a counts file does."""
    try:
        with Path(path).open("rb") as file:
            return file.read(8) == COUNTS_MAGIC
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
    mask_hi, mask_lo = slot_mask(run.order, run.bits)
    for start in range(0, size, _CHECK_BLOCK):
        hi, lo = run.hi[start : start + _CHECK_BLOCK], run.lo[start : start + _CHECK_BLOCK]
        ngrams = unpack_keys(hi, lo, run.order, run.bits)
        pad = pad_of(ngrams.dtype)
        if (hi & ~mask_hi | lo & ~mask_lo).any() or ((ngrams >= vocab_size) & (ngrams != pad)).any() or (ngrams[:, -1] == pad).any():
            raise ValueError("tokens outside the vocabulary")


def _pack_tokenizer(tokenizer: Vocabulary) -> tuple[dict[str, Any], bytes]:
    packed = lzma.compress(tokenizer.model, lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=9 | lzma.PRESET_EXTREME)
    return {"tokenizer_bytes": len(tokenizer.model), **({"vocabulary": kind} if (kind := kind_of(tokenizer)) else {})}, packed


def _unpack_tokenizer(header: dict[str, Any], sections: dict[str, bytes], name: str, wanted: set[str]) -> Vocabulary:
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
    return from_model(str(header.get("vocabulary", "")), model, name)
