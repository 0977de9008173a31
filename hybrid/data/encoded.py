"""Documents that are encoded and wait on the disk until all are known: memory holds 53 bytes a document, and no token.

A part of the work is three files: tokens as they are, one row a document, and a state that is written after both, so that what a
killed process left behind the last state is cut off and done again.  Documents are taken in segments that depend on the text alone;
part I of N encodes every N-th segment, and the rows' numbers of segments put all parts back into the order of the text.

Shapes: D documents.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from hybrid.data.prepared import document_digest
from hybrid.data.shards import DataError
from ngram.container import atomic_write, read_bytes
from ngram.documents import batches
from ngram.errors import FileFormatError

SEGMENT_CHARS = 1 << 23  # of text, encoded at once on all cores and noted on the disk together
STATE, ROWS, TOKENS, MODEL = "part.json", "part.documents", "part.tokens", "tokenizer.model"
FILES = (STATE, ROWS, TOKENS, MODEL)
ROW = np.dtype([("stream", "u1"), ("segment", "<u4"), ("tokens", "<u4"), ("bytes", "<u8"), ("digest", "V16"), ("key", "<u8")])
TRAIN, VAL = 0, 1  # streams: the inputs, and what --val names
OPEN_FILES = 256

Encode = Callable[[Iterator[str]], Iterator[npt.NDArray[Any]]]


class SpaceError(DataError):
    """The disk is full or cannot be written to: what was encoded stays, so that a second call goes on from there."""


def val_key(data: bytes) -> int:
    """64 bits of a document's text that say which side it falls on, so that copies of it stay on one."""
    return xxhash.xxh3_64_intdigest(data, seed=1)


def segments(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of texts of about SEGMENT_CHARS together."""
    return batches(texts, SEGMENT_CHARS)


class Writer:
    """One part in a folder of its own, begun or gone on with.

    of: everything that the encoded documents follow from, JSON-able.  part: its number, from 1, of `parts`."""

    def __init__(self, folder: Path, of: dict[str, Any], part: int, parts: int) -> None:
        self.folder, self.part, self.parts = folder, part, parts
        self._state: dict[str, Any] = {"of": of, "part": part, "parts": parts, "dtype": "", "done": [0, 0], "sizes": [0, 0], "ended": None}
        found = read_state(folder)
        if found and all(found[key] == self._state[key] for key in ("of", "part", "parts")) and self._has(found["sizes"]):
            self._state = found

    def _has(self, sizes: Sequence[int]) -> bool:
        paths = [self.folder / TOKENS, self.folder / ROWS]
        return all(path.is_file() and path.stat().st_size >= size for path, size in zip(paths, sizes, strict=True))

    @property
    def ended(self) -> dict[str, Any] | None:
        """What `end` was told, of a part that is complete."""
        ended: dict[str, Any] | None = self._state["ended"]
        return ended

    def model(self) -> bytes | None:
        """The tokenizer of a part that was begun."""
        path = self.folder / MODEL
        return path.read_bytes() if any(self._state["done"]) and path.is_file() else None

    def keep_model(self, model: bytes) -> None:
        """Keeps the tokenizer beside the documents: a part that is gone on with need not train it again."""
        if self.model() != model:
            atomic_write(self.folder / MODEL, model)

    def figures(self) -> dict[str, int]:
        """What the part holds by now."""
        itemsize = np.dtype(self._state["dtype"] or "<u2").itemsize
        return {"documents": self._state["sizes"][1] // ROW.itemsize, "tokens": self._state["sizes"][0] // itemsize}

    def add(self, stream: int, texts: Iterator[str], encode: Encode) -> None:
        """Reads all texts of a stream and encodes the segments that are this part's and not there yet."""
        for number, segment in enumerate(segments(texts)):
            if number % self.parts == self.part - 1 and number >= self._state["done"][stream]:
                self._append(stream, number, segment, encode)

    def _append(self, stream: int, number: int, segment: list[str], encode: Encode) -> None:
        arrays = list(encode(iter(segment)))
        rows = np.empty(len(segment), ROW)
        for row, text, tokens in zip(rows, segment, arrays, strict=True):
            data = text.encode("utf-8", "surrogatepass")
            row["stream"], row["segment"], row["tokens"], row["bytes"] = stream, number, len(tokens), len(data)
            row["digest"], row["key"] = np.void(document_digest(data)), val_key(data)
        together = np.concatenate(arrays)
        try:
            for place, (name, data) in enumerate(((TOKENS, together.tobytes()), (ROWS, rows.tobytes()))):
                self._state["sizes"][place] = _append_at(self.folder / name, self._state["sizes"][place], data)
        except OSError as error:
            raise SpaceError(f"{self.folder}: cannot write: {error.strerror}; free space and start again: what was encoded is kept") from None
        self._state["dtype"] = together.dtype.str
        self._state["done"][stream] = number + 1
        self._note()

    def _note(self) -> None:
        atomic_write(self.folder / STATE, json.dumps(self._state).encode())

    def end(self, told: dict[str, Any]) -> None:
        """Notes that the part is complete, with what merging needs beside the documents."""
        for name, size in zip((TOKENS, ROWS), self._state["sizes"], strict=True):
            _append_at(self.folder / name, size, b"")
        self._state["ended"] = told
        self._note()


def _append_at(path: Path, size: int, data: bytes) -> int:
    """Cuts a file to `size` bytes, adds `data`, waits until that is on the disk; returns the new size."""
    with open(path, "r+b" if path.exists() else "w+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def read_state(folder: Path) -> dict[str, Any] | None:
    """The state of a part; None where there is none that can be read."""
    try:
        state = json.loads(read_bytes(folder / STATE))
        shape = [len(state["done"]), len(state["sizes"]), type(state["part"]), type(state["parts"]), type(state["of"])]
        return state if shape == [2, 2, int, int, dict] and {"dtype", "ended"} <= set(state) else None
    except Exception:  # none, or one that this program did not write: the work begins anew
        return None


@dataclass
class TokenFiles:
    """Tokens of documents by (file, first token, number of tokens): read where they lie, so that no page of them stays in this process."""

    paths: Sequence[Path]
    dtype: np.dtype[Any]
    extra: list[npt.NDArray[Any]] = field(default_factory=list)  # documents that no file holds, as files of their own
    _open: dict[int, int] = field(default_factory=dict)

    def read(self, file: int, start: int, count: int) -> npt.NDArray[Any]:
        """(count,) tokens.  Raises FileFormatError for a file that was cut."""
        if file >= len(self.paths):
            return self.extra[file - len(self.paths)]
        if file not in self._open:
            if len(self._open) >= OPEN_FILES:
                self.close()
            self._open[file] = os.open(self.paths[file], os.O_RDONLY)
        data = os.pread(self._open[file], count * self.dtype.itemsize, start * self.dtype.itemsize)
        if len(data) != count * self.dtype.itemsize:
            raise FileFormatError(f"{self.paths[file]}: was cut; prepare the text again")
        return np.frombuffer(data, self.dtype)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


@dataclass(frozen=True)
class Documents:
    """D documents in order.  rows (D,) of ROW; file (D,) int32 and start (D,) int64: where the tokens are in `files`."""

    rows: npt.NDArray[Any]
    file: npt.NDArray[np.int32]
    start: npt.NDArray[np.int64]
    files: TokenFiles

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: npt.NDArray[Any]) -> "Documents":
        """Some of them, by a mask or by numbers."""
        return Documents(self.rows[which], self.file[which], self.start[which], self.files)

    def then(self, other: "Documents") -> "Documents":
        rows, file, start = (np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("rows", "file", "start"))
        return Documents(rows, file, start, self.files)

    def tokens(self, place: int) -> npt.NDArray[Any]:
        return self.files.read(int(self.file[place]), int(self.start[place]), int(self.rows["tokens"][place]))

    def new(self, tokens: npt.NDArray[Any], data: bytes) -> "Documents":
        """A document that lies in no file: its tokens, and its text."""
        self.files.extra.append(tokens)
        row = np.array([(0, 0, len(tokens), len(data), np.void(document_digest(data)), val_key(data))], ROW)
        file = np.array([len(self.files.paths) + len(self.files.extra) - 1], np.int32)
        return Documents(row, file, np.zeros(1, np.int64), self.files)


class Gathered:
    """The tokens of documents back to back, (N,): slices of it are read from the disk when they are asked for."""

    def __init__(self, documents: Documents) -> None:
        self.documents = documents
        self.ends = np.cumsum(documents.rows["tokens"].astype(np.int64))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, part: slice) -> npt.NDArray[Any]:
        start, stop, _ = part.indices(len(self))
        out, at = np.empty(max(0, stop - start), self.documents.files.dtype), start
        while at < stop:
            place = int(np.searchsorted(self.ends, at, side="right"))
            tokens = self.documents.tokens(place)
            begin = at - (int(self.ends[place]) - len(tokens))
            piece = tokens[begin : begin + stop - at]
            out[at - start : at - start + len(piece)] = piece
            at += len(piece)
        return out


def read_parts(folders: Sequence[Path]) -> Documents:
    """All documents of complete parts in the order of the text, the inputs' before those of --val.  Raises FileFormatError when one was cut."""
    rows, files, starts = [], [], []
    for number, folder in enumerate(folders):
        data = read_bytes(folder / ROWS)
        if len(data) % ROW.itemsize:
            raise FileFormatError(f"{folder / ROWS}: was cut; prepare this part again")
        part = np.frombuffer(data, ROW)
        ends = np.cumsum(part["tokens"].astype(np.int64))
        rows.append(part)
        files.append(np.full(len(part), number, np.int32))
        starts.append(ends - part["tokens"])
    together = np.concatenate(rows)
    order = np.lexsort((together["segment"], together["stream"]))  # stable: documents of one segment stand in order already
    states = [read_state(folder) for folder in folders]
    dtype = np.dtype(next((state["dtype"] for state in states if state and state["dtype"]), "<u2"))
    tokens = TokenFiles([folder / TOKENS for folder in folders], dtype)
    return Documents(together[order], np.concatenate(files)[order], np.concatenate(starts)[order], tokens)
