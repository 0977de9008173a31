"""The published shards, from a stand-in hub: what was promised arrives whole and checked, or one line says why it does not."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid.data import hub
from hybrid.data.fineweb import FinewebConfig, fetch
from hybrid.data.manifest import check_shards, read_manifest
from hybrid.data.shards import DataError, Stream, find_shards
from hybrid.data.token_bytes import accounting
from hybrid.data.write_shards import write_shard
from hybrid.extras import MissingPackageError
from tests.support import loaded, tiny
from tests.support.hub import CUT, SIGNATURE, WRONG, StandIn, serving
from tests.support.paths import ROOT
from tests.support.training import environment

pytest.importorskip("huggingface_hub")

DATASET, FOLDER = "someone/golf", "datasets/datasets/fineweb10B_sp320"
QUICK = (0.0, 0.0)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Three training shards and one of validation, laid out as the challenge does."""
    place, files = tmp_path_factory.mktemp("published") / "shard.bin", {}
    for number, name in enumerate(["train_000000", "train_000001", "train_000002", "val_000000"]):
        write_shard(place, tiny.stream(seed=10 + number, count=20))
        files[f"{FOLDER}/fineweb_{name}.bin"] = place.read_bytes()
    manifest = {
        "datasets": [
            {"name": "fineweb10B_sp320", "tokenizer_name": "sp_bpe_320", "stats": {"files_train": 3, "files_val": 1}},
            {"name": "fineweb10B_byte260", "tokenizer_name": "pure_byte_260", "stats": {"files_train": 9, "files_val": 2}},
        ],
        "tokenizers": [
            {"name": "sp_bpe_320", "model_path": "tokenizers/fineweb_320_bpe.model", "vocab_path": "tokenizers/fineweb_320_bpe.vocab"},
            {"name": "pure_byte_260", "path": "tokenizers/fineweb_pure_byte_260.json"},
        ],
    }
    return {**files, "datasets/manifest.json": json.dumps(manifest).encode(), "datasets/tokenizers/fineweb_320_bpe.model": tiny.tokenizer_bytes()}


@pytest.fixture
def there(published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with serving(DATASET, dict(published)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield server


def bring(out: Path, shards: int = 2, **changes: Any) -> dict:
    return fetch(FinewebConfig(str(out), "sp320", shards, DATASET, **changes), lambda *_: None, QUICK)


def shard(name: str) -> str:
    return f"{FOLDER}/fineweb_{name}.bin"


def assert_whole(out: Path, published: dict[str, bytes], shards: int = 2) -> None:
    names = [f"train_{number:06d}" for number in range(shards)] + ["val_000000"]
    for name in names:
        assert (out / f"fineweb_{name}.bin").read_bytes() == published[shard(name)], name
    assert {path.name for path in out.iterdir()} == {"manifest.json", "tokenizer.model", *(f"fineweb_{name}.bin" for name in names)}
    assert "incomplete" not in read_manifest(out)


def test_what_is_published_arrives_as_a_prepared_folder(there: StandIn, published: dict[str, bytes], tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    manifest = fetch(FinewebConfig(str(tmp_path / "d"), "sp320", 2, DATASET), lambda *what: seen.append(what), QUICK)
    assert_whole(tmp_path / "d", published)
    assert check_shards(find_shards(tmp_path / "d", "train"), tiny.tokenizer_bytes()) == read_manifest(tmp_path / "d")
    assert "as the challenge counts" in accounting(find_shards(tmp_path / "d", "val"), tiny.tokenizer_bytes())[1]
    assert manifest["splits"]["train"]["documents"] == 40 and manifest["splits"]["val"]["tokens"] == len(Stream(find_shards(tmp_path / "d", "val")))
    assert manifest["overlap"] == 0 and manifest["vocab_size"] == tiny.VOCAB
    fetched = [(done, total) for what, done, total in seen if what.startswith("fetching")]
    assert fetched[-1][0] == fetched[-1][1] == sum(len(published[path]) for path in there.fetched() if path != "datasets/manifest.json")
    assert "Bearer hf_secret" in there.authorizations


def test_a_second_call_asks_the_hub_nothing_and_more_shards_are_added(there: StandIn, published: dict[str, bytes], tmp_path: Path) -> None:
    bring(tmp_path / "d", 1)
    there.asked.clear()
    there.authorizations.clear()
    assert bring(tmp_path / "d", 1)["skipped"] and not there.authorizations
    bring(tmp_path / "d", 3)
    assert there.fetched() == ["datasets/manifest.json", shard("train_000001"), shard("train_000002")]
    assert_whole(tmp_path / "d", published, 3)
    bring(tmp_path / "d", 2)
    assert_whole(tmp_path / "d", published, 2)


@pytest.mark.parametrize("faults", [[CUT], [WRONG], [429], [503], [CUT, 503, WRONG]], ids=str)
def test_trouble_that_passes_is_got_over(there: StandIn, published: dict[str, bytes], tmp_path: Path, faults: list) -> None:
    there.faults[shard("train_000001")] = list(faults)
    bring(tmp_path / "d")
    assert there.faults[shard("train_000001")] == []
    assert_whole(tmp_path / "d", published)


def test_a_cut_connection_goes_on_where_it_was_cut(
    there: StandIn, published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 512)  # what the library writes down at a time
    there.faults[shard("train_000000")] = [CUT]
    bring(tmp_path / "d")
    whole_chunks = len(published[shard("train_000000")]) // 2 // 512 * 512
    assert whole_chunks and ("GET", shard("train_000000"), f"bytes={whole_chunks}-") in there.asked
    assert_whole(tmp_path / "d", published)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (WRONG, "what arrives has another digest than the hub says"),
        (503, "the hub fails (status 503)"),
        (429, "the hub asks to wait (429)"),
        (404, "is not on the hub"),
    ],
)
def test_trouble_that_stays_ends_in_one_line_and_is_gone_on_from(
    there: StandIn, published: dict[str, bytes], tmp_path: Path, fault: object, said: str
) -> None:
    there.faults[shard("train_000001")] = [fault] * 30
    with pytest.raises(DataError) as ended:
        bring(tmp_path / "d")
    assert said in str(ended.value) and "fineweb_train_000001.bin" in str(ended.value)
    assert "\n" not in str(ended.value) and SIGNATURE not in str(ended.value) and "hf_secret" not in str(ended.value)
    assert read_manifest(tmp_path / "d")["incomplete"] and not (tmp_path / "d" / "fineweb_train_000001.bin").exists()
    with pytest.raises(DataError, match="was not prepared to the end"):
        check_shards(find_shards(tmp_path / "d", "train"), tiny.tokenizer_bytes())
    there.faults.clear()
    there.asked.clear()
    bring(tmp_path / "d")
    assert shard("train_000000") not in there.fetched()
    assert_whole(tmp_path / "d", published)


def test_a_shard_that_the_manifest_promises_and_the_hub_lacks_is_named(there: StandIn, tmp_path: Path) -> None:
    del there.files["main"][shard("train_000001")]
    with pytest.raises(DataError, match=r"fineweb_train_000001.bin is not there, although its manifest promises it"):
        bring(tmp_path / "d")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variant": "sp999"}, "has no variant 'sp999'; it has byte260, sp320"),
        ({"variant": "byte260"}, "has no SentencePiece tokenizer"),
        ({"train_shards": 4}, "sp320 has 3 training shards; lower --train-shards 4"),
        ({"train_shards": -1}, "--train-shards -1"),
        ({"dataset": "nobody/nothing"}, "nobody/nothing: is not on the hub"),
        ({"revision": "v9"}, "is not on the hub"),
        ({"root": "elsewhere"}, "elsewhere/manifest.json is not there"),
    ],
)
def test_what_is_not_published_is_one_line(there: StandIn, tmp_path: Path, changes: dict, said: str) -> None:
    values = {"out": str(tmp_path / "d"), "variant": "sp320", "train_shards": 1, "dataset": DATASET} | changes
    with pytest.raises(DataError, match=said):
        fetch(FinewebConfig(**values), lambda *_: None, QUICK)


def test_a_disk_without_room_is_said_before_and_while(there: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
        with pytest.raises(DataError, match=r"GB are to be fetched and 0.00 GB are free there"):
            bring(tmp_path / "d")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DataError, match="no space is left on this disk"):
            bring(tmp_path / "d")
    assert not (tmp_path / "d" / ".fetching").exists()


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_folder_with_shards_of_others_is_not_written_into(there: StandIn, tmp_path: Path) -> None:
    tiny.write_data(tmp_path)
    with pytest.raises(DataError, match="was not written by an earlier run"):
        bring(tmp_path)


def test_a_hub_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(DataError, match="the connection fails"):
        bring(tmp_path / "d")


def test_the_command_reads_the_token_of_hf_home_and_prints_it_nowhere(published: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text("hf_of_the_file")
    with serving(DATASET, dict(published), token="hf_of_the_file") as server:
        server.faults[shard("train_000000")] = [WRONG]
        variables = {name: value for name, value in environment().items() if not name.startswith("HF_")}
        words = ["prepare", "fineweb", "--dataset", DATASET, "--variant", "sp320", "--train-shards", "1", "--out", str(tmp_path / "d")]
        done = subprocess.run(
            [loaded.python(), "-m", "hybrid", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**variables, "HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")},
        )
    assert done.returncode == 0, done.stderr
    assert_whole(tmp_path / "d", published, 1)
    assert "hf_of_the_file" not in done.stdout + done.stderr and SIGNATURE not in done.stdout + done.stderr
    assert "written" in done.stdout and "20 documents" in done.stdout
    assert {path.name for path in (tmp_path / "home").iterdir()} >= {"token"}


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'seedgram\[hub\]'"):
        hub.Hub("a/b")
