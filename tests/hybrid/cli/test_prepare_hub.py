"""`seedgram prepare hub` from the command line to a folder that trains: texts of a stand-in hub, both splits, faults, and a second call."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid import __main__ as command
from hybrid.data.manifest import MANIFEST, check_shards, read_manifest
from hybrid.data.shards import find_shards
from tests.support import tiny
from tests.support.folders import jsonl, read_back, write
from tests.support.hub import CUT, SIGNATURE, StandIn, read_files, serving

pytest.importorskip("huggingface_hub")

DATASET, TOKEN = "someone/texts", "hf_secret_of_the_test"
TEXTS = [f"document {number}: " + f"the {number * 7 % 13} words of it, and then more of them. " * 12 for number in range(50)]
FILES = {
    "data/train-00000-of-00002.jsonl.gz": gzip.compress(jsonl(TEXTS[:20], "content")),
    "data/train-00001-of-00002.jsonl.gz": gzip.compress(jsonl(TEXTS[20:40], "content")),
    "data/validation-00000-of-00001.jsonl.gz": gzip.compress(jsonl(TEXTS[40:], "content")),
}
VAL_FILE = "data/validation-00000-of-00001.jsonl.gz"


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with serving(DATASET, dict(FILES), token=TOKEN) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield server


def bring(out: Path, *words: object) -> int:
    return tiny.exit_code(command, "prepare", "hub", DATASET, "--field", "content", "--vocab-size", 350, "--out", out, *words)


def documents(out: Path, split: str) -> list[str]:
    return sorted(text.decode() for text in read_back(out, split))


def test_both_splits_become_a_folder_that_a_second_call_leaves_alone(there: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "d"
    there.faults[VAL_FILE] = [CUT, 503]
    assert bring(out, "--val-split", "validation") == 0, capsys.readouterr().err
    assert documents(out, "train") == sorted(TEXTS[:40]) and documents(out, "val") == sorted(TEXTS[40:])
    assert check_shards(find_shards(out, "val"), (out / "tokenizer.model").read_bytes()) == read_manifest(out)
    assert not (out / ".hub").exists()
    before = read_files(out)
    there.asked.clear()
    there.authorizations.clear()
    assert bring(out, "--val-split", "validation") == 0
    assert "already there" in capsys.readouterr().out and read_files(out) == before and not there.authorizations
    assert bring(out, "--val-split", "validation", "--limit-documents", 10) == 0  # another request
    assert documents(out, "train") == sorted(TEXTS[:10]) and documents(out, "val") == sorted(TEXTS[40:])


def test_no_token_and_no_signature_is_printed_or_kept(there: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there.faults[VAL_FILE] = [404]
    assert bring(tmp_path / "d", "--val-split", "validation") == 2
    said = capsys.readouterr()
    assert f"{VAL_FILE}: is not on the hub" in said.err and len(said.err.strip().splitlines()) == 1
    kept = b"".join(read_files(tmp_path / "d").values())
    assert bring(tmp_path / "d", "--val-split", "validation") == 0
    said_again = capsys.readouterr()
    for text in (*said, *said_again, kept.decode(), (tmp_path / "d" / MANIFEST).read_text()):
        assert TOKEN not in text and SIGNATURE not in text
    assert f"Bearer {TOKEN}" in there.authorizations


def test_a_call_that_failed_on_the_second_split_does_not_read_the_first_again(there: StandIn, tmp_path: Path) -> None:
    there.faults[VAL_FILE] = [404]
    assert bring(tmp_path / "d", "--val-split", "validation") == 2
    there.asked.clear()
    assert bring(tmp_path / "d", "--val-split", "validation") == 0
    assert set(there.fetched()) == {VAL_FILE}
    assert documents(tmp_path / "d", "train") == sorted(TEXTS[:40])


def test_without_it_a_share_is_held_out_or_a_file_is_given(there: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bring(tmp_path / "held", "--val-fraction", 0.2) == 0
    assert sorted(documents(tmp_path / "held", "train") + documents(tmp_path / "held", "val")) == sorted(TEXTS[:40])
    (tmp_path / "val").mkdir()
    write(tmp_path / "val" / "a.jsonl", jsonl(["a text of my own. " * 9]))
    assert bring(tmp_path / "d", "--val", tmp_path / "val") == 0
    write(tmp_path / "val" / "a.jsonl", jsonl(["another text of mine. " * 9]))
    capsys.readouterr()
    assert bring(tmp_path / "d", "--val", tmp_path / "val") == 0
    assert "written" in capsys.readouterr().out and documents(tmp_path / "d", "val") == ["another text of mine. " * 9]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--val-split", "test"], "no files for --split 'test'; it has data/train-00000"),
        (["--val-split", "train"], "--val-split train: goes with neither --val nor --files, and is another split"),
        (["--val-split", "validation", "--val", "a.txt"], "goes with neither --val nor --files"),
        (["--val", "nowhere"], "--val nowhere: is no file or folder"),
        (["--val", "-"], "--val -: is no file or folder"),
        (["--limit-documents", "-1"], "--limit-documents and --limit-bytes must be 0 or more"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_read(
    there: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert bring(tmp_path / "d", *words) == 2
    told = capsys.readouterr().err.strip()
    assert said in told and len(told.splitlines()) == 1 and there.asked == [] and not (tmp_path / "d").exists()


def test_a_full_disk_is_one_line_and_is_gone_on_from(
    there: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = json.dumps, [0]

    def dumps(value: dict, **options) -> str:
        calls[0] += "text" in value and len(value) == 1
        if calls[0] == 25:
            calls[0] += 1
            raise OSError(28, os.strerror(28))
        return real(value, **options)

    with monkeypatch.context() as patch:
        patch.setattr("hybrid.data.hub_text.json.dumps", dumps)
        assert bring(tmp_path / "d", "--val-fraction", 0.2) == 2
    told = capsys.readouterr().err.strip()
    assert "no space is left on this disk; free some, and start again" in told and len(told.splitlines()) == 1
    there.asked.clear()
    assert bring(tmp_path / "d", "--val-fraction", 0.2) == 0
    assert set(there.fetched()) == {"data/train-00001-of-00002.jsonl.gz"}  # the first file is there
    assert sorted(documents(tmp_path / "d", "train") + documents(tmp_path / "d", "val")) == sorted(TEXTS[:40])
