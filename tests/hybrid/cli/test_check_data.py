"""`seedgram check-data` finds what spoils a bits-per-byte figure, says it in a table and in its exit code."""

import json
from pathlib import Path

import numpy as np
import pytest

from hybrid.auditing.byte_accounting import account, properties
from hybrid.cli import check_data
from hybrid.data.write_shards import write_shard
from ngram.errors import SeedgramError
from ngram.terminal import OneLineParser
from ngram.tokenizer import Tokenizer
from tests.support import tiny
from tests.support.tokenizers import kinds


def run(*argv: str | Path) -> int:
    parser = OneLineParser(prog="seedgram check-data")
    check_data.add_flags(parser)
    return check_data.run(parser.parse_args([str(word) for word in argv]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.model").write_bytes(tiny.tokenizer_bytes())
    write_shard(tmp_path / "t_train_000000.bin", tiny.stream(seed=1, count=30))
    write_shard(tmp_path / "t_val_000000.bin", tiny.stream(seed=2, count=5))
    return tmp_path


def test_clean_sides_pass(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", folder, "--tokenizer", folder / "tokenizer.model") == 0
    assert "nothing wrong was found" in capsys.readouterr().out


def test_validation_documents_inside_the_training_text_fail(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = np.concatenate([tiny.stream(seed=1, count=30), tiny.stream(seed=2, count=5)])
    write_shard(folder / "t_train_000000.bin", both)
    assert run("--data", folder, "--tokenizer", folder / "tokenizer.model", "--json", "-") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["documents_shared"]["documents"] == 5 and found["documents_shared"]["share"] == 1 and len(found["wrong"]) == 2


def test_a_passage_copied_into_the_training_text_fails_although_no_document_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    val = np.concatenate([tiny.stream(seed=2, count=5), tiny.stream(seed=3, count=5)[1:]])
    write_shard(folder / "t_val_000000.bin", val)
    copied = tiny.stream(seed=2, count=5)[3:-3]
    write_shard(folder / "t_train_000000.bin", np.concatenate([tiny.stream(seed=1, count=30), copied[copied != 1]]))
    assert run("--data", folder, "--tokenizer", folder / "tokenizer.model", "--window", "8") == 1
    assert "lie in windows of 8 that the training text has too" in capsys.readouterr().out


@pytest.mark.parametrize(
    "kind, text, word",
    [
        ("public", "\ufdfa" * 40, "more bytes than they have"),
        ("public", "two  spaces   here and  there", "do not come back"),
    ],
)
def test_text_that_a_tokenizer_counts_wrongly_fails(kind: str, text: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.model").write_bytes(kinds()[kind])
    (tmp_path / "text.txt").write_text(text)
    assert run("--text", tmp_path / "text.txt", "--tokenizer", tmp_path / "m.model") == 1
    assert word in capsys.readouterr().out


def test_bytes_are_those_of_the_text_not_of_what_the_tokens_say() -> None:
    codec = Tokenizer(kinds()["public"])
    found = account(codec, ["\ufdfa" * 10, "plain words"])
    assert found.bytes == 30 + 11 and found.counted > found.bytes and found.longer == 1 and found.worst[1].startswith("\ufdfa")
    assert not properties(codec)["text left as it is (no normaliser, no added or removed space)"]


@pytest.mark.parametrize("flags", [(), ("--data", "x", "--window", "0"), ("--data", "x", "--most-shared", "nan"), ("--data", "x", "--most-shared", "2")])
def test_what_cannot_be_checked_is_refused(flags: tuple[str, ...], folder: Path) -> None:
    with pytest.raises(SeedgramError):
        run(*flags, "--tokenizer", str(folder / "tokenizer.model"))
