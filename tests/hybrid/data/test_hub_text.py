"""Texts of a data set on a stand-in hub: which files hold a split, how far they are read, and where a copy that was cut off goes on."""

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid.data import hub_text
from hybrid.data.hub import HubError
from hybrid.data.hub_text import TextSource, copy, select
from hybrid.data.shards import DataError
from tests.support.folders import jsonl
from tests.support.hub import CUT, SIGNATURE, StandIn, serving

pytest.importorskip("huggingface_hub")

DATASET, QUICK = "someone/texts", (0.0, 0.0)
TEXTS = [f"document {number}: " + "words and more words. " * 20 for number in range(40)]
OWN = {
    "README.md": b"about",
    "dataset_infos.json": b"{}",
    "data/train-00000-of-00002.jsonl.gz": gzip.compress(jsonl(TEXTS[:15])),
    "data/train-00001-of-00002.jsonl.gz": gzip.compress(jsonl(TEXTS[15:30])),
    "data/test-00000-of-00001.jsonl.gz": gzip.compress(jsonl(TEXTS[30:])),
}


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with serving(DATASET, dict(OWN)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield server


def read(folder: Path, **wanted: Any) -> list[str]:
    source = TextSource(DATASET, **wanted)
    path = copy(source, *select(source, QUICK), folder, lambda *_: None)
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def names(**wanted: Any) -> list[str]:
    return [remote.path for remote in select(TextSource(DATASET, **wanted), QUICK)[1]]


def parquet(texts: list[str]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": texts, "id": list(range(len(texts)))}), out, row_group_size=5)
    return out.getvalue()


def test_a_split_is_read_in_the_order_of_its_files(there: StandIn, tmp_path: Path) -> None:
    assert read(tmp_path) == TEXTS[:30]
    assert {path for _, path, _ in there.asked} == {path for path in OWN if "train" in path}


def test_no_further_than_the_limit(there: StandIn, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert read(tmp_path / "a", limit_documents=7) == TEXTS[:7]
    assert read(tmp_path / "b", limit_bytes=len(TEXTS[0]) + len(TEXTS[1]) + 1) == TEXTS[:3]
    assert {path for _, path, _ in there.asked} == {"data/train-00000-of-00002.jsonl.gz"}


def test_converted_parquet_comes_first_and_is_read_by_ranges(there: StandIn, tmp_path: Path) -> None:
    there.files["refs/convert/parquet"] = {
        "default/train/0000.parquet": parquet(TEXTS[:20]),
        "default/train/0001.parquet": parquet(TEXTS[20:25]),
        "default/partial-test/0000.parquet": parquet(TEXTS[:1]),
    }
    assert names() == ["default/train/0000.parquet", "default/train/0001.parquet"]
    assert read(tmp_path) == TEXTS[:25]
    assert all(asked for method, path, asked in there.asked if method == "GET")
    assert names(split="test") == ["data/test-00000-of-00001.jsonl.gz"]  # all of it, rather than the part that was converted


def test_of_several_subsets_one_is_to_be_named(there: StandIn) -> None:
    there.files["refs/convert/parquet"] = {f"{name}/train/0000.parquet": b"x" * 2000 for name in ("en", "de")}
    with pytest.raises(HubError, match="has the subsets de, en; name one with --subset"):
        names()
    assert names(subset="de") == ["de/train/0000.parquet"]
    there.files = {"main": {f"{name}/c-train.{number}.json.gz": b"x" for name in ("en", "de") for number in (0, 1)}}
    with pytest.raises(HubError, match="lie in de, en; name one with --subset"):
        names()
    assert names(subset="en") == ["en/c-train.0.json.gz", "en/c-train.1.json.gz"]
    assert names(files="*/c-train.1*") == ["de/c-train.1.json.gz", "en/c-train.1.json.gz"]


def test_files_that_name_no_split_are_training_text(there: StandIn) -> None:
    there.files["main"] = {"a.jsonl": b"x", "b.txt": b"x", "README.md": b"x", "picture.png": b"x"}
    assert names() == ["a.jsonl", "b.txt"]
    with pytest.raises(HubError, match=r"no files for --split 'validation'; it has a.jsonl, b.txt"):
        names(split="validation")


@pytest.mark.parametrize("faults", [[CUT], [503], [429], [CUT, 503]], ids=str)
def test_trouble_that_passes_loses_and_repeats_nothing(there: StandIn, tmp_path: Path, faults: list) -> None:
    there.faults["data/train-00001-of-00002.jsonl.gz"] = list(faults)
    assert read(tmp_path) == TEXTS[:30]
    assert there.faults["data/train-00001-of-00002.jsonl.gz"] == []


def test_a_copy_that_was_cut_off_goes_on(there: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_text, "KEEP_EVERY_S", -1.0)  # every document is noted
    there.faults["data/train-00001-of-00002.jsonl.gz"] = [404]
    with pytest.raises(HubError) as ended:
        read(tmp_path)
    assert "train-00001-of-00002.jsonl.gz: is not on the hub" in str(ended.value) and SIGNATURE not in str(ended.value)
    with open(tmp_path / hub_text.COPY, "ab") as file:
        file.write(b'{"text": "half a li')  # what a kill may leave behind the last note
    there.asked.clear()
    assert read(tmp_path) == TEXTS[:30]
    assert "data/train-00000-of-00002.jsonl.gz" not in there.fetched()
    there.asked.clear()
    assert read(tmp_path) == TEXTS[:30] and there.asked == []  # all of it is there
    assert read(tmp_path, limit_documents=2) == TEXTS[:2]  # another request begins anew


def test_the_middle_of_a_file_is_gone_on_from(there: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_text, "KEEP_EVERY_S", -1.0)
    real, calls = json.dumps, [0]

    def dumps(value: dict, **options) -> str:
        calls[0] += "text" in value and len(value) == 1
        if calls[0] == 10:
            calls[0] = 11
            raise KeyboardInterrupt
        return real(value, **options)

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", dumps)
        with pytest.raises(KeyboardInterrupt):
            read(tmp_path)
    assert json.loads((tmp_path / hub_text.STATE).read_text())["rows"] == 9
    assert read(tmp_path) == TEXTS[:30]


def test_bad_requests_and_damaged_files_are_one_line(there: StandIn, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text under 'content'"):
        read(tmp_path, field="content")
    there.files["main"]["data/train-00000-of-00002.jsonl.gz"] = OWN["data/train-00000-of-00002.jsonl.gz"][:-5]
    with pytest.raises(DataError, match="cut or damaged"):
        read(tmp_path)
    with pytest.raises(DataError, match="--limit-documents"):
        TextSource(DATASET, limit_documents=-1).check()
    with pytest.raises(HubError, match="nobody/nothing: is not on the hub"):
        select(TextSource("nobody/nothing"), QUICK)
