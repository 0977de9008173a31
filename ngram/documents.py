"""Documents from files, folders and pipes: text, JSON, tables, plain or packed.  docs/data.md has the table of what is read and how.

A text file is one document; JSON lines, a JSON array, a CSV or TSV table and a Parquet file hold one a row, under a key or column that
is "text" unless another is named.
"""

import codecs
import csv
import io
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from ngram.container import STANDARD
from ngram.errors import DataError
from ngram.unpack import BLOCK_BYTES, PACKINGS, Damaged, packing_of, unpacked

KINDS = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
KNOWN = f"{', '.join(KINDS)}, all but Parquet also packed ({', '.join(PACKINGS)})"
MAX_DOCUMENT_BYTES = 1 << 30  # unpacked: a file of a megabyte can unpack to a terabyte
KNOWN_NAMES, NAMED, ALL_NAMES = "known", "named", "all"  # see find_inputs
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Progress = Callable[[int, int], None]


def kind_of(path: Path) -> tuple[str, str] | None:
    """(kind, packing) that a file's name tells, in any case: "B.TXT.gz" → ("txt", ".gz"); None when it tells none that is read here."""
    packing = _packing(path)
    kind = KINDS.get(Path(path.name.lower().removesuffix(packing)).suffix)
    return None if kind is None or (kind == "parquet" and packing) else (kind, packing)


def _packing(path: Path) -> str:
    return next((packing for packing in PACKINGS if path.name.lower().endswith(packing)), "")


def find_inputs(places: Sequence[str], unread: list[str] | None = None, *, names: str = KNOWN_NAMES) -> list[Path]:
    """The files meant by files and folders; folders are searched all the way down, by name.

    Hidden files and folders inside a folder (`._a.txt`, `.ipynb_checkpoints`) are left out; `unread` receives what was left out there.
    names: which files are read as a text although their names tell no kind: none (KNOWN_NAMES), those that are named themselves (NAMED), or
    those in folders too (ALL_NAMES), where they hold text.
    Raises DataError when a path is missing, of no known kind, an unreadable folder or one without text."""
    found, unread = list[Path](), [] if unread is None else unread
    more = "; --any-name reads other files as plain text" if names == KNOWN_NAMES else ""
    for place in map(Path, places):
        if os.path.isdir(place):
            left_out = list[str]()
            inside = sorted(_inside(place, left_out, is_text if names == ALL_NAMES else kind_of))
            if not inside:
                raise DataError(f"{place}: no text in this folder; put files there whose names end in {KNOWN}{more}")
            found += inside
            unread += sorted(left_out)
        elif not os.path.exists(place):
            raise DataError(f"{place}: no such file or folder; check the path")
        elif kind_of(place) is None and names == KNOWN_NAMES:
            raise DataError(f"{place}: not a kind of text file known here; its name must end in {KNOWN}{more}")
        else:
            found.append(place)
    return found


def _inside(folder: Path, left_out: list[str], wanted: Callable[[Path], object]) -> Iterator[Path]:
    """The files that are `wanted`; `left_out` receives the rest, a hidden folder or a link to a folder as one entry."""

    def stop(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot read this folder: {error.strerror}; check its permissions") from None

    for root, folders, files in os.walk(folder, onerror=stop):
        closed = [name for name in folders if name.startswith(".") or (Path(root) / name).is_symlink()]
        folders[:] = [name for name in folders if name not in closed]
        left_out += [f"{(Path(root) / name).relative_to(folder)}/" for name in closed]
        for path in (Path(root) / name for name in files):
            if path.name.startswith(".") or not os.path.isfile(path) or not wanted(path):
                left_out.append(str(path.relative_to(folder)))
            else:
                yield path


def is_text(path: Path) -> bool:
    """Whether a file's name tells a kind, or its beginning is UTF-8 without the byte 0; what cannot be read is, so that reading it says why."""
    try:
        if kind_of(path):
            return True
        with open(path, "rb") as raw:
            beginning = unpacked(raw, _packing(path)).read(BLOCK_BYTES)
        codecs.getincrementaldecoder("utf-8")().decode(beginning)  # a character that the block's end cuts is no fault
        return b"\0" not in beginning
    except UnicodeDecodeError:
        return False
    except (OSError, Damaged):
        return True


@contextmanager
def input_files(
    places: Sequence[str], kind: str = "txt", unread: list[str] | None = None, *, names: str = KNOWN_NAMES
) -> Iterator[list[Path]]:
    """The files of `find_inputs`, with what can be read only once, pipes and standard input ("-"), copied to files for the while.

    kind: what pipes hold, one of KINDS' values; how it is packed is told from its first bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        paths = list[Path]()
        for number, place in enumerate(places):
            is_pipe = os.path.exists(place) and not os.path.isfile(place) and not os.path.isdir(place)
            if place == STANDARD or is_pipe:
                paths.append(_copied(place, Path(scratch) / f"stdin{number}", kind))
            else:
                paths += find_inputs([place], unread, names=names)
        yield paths


def _copied(place: str, copy: Path, kind: str) -> Path:
    """What comes out of a pipe as a file, named so that its kind and packing can be told."""
    try:
        with open(copy, "wb") as file:
            if place == STANDARD:
                shutil.copyfileobj(sys.stdin.buffer, file)
            else:
                with open(place, "rb") as pipe:
                    shutil.copyfileobj(pipe, file)
        with open(copy, "rb") as written:
            suffix = next(suffix for suffix, known in KINDS.items() if known == kind)
            return copy.rename(copy.with_name(f"{copy.name}{suffix}{packing_of(written.read(8))}"))
    except OSError as error:
        raise DataError(f"{place}: cannot read: {error.strerror}; check the path and the space for temporary files") from None


def batches(texts: Iterable[str], chars: int, each: int = 1) -> Iterator[list[str]]:
    """Lists of texts of about `chars` characters together, a text counting for `each` more than it has."""
    batch, found = list[str](), 0
    for text in texts:
        batch.append(text)
        found += len(text) + each
        if found >= chars:
            yield batch
            batch, found = [], 0
    if batch:
        yield batch


def documents(
    paths: Sequence[Path], field: str, progress: Progress, tally: Counter[str] | None = None, *, keep_empty: bool = False
) -> Iterator[str]:
    """The non-empty documents of some files, in order; keep_empty: "" for each row that holds no text, so that rows can be numbered.

    field: key or column of the text; progress: called with (bytes read, bytes in all) of the files as they are on disk; tally: counts
    under "null" and "empty" the rows that hold no text.  Raises DataError naming file and line."""
    tally = Counter() if tally is None else tally
    total, before = sum(path.stat().st_size for path in paths), 0
    for path in paths:
        try:
            with open(path, "rb") as raw:
                for text in texts(raw, path, field):
                    if text or keep_empty:
                        yield text or ""
                    else:
                        tally["null" if text is None else "empty"] += 1
                    progress(before + (raw.tell() if not raw.closed else 0), total)
        except OSError as error:
            raise DataError(f"{path}: cannot read: {error.strerror}; check the file") from None
        before += path.stat().st_size


def texts(file: BinaryIO, path: Path, field: str) -> Iterator[str | None]:
    """The rows of one open file, None for a row without a text; `path` tells its kind and packing, and names it in errors.

    Raises DataError naming file and line, OSError as reading does."""
    kind, packing = kind_of(path) or ("txt", _packing(path))
    try:
        yield from _READERS[kind](unpacked(file, packing), field, str(path))
    except Damaged:
        raise DataError(f"{path}: cut or damaged, it does not unpack; copy or download it again") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start:,} is not UTF-8; convert the file") from None


def _checked(size: int, where: str) -> None:
    if size > MAX_DOCUMENT_BYTES:
        raise DataError(f"{where}: a document of more than {MAX_DOCUMENT_BYTES:,} bytes; cut it into smaller ones")


def _whole(file: BinaryIO, name: str) -> bytes:
    """A file of one piece, block by block: asked for all at once, memory would be taken for the largest that is allowed."""
    data = bytearray()
    while part := file.read(BLOCK_BYTES):
        data += part
        _checked(len(data), name)
    return bytes(data)


def _text(file: BinaryIO, field: str, name: str) -> Iterator[str | None]:
    yield _whole(file, name).decode().removeprefix("\ufeff")


def _text_of(value: Any, field: str, where: str) -> str | None:
    """The text of one JSON value: a string, or an object with the text under a key; None for null."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, dict) or field not in value:
        keys = f" (its keys: {', '.join(map(repr, list(value)[:8]))})" if isinstance(value, dict) else ""
        raise DataError(f"{where}: no text under {field!r}{keys}; name its key with --field")
    text = value[field]
    if text is not None and not isinstance(text, str):
        raise DataError(f"{where}: what stands under {field!r} is no text but {type(text).__name__}; name the text's key with --field")
    return text


def _json_lines(file: BinaryIO, field: str, name: str) -> Iterator[str | None]:
    """One JSON value a line; a file that begins with "[" is one array instead."""
    for number in count(1):
        line = file.readline(MAX_DOCUMENT_BYTES + 1)
        if not line:
            return
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
            if line.lstrip().startswith(b"["):
                yield from _json_array(line + _whole(file, name), field, name)
                return
        _checked(len(line), f"{name}: line {number}")
        if line.strip():
            try:
                value: Any = json.loads(line)
            except (ValueError, RecursionError):
                raise DataError(f"{name}: line {number}: not a JSON value in UTF-8; repair or remove the line") from None
            yield _text_of(value, field, f"{name}: line {number}")


def _json(file: BinaryIO, field: str, name: str) -> Iterator[str | None]:
    """An array of values, or one value after another, each on as many lines as it likes."""
    yield from _json_array(_whole(file, name), field, name)


def _json_array(data: bytes, field: str, name: str) -> Iterator[str | None]:
    text, at, decoder = data.decode().removeprefix("\ufeff").strip(), 0, json.JSONDecoder()
    for number in count(1):
        if at >= len(text):
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            line = getattr(error, "lineno", 1)
            raise DataError(f"{name}: line {line}: not JSON from here on; repair the file") from None
        while at < len(text) and text[at].isspace():
            at += 1
        if isinstance(value, list):
            yield from (_text_of(element, field, f"{name}: element {place}") for place, element in enumerate(value, 1))
        else:
            yield _text_of(value, field, f"{name}: value {number}")


def _table(file: BinaryIO, field: str, name: str, delimiter: str = ",") -> Iterator[str | None]:
    """Rows below a header that names the columns."""
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
            if field not in header:
                columns = ", ".join(map(repr, header[:8]))
                raise DataError(f"{name}: no column {field!r} (its columns: {columns}); name the text's column with --field")
            place = header.index(field)
            for row in rows:
                if row:
                    yield row[place] if place < len(row) else None
        except csv.Error as error:
            raise DataError(f"{name}: line {rows.line_num}: not a table ({error}); quote its fields as RFC 4180 says") from None
        except UnicodeDecodeError:
            raise DataError(f"{name}: not UTF-8 after line {rows.line_num}; convert the file") from None


def _tab_table(file: BinaryIO, field: str, name: str) -> Iterator[str | None]:
    yield from _table(file, field, name, "\t")


def _parquet(file: BinaryIO, field: str, name: str) -> Iterator[str | None]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{name}: reading Parquet needs the package pyarrow; install it with pip install 'seedgram[parquet]'") from None
    try:
        table = parquet.ParquetFile(file)
        if field not in table.schema_arrow.names:
            columns = ", ".join(map(repr, table.schema_arrow.names[:8]))
            raise DataError(f"{name}: no column {field!r} (its columns: {columns}); name the text's column with --field")
        for batch in table.iter_batches(batch_size=1024, columns=[field]):
            yield from (_text_of({field: value}, field, name) for value in batch.column(0).to_pylist())
    except pyarrow.ArrowException:
        raise Damaged from None


_READERS: dict[str, Callable[[BinaryIO, str, str], Iterator[str | None]]] = {
    "txt": _text, "jsonl": _json_lines, "json": _json, "csv": _table, "tsv": _tab_table, "parquet": _parquet,
}  # fmt: skip
