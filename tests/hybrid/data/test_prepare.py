"""Preparation: nothing is lost or done twice, the same inputs give the same bytes, what is damaged is made again, faults are one line."""

import lzma
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybrid.data.load_stream import load_stream
from hybrid.data.manifest import check_shards
from hybrid.data.prepare import PrepareConfig, prepare
from hybrid.data.shards import DataError, find_shards
from hybrid.data.tokenizer import TokenizerError
from hybrid.data.write_shards import write_shards
from ngram.errors import SeedgramError
from tests.support.folders import jsonl, read_back, write

TEXTS = [f"Document {i}:\n\n    the cat  sat on mat {i * i}, and that \u2581 was déjà vu.\n" * 3 for i in range(60)]


def split_documents(out: Path, split: str) -> list[str]:
    return [text.decode() for text in read_back(out, split)]


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
    indexes, shards = ["web_train_documents.idx", "web_val_documents.idx"], ["web_train_000000.bin", "web_val_000000.bin"]
    assert sorted(os.listdir(out)) == sorted(["manifest.json", "tokenizer.model", *indexes, *shards])
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
    assert prepare(config) == {**first, "replaced": True}
    os.unlink(find_shards(tmp_path / "out", "val")[0])
    assert prepare(config) == first
    write(Path(source), jsonl(TEXTS[:-1]))
    assert prepare(config)["splits"] != first["splits"]


@pytest.mark.parametrize("name", ["text_train_000000.bin", "text_val_000000.bin", "text_val_documents.idx", "tokenizer.model"])
def test_a_damaged_folder_is_prepared_again_and_not_called_complete(tmp_path: Path, name: str) -> None:
    config = PrepareConfig(
        out=str(tmp_path / "out"), inputs=(write(tmp_path / "in.jsonl", jsonl(TEXTS)),), vocab_size=350, val_fraction=0.2
    )
    first = prepare(config)
    whole = (tmp_path / "out" / name).read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-7], b""):  # the first one of the same size
        (tmp_path / "out" / name).write_bytes(damaged)
        assert prepare(config) == first
        assert (tmp_path / "out" / name).read_bytes() == whole
    assert prepare(config) == {**first, "skipped": True}


def test_what_is_on_disk_is_compared_with_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that comes out of the writing with one other token is an error, and the folder is not taken for a complete one."""
    from hybrid.data import assemble as module

    real = write_shards

    def spoiled(folder: Path, name: str, split: str, tokens: "np.ndarray") -> list[Path]:
        tokens = tokens[: len(tokens)]
        return real(folder, name, split, np.where(np.arange(len(tokens)) == 30, tokens[40], tokens).astype(np.uint16))

    source = write(tmp_path / "in.jsonl", jsonl([f"{i} apples and {i + 1} pears, {i * 7} plums\n" for i in range(60)]))
    for challenge in (False, True):
        config = PrepareConfig(out=str(tmp_path / f"out{challenge}"), inputs=(source,), vocab_size=300, challenge_encoding=challenge)
        monkeypatch.setattr(module, "write_shards", spoiled)
        with pytest.raises(DataError, match=r"text_train_000000.bin: document \d+ does not come back as it was read"):
            prepare(config)
        with pytest.raises(DataError, match="was not prepared to the end; prepare it again"):
            check_shards(find_shards(tmp_path / f"out{challenge}", "train"), b"")
        monkeypatch.setattr(module, "write_shards", real)
        assert "skipped" not in prepare(config)


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
        ("a.jsonl", jsonl(TEXTS) + b"{broken\n", "a.jsonl: line 61: not a JSON value"),
        ("a.jsonl.xz", lzma.compress(jsonl(TEXTS))[:-20], "a.jsonl.xz: cut or damaged"),
        ("a.pdf", b"abc", "a.pdf: not a kind of text file known here"),
        ("a.jsonl", b"", "cannot be learned|no documents"),
        ("a.txt", b" \n\t\n" * 500, "cannot be learned|nothing but white space"),
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
