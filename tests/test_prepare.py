"""prepare_data: every kind of input gives the same documents, nothing is lost or done twice, faults are one line."""

import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from hybrid import tokenizer
from hybrid.data import BOS, DataError, find_shards, load_stream, read_shard
from hybrid.documents import documents, find_inputs
from hybrid.prepare import PrepareConfig, prepare
from hybrid.tokenizer import TokenizerError
from ngram.errors import SeedgramError

ROOT = Path(__file__).parents[1]
TEXTS = [f"Document {i}:\n\n    the cat  sat on mat {i * i}, and that \u2581 was déjà vu.\n" * 3 for i in range(60)]
PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".xz": lzma.compress, ".gz": gzip.compress, ".zst": zstandard.compress}


def jsonl(texts: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({field: text, "source": "x"}) + "\n" for text in texts).encode()


def write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def read_all(places: list[str], field: str = "text") -> list[str]:
    return list(documents(find_inputs(places), field, lambda done, total: None))


def split_documents(out: Path, split: str) -> list[str]:
    """The texts in the shards of a prepared folder."""
    stream = np.concatenate([read_shard(path) for path in find_shards(out, split)])
    codec = tokenizer.load(out / "tokenizer.model")
    assert stream[0] == BOS
    return [codec.decode(part) for part in np.split(stream, np.flatnonzero(stream == BOS))[1:]]


@pytest.mark.parametrize("packing", PACKERS)
def test_packed_files_give_the_same_documents(tmp_path: Path, packing: str) -> None:
    assert read_all([write(tmp_path / f"a.jsonl{packing}", PACKERS[packing](jsonl(TEXTS)))]) == TEXTS
    assert read_all([write(tmp_path / f"b.txt{packing}", PACKERS[packing](TEXTS[0].encode()))]) == TEXTS[:1]


def test_several_zstd_frames_and_gzip_members_are_read_to_the_end(tmp_path: Path) -> None:
    for packing in (".zst", ".gz", ".xz"):
        content = PACKERS[packing](jsonl(TEXTS[:3])) + PACKERS[packing](jsonl(TEXTS[3:5]))
        assert read_all([write(tmp_path / f"a.jsonl{packing}", content)]) == TEXTS[:5]


def test_folders_are_searched_all_the_way_by_name(tmp_path: Path) -> None:
    write(tmp_path / "d/b/z.txt", b"two")
    write(tmp_path / "d/a.jsonl.gz", gzip.compress(jsonl(["one"])))
    write(tmp_path / "d/notes.pdf", b"no")
    write(tmp_path / "d/c.txt", b"three")
    assert read_all([str(tmp_path / "d")]) == ["one", "two", "three"]


def test_newlines_and_marks_of_a_text_file_are_kept(tmp_path: Path) -> None:
    raw = "\ufeffa\r\nb\rc\n\n d ".encode()
    assert read_all([write(tmp_path / "a.txt", raw)])[0].encode() == raw


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PrepareConfig, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("prepare")
    source = write(folder / "in.jsonl", jsonl(TEXTS))
    config = PrepareConfig(out=str(folder / "out"), inputs=(source,), vocab_size=350, val_fraction=0.2, name="web")
    return folder / "out", config, prepare(config)


def test_train_and_val_together_hold_every_document_once(prepared: tuple[Path, PrepareConfig, dict[str, Any]]) -> None:
    out, _, manifest = prepared
    train, val = split_documents(out, "train"), split_documents(out, "val")
    assert sorted(train + val) == sorted(TEXTS)
    assert 2 <= len(val) <= 25
    assert train != [text for text in TEXTS if text in train]  # shuffled
    assert val == [text for text in TEXTS if text in val]
    for split, texts in (("train", train), ("val", val)):
        assert manifest["splits"][split]["documents"] == len(texts)
        assert manifest["splits"][split]["bytes"] == sum(len(text.encode()) for text in texts)


def test_a_prepared_folder_has_these_files_and_no_paths_or_times(prepared: tuple[Path, PrepareConfig, dict[str, Any]]) -> None:
    out, _, _ = prepared
    assert sorted(os.listdir(out)) == ["manifest.json", "tokenizer.model", "web_train_000000.bin", "web_val_000000.bin"]
    assert str(out.parent) not in (out / "manifest.json").read_text()


def test_the_same_settings_give_the_same_bytes_and_a_second_run_does_nothing(
    prepared: tuple[Path, PrepareConfig, dict[str, Any]], tmp_path: Path
) -> None:
    out, config, manifest = prepared
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare(config) == {**manifest, "skipped": True}
    assert times == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    prepare(PrepareConfig(**{**vars(config), "out": str(tmp_path / "again")}))
    for path in out.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_changed_input_settings_or_a_missing_shard_are_prepared_again(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", jsonl(TEXTS))
    config = PrepareConfig(out=str(tmp_path / "out"), inputs=(source,), vocab_size=350, val_fraction=0.2)
    first = prepare(config)
    changed = PrepareConfig(**{**vars(config), "name": "other", "seed": 5})
    assert "skipped" not in prepare(changed)
    assert [path.name for path in sorted((tmp_path / "out").glob("*.bin"))] == ["other_train_000000.bin", "other_val_000000.bin"]
    assert prepare(config) == first
    os.unlink(find_shards(tmp_path / "out", "val")[0])
    assert prepare(config) == first
    write(Path(source), jsonl(TEXTS[:-1]))
    assert prepare(config)["splits"] != first["splits"]


def test_shards_of_other_origin_are_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "out/fineweb_train_000000.bin", b"precious")
    config = PrepareConfig(out=str(tmp_path / "out"), inputs=(write(tmp_path / "a.jsonl", jsonl(TEXTS)),), vocab_size=350)
    with pytest.raises(DataError, match="fineweb_train_000000.bin: was not written by an earlier run"):
        prepare(config)
    assert os.listdir(tmp_path / "out") == ["fineweb_train_000000.bin"]


def test_a_given_tokenizer_and_validation_file_are_used_as_they_are(
    prepared: tuple[Path, PrepareConfig, dict[str, Any]], tmp_path: Path
) -> None:
    model = str(prepared[0] / "tokenizer.model")
    train, val = write(tmp_path / "t.jsonl", jsonl(TEXTS[:9], "body")), write(tmp_path / "v.jsonl", jsonl(TEXTS[9:12], "body"))
    prepare(PrepareConfig(out=str(tmp_path / "out"), inputs=(train,), val=(val,), tokenizer=model, field="body"))
    assert sorted(split_documents(tmp_path / "out", "train")) == sorted(TEXTS[:9])
    assert split_documents(tmp_path / "out", "val") == TEXTS[9:12]
    assert (tmp_path / "out/tokenizer.model").read_bytes() == Path(model).read_bytes()
    prepare(PrepareConfig(out=str(tmp_path / "only"), val=(val,), tokenizer=model, field="body"))
    assert [path.name for path in sorted((tmp_path / "only").glob("*.bin"))] == ["text_val_000000.bin"]


def test_one_long_document_gives_its_end_to_validation(tmp_path: Path) -> None:
    text = "".join(TEXTS)
    prepare(PrepareConfig(out=str(tmp_path / "out"), inputs=(write(tmp_path / "a.txt", text.encode()),), vocab_size=350, val_fraction=0.1))
    (train,), (val,) = split_documents(tmp_path / "out", "train"), split_documents(tmp_path / "out", "val")
    assert train + val == text
    assert 0.08 < len(load_stream(tmp_path / "out", "val")) / (len(load_stream(tmp_path / "out", "train")) + 1) < 0.14


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.jsonl", jsonl(["x"]) + b"{broken\n", "a.jsonl: line 2: not a JSON object"),
        ("a.jsonl", jsonl(["x"]) + b'{"text": "\xff"}\n', "a.jsonl: line 2: not a JSON object in UTF-8"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl: line 1: not a JSON object"),
        ("a.jsonl", b'{"text": 5}\n', "line 1: no text under 'text'; name its key with --field"),
        ("a.jsonl", b"[1]\n", "line 1: no text under"),
        ("a.jsonl.xz", lzma.compress(jsonl(TEXTS))[:-20], "a.jsonl.xz: cut or damaged"),
        ("a.jsonl.gz", gzip.compress(jsonl(TEXTS))[:-20], "a.jsonl.gz: cut or damaged"),
        ("a.jsonl.zst", zstandard.compress(jsonl(TEXTS))[:-20], "a.jsonl.zst: cut or damaged"),
        ("a.jsonl.xz", jsonl(TEXTS), "a.jsonl.xz: cut or damaged"),
        ("a.jsonl.gz", jsonl(TEXTS), "a.jsonl.gz: cut or damaged"),
        ("a.jsonl.zst", jsonl(TEXTS), "a.jsonl.zst: cut or damaged"),
        ("a.txt", b"abc\xff", "a.txt: byte 3 is not UTF-8"),
        ("a.pdf", b"abc", "a.pdf: not a kind of text file known here"),
        ("a.jsonl", b"", "cannot be learned|no documents"),
    ],
)
def test_a_bad_input_is_named_and_leaves_nothing_behind(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    config = PrepareConfig(out=str(tmp_path / "out"), inputs=(write(tmp_path / name, content),), vocab_size=350)
    with pytest.raises(SeedgramError, match=said):
        prepare(config)
    assert not (tmp_path / "out").exists()


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    source, out = write(tmp_path / "a.jsonl", jsonl(TEXTS)), str(tmp_path / "out")
    for config, error in [
        (PrepareConfig(out=out), DataError),
        (PrepareConfig(out=out, inputs=(source,), embedded=True), DataError),
        (PrepareConfig(out=out, inputs=(source,), val_fraction=1.0), DataError),
        (PrepareConfig(out=out, inputs=(str(tmp_path / "none"),)), DataError),
        (PrepareConfig(out=out, inputs=(source,), tokenizer=source), TokenizerError),
        (PrepareConfig(out=out, inputs=(source,), vocab_size=100), TokenizerError),
    ]:
        with pytest.raises(error):
            prepare(config)
    os.mkdir(tmp_path / "empty")
    with pytest.raises(DataError, match="no text in this folder"):
        find_inputs([str(tmp_path / "empty")])


def script(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", str(ROOT / "scripts/prepare_data.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_the_script_prints_a_line_a_split_and_keeps_errors_to_one_line(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", jsonl(TEXTS))
    done = script(source, "--vocab-size", "350", "--val-fraction", "0.2", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()[:2]] == ["train", "val"]
    for arguments in ([str(tmp_path / "none.txt"), "--out", str(tmp_path / "x")], [source, "--no-such-flag"], []):
        failed = script(*arguments)
        assert failed.returncode == 2 and failed.stdout == "" and len(failed.stderr.splitlines()) == 1, failed
        assert "Traceback" not in failed.stderr
    assert not (tmp_path / "x").exists()
