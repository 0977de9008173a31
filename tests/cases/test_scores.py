"""One text has one figure: through shards and eval.py, and as a file through `seedgram score`; which also lists what each token costs."""

import importlib
import json
from pathlib import Path

import pytest

from hybrid.cli import seedgram
from hybrid.data import tokenizer
from tests.support import tiny
from tests.support.folders import prepare_into, write

TEXT = "".join(tiny.documents(4, 8)) + " two  spaces\n\tand \u4e2d\u00bd"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], dict[str, float]]:
    """(what eval.py says of a document, what `seedgram score` says of it)."""
    folder = tmp_path_factory.mktemp("scores")
    tiny.write_artifact(folder / "a.bin")
    write(folder / "M", tiny.tokenizer_bytes())
    text, train = write(folder / "text.txt", TEXT), write(folder / "train.txt", "another text\n" * 9)
    prepare_into(folder / "D", train, val=(text,), tokenizer=str(folder / "M"))
    assert tiny.exit_code(importlib.import_module("eval"), "--artifact", folder / "a.bin", "--data", folder / "D", "--json", folder / "eval.json") == 0
    assert tiny.exit_code(seedgram, "score", folder / "text.txt", "--artifact", folder / "a.bin", "--per-token", "--json", folder / "score.json") == 0
    return json.loads((folder / "eval.json").read_text()), json.loads((folder / "score.json").read_text())


def test_a_document_has_the_same_tokens_bytes_and_bits_through_both(scored: tuple[dict[str, float], dict[str, float]]) -> None:
    shards, file = scored
    assert (shards["tokens"], shards["bytes"]) == (file["tokens"], file["bytes"]) == (file["tokens"], len(TEXT.encode()))
    assert shards["blended_bpb"] == pytest.approx(file["bpb"], rel=1e-6)


def test_tokens_in_json_are_the_text_and_say_which_are_raw_bytes(scored: tuple[dict[str, float], dict[str, list[dict[str, str]]]]) -> None:
    rows = scored[1]["per_token"]
    assert b"".join(row["text"].encode() if "text" in row else bytes.fromhex(row["hex"]) for row in rows) == TEXT.encode()
    assert any("hex" in row for row in rows) and sum(float(row["bits"]) for row in rows) == pytest.approx(scored[1]["bits"])  # type: ignore[call-overload]


def test_json_on_standard_output_is_all_that_is_there(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    tiny.write_artifact(tmp_path / "a.bin")
    (tmp_path / "val").mkdir()
    tiny.write_data(tmp_path / "val")
    capfdbinary.readouterr()
    assert tiny.exit_code(importlib.import_module("eval"), "--artifact", tmp_path / "a.bin", "--data", tmp_path / "val", "--json", "-") == 0
    assert json.loads(capfdbinary.readouterr().out)["tokens"] > 100


def test_advice_on_shards_of_another_tokenizer_can_be_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_artifact(tmp_path / "a.bin")
    write(tmp_path / "other", tokenizer.train([TEXT[::-1]], len(tokenizer.load(tiny.tokenizer_bytes()).piece_bytes)))
    text, train = write(tmp_path / "text.txt", TEXT), write(tmp_path / "train.txt", "another text\n" * 9)

    def evaluated(model: str) -> int:
        prepare_into(tmp_path / f"D {model}", train, val=(text,), tokenizer=str(tmp_path / model))
        return tiny.exit_code(importlib.import_module("eval"), "--artifact", tmp_path / "a.bin", "--data", tmp_path / f"D {model}")

    assert evaluated("other") == 2
    assert "prepare its text with the artifact's (seedgram inspect A --tokenizer F)" in capsys.readouterr().err
    assert tiny.exit_code(seedgram, "inspect", "--artifact", tmp_path / "a.bin", "--tokenizer", tmp_path / "own") == 0
    assert evaluated("own") == 0
