"""Documents of any data set on the hub, streamed: which files hold a split, and their texts copied to one local file up to a limit.

The hub offers most data sets converted to Parquet, one folder a subset and split, under the revision refs/convert/parquet; that is
looked at first.  Otherwise the data set's own files are taken whose names say the split.  Files are read over the network block by
block, no further than the limit; the copy goes on where an earlier call was cut off.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

from hybrid.data import hub
from hybrid.data.hub import Hub, HubError, Remote
from hybrid.data.shards import DataError
from ngram.container import atomic_write, read_bytes
from ngram.documents import kind_of, texts

CONVERTED = "refs/convert/parquet"
SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")  # words by which names of files say what they hold
COPY, STATE = "documents.jsonl", "documents.state.json"
REPORT_EVERY = 64  # documents
KEEP_EVERY_S = 5.0  # between two notes of how far the copy is

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TextSource:
    """What to read.  subset: "" where there is one; files: pattern of the data set's own files instead of a split; field: column or key of
    the text; limit_documents, limit_bytes: of text, 0: all of it."""

    dataset: str
    split: str = "train"
    subset: str = ""
    files: str = ""
    field: str = "text"
    revision: str = "main"
    limit_documents: int = 0
    limit_bytes: int = 0

    def check(self) -> None:
        if self.limit_documents < 0 or self.limit_bytes < 0:
            raise DataError("--limit-documents and --limit-bytes must be 0 or more; 0 is no limit")


def select(source: TextSource, pauses: Sequence[float] = hub.PAUSES_S) -> tuple[Hub, list[Remote]]:
    """The data set at one commit, and the files that hold the split, in order.  Raises HubError, naming what there is."""
    if not source.files and source.revision == "main":
        try:
            converted = Hub(source.dataset, CONVERTED, pauses)
            if found := _converted(source, converted.files()):
                return converted, found
        except hub.NotThere:
            pass  # not converted, or no such data set: its own branch says which
    own = Hub(source.dataset, source.revision, pauses)
    return own, _own(source, own.files())


def _converted(source: TextSource, files: list[Remote]) -> list[Remote]:
    """SUBSET/SPLIT/0000.parquet, …; nothing where the hub has converted only a part ("partial-SPLIT")."""
    places: dict[tuple[str, str], list[Remote]] = {}
    for remote in files:
        if len(parts := remote.path.split("/")) == 3 and parts[2].endswith(".parquet"):
            places.setdefault((parts[0], parts[1]), []).append(remote)
    subsets = sorted({subset for subset, split in places if split == source.split})
    if not source.subset and len(subsets) > 1:
        raise HubError(f"{source.dataset}: has the subsets {_listed(subsets)}; name one with --subset")
    subset = source.subset or (subsets[0] if subsets else "")
    return sorted(places.get((subset, source.split), []), key=lambda remote: remote.path)


def _own(source: TextSource, files: list[Remote]) -> list[Remote]:
    """The data set's own files of a kind that is read here and that the pattern, or the split's name, is about."""
    readable = [remote for remote in sorted(files, key=lambda remote: remote.path) if kind_of(Path(remote.path)) and not _is_about(remote.path)]
    if source.files:
        found = [remote for remote in readable if fnmatch(remote.path, source.files)]
        wanted = f"--files {source.files!r}"
    else:
        inside = [remote for remote in readable if not source.subset or f"/{remote.path}".find(f"/{source.subset}/") >= 0]
        found = [remote for remote in inside if source.split in _words(remote.path)]
        if not found and source.split == "train" and not any(_words(remote.path) & set(SPLITS) for remote in inside):
            found = inside  # nothing is named after a split: all of it is training text
        wanted = f"--split {source.split!r}" + (f" --subset {source.subset!r}" if source.subset else "")
        folders = sorted({remote.path.split("/")[0] for remote in found if "/" in remote.path} - {"data", *SPLITS})
        if len(folders) > 1 and not source.subset:
            raise HubError(f"{source.dataset}: its files of {wanted} lie in {_listed(folders)}; name one with --subset, or files with --files")
    if not found:
        there = _listed([remote.path for remote in readable]) if readable else "none of a kind that is read here"
        raise HubError(f"{source.dataset}: no files for {wanted}; it has {there}")
    return found


def _words(path: str) -> set[str]:
    return set(re.split(r"[/._-]", path.lower()))


def _is_about(path: str) -> bool:
    """Whether a file describes the data set rather than being part of it."""
    return path.split("/")[-1].lower() in ("dataset_infos.json", "dataset_info.json", "readme.txt", "license.txt", "state.json") or path.startswith(".")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


@dataclass
class _State:
    """How far a copy is.  of: what it is a copy of; file: number of the file that is being read, rows: of it that are done; size_bytes of the copy."""

    of: dict[str, Any]
    file: int = 0
    rows: int = 0
    documents: int = 0
    text_bytes: int = 0
    size_bytes: int = 0
    whole: bool = False


def copy(source: TextSource, there: Hub, remotes: Sequence[Remote], folder: Path, report: Report) -> Path:
    """Writes the documents, one JSON object a line, to `folder`/documents.jsonl, up to the limit, and returns its path.

    A copy of the same source that is there goes on where it ended.  Raises HubError when the hub fails for good: what was copied stays."""
    state = _resume(source, there, remotes, folder)
    path = folder / COPY
    if state.whole:
        return path
    try:
        with open(path, "r+b" if path.exists() else "w+b") as out:
            out.truncate(state.size_bytes)  # whatever was written after the last note
            out.seek(state.size_bytes)
            try:
                _write(source, _reading(source, there, remotes, state), state, folder, out, report)
                state.whole = True
            finally:
                _note(out, state, folder)
    except OSError as error:
        raise HubError(f"{path}: {hub.told(error)[0]}") from None
    return path


def _write(source: TextSource, read: Iterator[str | None], state: _State, folder: Path, out: BinaryIO, report: Report) -> None:
    """Up to the limit."""
    noted = time.monotonic()
    for text in read:
        if text:
            out.write(json.dumps({"text": text}, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
            state.documents, state.text_bytes = state.documents + 1, state.text_bytes + len(text.encode("utf-8", "surrogatepass"))
        state.rows += 1  # only now: a note between this and the writing would lose the document, or repeat it
        if time.monotonic() - noted > KEEP_EVERY_S:
            _note(out, state, folder)
            noted = time.monotonic()
        if state.documents % REPORT_EVERY == 0:
            report(f"fetching {source.dataset}: {state.documents:,} documents", state.text_bytes, source.limit_bytes)
        if state.documents == source.limit_documents > 0 or state.text_bytes >= source.limit_bytes > 0:
            return


def _resume(source: TextSource, there: Hub, remotes: Sequence[Remote], folder: Path) -> _State:
    of = {**asdict(source), "commit": there.commit, "files": [[remote.path, remote.digest] for remote in remotes]}
    try:
        found = _State(**json.loads(read_bytes(folder / STATE)))
    except Exception:  # none, or one that is not ours to read: from the beginning
        return _State(of)
    fits = found.of == of and (folder / COPY).is_file() and (folder / COPY).stat().st_size >= found.size_bytes
    return found if fits else _State(of)


def _note(out: BinaryIO, state: _State, folder: Path) -> None:
    """Notes how far the copy is, once that is on the disk."""
    out.flush()
    os.fsync(out.fileno())
    state.size_bytes = out.tell()
    atomic_write(folder / STATE, json.dumps(asdict(state)).encode())


def _reading(source: TextSource, there: Hub, remotes: Sequence[Remote], state: _State) -> Iterator[str | None]:
    """The texts after those that the state counts, None for rows without one; a file is opened again where it is cut off.

    Whoever takes a text counts it in state.rows before it takes the next."""
    while state.file < len(remotes):
        remote, pauses = remotes[state.file], iter(there.pauses)
        while True:
            before = state.rows
            try:
                yield from _rows(source, there, remote, state.rows)
                break
            except Exception as error:
                if not hub.is_outside(error):
                    raise
                reason, passing = hub.told(error)
                if state.rows > before:
                    pauses = iter(there.pauses)  # it got on: that is no reason to give up
                pause = next(pauses, None) if passing else None
                if pause is None:
                    raise HubError(f"{there.dataset}: {remote.path}: {reason}") from None
                time.sleep(pause)
        state.file, state.rows = state.file + 1, 0


def _rows(source: TextSource, there: Hub, remote: Remote, skip: int) -> Iterator[str | None]:
    """The texts of one file from row `skip` on."""
    with hub.quiet(), there.open(remote) as file:
        for number, text in enumerate(texts(file, Path(remote.path), source.field)):
            if number >= skip:
                yield text
