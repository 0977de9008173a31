"""Encoded documents on the disk: parts of the work join to the very folder of one machine, and a killed process loses one segment."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid import __main__ as command
from hybrid.data import encoded
from hybrid.data.encoded import ROW, Documents, Gathered, TokenFiles
from hybrid.data.prepare import ENCODED, PrepareConfig, prepare
from hybrid.data.shards import DataError
from tests.support import tiny
from tests.support.folders import jsonl, prepare_into, read_back, write
from tests.support.hub import read_files

TEXTS = [f"Document {i}: the cat sat on mat {i * i} and was déjà vu.\n" * (1 + i % 3) for i in range(90)] + ["Document 3: twice\n"] * 2


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "SEGMENT_CHARS", 500)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("source") / "in.jsonl", jsonl([*TEXTS, ""]))


def whole(folder: Path, source: str, **settings: Any) -> dict[str, bytes]:
    prepare_into(folder, source, **settings)
    return read_files(folder)


def test_segments_depend_on_the_text_alone() -> None:
    found = list(encoded.segments(iter(TEXTS)))
    assert [text for segment in found for text in segment] == TEXTS and len(found) > 10
    assert all(sum(map(len, segment)) >= 500 - len(segment) for segment in found[:-1])


@pytest.mark.parametrize("parts", [2, 5, 40])
def test_parts_join_to_the_folder_of_one_machine(tmp_path: Path, source: str, parts: int) -> None:
    """Bit for bit, manifest included, in whatever order they are named."""
    val = (write(tmp_path / "val.jsonl", jsonl(["another text\n" * 50] * 3)),) if parts == 5 else ()
    one = whole(tmp_path / "one", source, val=val, val_fraction=0.2, seed=3)
    model = write(tmp_path / "m", one["tokenizer.model"]) if parts == 40 else None
    if model:
        one = whole(tmp_path / "given", source, tokenizer=model, val_fraction=0.2, seed=3)
    for number in range(1, parts + 1):
        prepare_into(tmp_path / f"part{number}", source, val=val, tokenizer=model, val_fraction=0.2, seed=3, part=number, parts=parts)
    places = [str(tmp_path / f"part{number}") for number in range(parts, 0, -1)]
    assert tiny.exit_code(command, "prepare", "merge", *places, "--out", tmp_path / "merged") == 0
    assert read_files(tmp_path / "merged") == one


def test_every_part_has_its_share(tmp_path: Path, source: str) -> None:
    shares = [prepare_into(tmp_path / f"p{number}", source, part=number, parts=3)["documents"] for number in (1, 2, 3)]
    assert sum(shares) == len(TEXTS) and max(shares) - min(shares) < 12


def test_parts_that_do_not_belong_together_are_one_line(tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    for number, settings in enumerate([{"part": 1}, {"part": 2}, {"part": 2, "seed": 4}], 1):
        prepare_into(tmp_path / f"p{number}", source, parts=2, **settings)
    for names, said in (
        (["p1", "p3"], "is a part of another text"),
        (["p1"], "part 2 of 2 is missing"),
        (["p1", "p1"], "part 2 of 2 is missing"),
        (["p1", "p2", "p2"], "a part is given twice"),
        (["p1", "nowhere"], "holds no complete part"),
    ):
        assert tiny.exit_code(command, "prepare", "merge", *(tmp_path / name for name in names), "--out", tmp_path / "out") == 2
        told = capsys.readouterr().err.strip()
        assert said in told and len(told.splitlines()) == 1 and not (tmp_path / "out").exists()
    for word in ("0/2", "3/2"):
        assert tiny.exit_code(command, "prepare", source, "--part", word, "--out", tmp_path / "out") == 2
    assert "--part 3/2: the first number must be 1 to 2" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["encoding", "assembling"])
def test_a_killed_preparation_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    one, calls = whole(tmp_path / "one", source), [0]
    real = encoded.Writer._note if where == "encoding" else encoded.read_parts
    target = ("hybrid.data.encoded.Writer._note", 4) if where == "encoding" else ("hybrid.data.assemble.read_parts", 1)

    def killed(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == target[1]:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(target[0], killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_into(tmp_path / "out", source)
    with open(tmp_path / "out" / ENCODED / encoded.TOKENS, "ab") as file:
        file.write(b"half a segment")
    encoded_again: list[int] = []
    add = encoded.Writer._append
    monkeypatch.setattr(encoded.Writer, "_append", lambda self, stream, number, *rest: (encoded_again.append(number), add(self, stream, number, *rest)))
    monkeypatch.setattr("hybrid.data.prepare.train", lambda *_: pytest.fail("the tokenizer is there"))
    assert whole(tmp_path / "out", source) == one
    assert encoded_again == (list(range(3, len(list(encoded.segments(iter(TEXTS)))))) if where == "encoding" else [])


def test_other_settings_do_not_go_on_with_what_is_there(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("hybrid.data.assemble.read_parts", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare_into(tmp_path / "out", source, vocab_size=340)
    assert whole(tmp_path / "out", source) == whole(tmp_path / "one", source)


def test_a_full_disk_is_one_line_and_keeps_what_was_encoded(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = encoded._append_at, [0]

    def full(*arguments: Any) -> int:
        calls[0] += 1
        if calls[0] == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(encoded, "_append_at", full)
        with pytest.raises(DataError, match="No space left on device; free space and start again: what was encoded is kept"):
            prepare_into(tmp_path / "out", source)
    state = encoded.read_state(tmp_path / "out" / ENCODED)
    assert state is not None and state["done"] == [4, 0]
    assert whole(tmp_path / "out", source) == whole(tmp_path / "one", source)


def test_text_that_cannot_be_prepared_leaves_nothing(tmp_path: Path) -> None:
    blank = write(tmp_path / "blank.jsonl", jsonl([" \n"] * 40))
    prepare_into(tmp_path / "base", write(tmp_path / "a.jsonl", jsonl(TEXTS)))
    with pytest.raises(DataError, match="nothing but white space"):
        prepare(PrepareConfig(out=str(tmp_path / "out"), inputs=(blank,), tokenizer=str(tmp_path / "base/tokenizer.model")))
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_beside_a_whole_folder(tmp_path: Path, source: str) -> None:
    prepare_into(tmp_path / "out", source)
    assert not (tmp_path / "out" / ENCODED).exists()
    assert sorted(read_back(tmp_path / "out", "train") + read_back(tmp_path / "out", "val")) == sorted({text.encode() for text in TEXTS})


def test_documents_are_gathered_over_their_seams(tmp_path: Path) -> None:
    """Any slice is that of the joined tokens; more files than may be open at once are read."""
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 60_000, size).astype("<u2") for size in random.integers(1, 9, 30)]
    paths = [tmp_path / str(number) for number in range(3)]
    for number, path in enumerate(paths):
        np.concatenate(arrays[10 * number : 10 * number + 10]).tofile(path)
    rows = np.zeros(30, ROW)
    rows["tokens"] = [len(array) for array in arrays]
    starts = np.concatenate([np.cumsum([0, *map(len, arrays[10 * n : 10 * n + 9])]) for n in range(3)])
    documents = Documents(rows, np.repeat(np.arange(3, dtype=np.int32), 10), starts, TokenFiles(paths, np.dtype("<u2")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoded, "OPEN_FILES", 1)
        order = random.permutation(30)
        gathered, joined = Gathered(documents.take(order)), np.concatenate([arrays[place] for place in order])
        assert len(gathered) == len(joined)
        for start, stop in [(0, len(joined)), (3, 4), (5, 70), (len(joined) - 1, len(joined) + 50), (8, 8)]:
            assert np.array_equal(gathered[start:stop], joined[start:stop])
    documents.files.close()
