"""`python -m ngram train --memory` writes the model that it writes without, also when it was stopped in between."""

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import sentencepiece as spm

from ngram.__main__ import main
from ngram.counting.spill import SpillingCache
from ngram.errors import run_cli
from ngram.library.model import NgramModel

WORDS = ("seed", "gram", "map", "the", "of", "a", "count", "token", "byte", "order", "\u4e2d")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """rows.jsonl: 40 texts of 60 words; t.model: a tokenizer that has no piece for one of the words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ngram.cli.options.LEAST_MEMORY", 1)
    monkeypatch.setattr("ngram.counting.spill.BUFFER_SHARE", 2000)
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, 60)) + ".\nthe end" for _ in range(40)]
    Path("rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    Path("sp.txt").write_text("\n".join(texts).replace(WORDS[-1], ""))
    spm.SentencePieceTrainer.train(input="sp.txt", model_prefix="t", model_type="bpe", minloglevel=3, vocab_size=60, character_coverage=1.0)
    return tmp_path


def train(monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    monkeypatch.setattr(sys, "argv", ["ngram", "train", "--train", "rows.jsonl", "--orders", "2-4", *flags])
    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    return int(ended.value.code or 0)


@pytest.mark.parametrize("vocabulary", [("--words",), ("--tokenizer", "t.model")], ids=["words", "pieces"])
def test_stopped_and_started_again_it_writes_the_same_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], vocabulary: tuple[str, ...]
) -> None:
    flags = (*vocabulary, "--min-count", "1,1,2")
    assert train(monkeypatch, *flags, "--out", "expected.c", "--counts-out", "expected.r") == 0
    expected = capsys.readouterr()
    within = (*flags, "--out", "m.c", "--counts-out", "m.r", "--memory", "40K")
    with monkeypatch.context() as patch:

        def stop(cache: SpillingCache, tokens: npt.ArrayLike) -> None:
            if cache.documents == 25:
                raise KeyboardInterrupt
            count_stream(cache, tokens)

        count_stream = SpillingCache.count_stream
        patch.setattr(SpillingCache, "count_stream", stop)
        assert train(patch, *within) != 0
    capsys.readouterr()
    assert list(Path("m.c.work").glob("run-*"))
    assert train(monkeypatch, *within) == 0
    found = capsys.readouterr()
    report = json.loads(found.out)
    assert report["resumed_at"] > 100 and report["tokens"] == json.loads(expected.out)["tokens"]
    assert found.err == expected.err and ("loses" in found.err) == (vocabulary[0] == "--tokenizer")
    assert Path("m.c").read_bytes() == Path("expected.c").read_bytes()
    assert Path("m.r").read_bytes() == Path("expected.r").read_bytes()
    assert not Path("m.c.work").exists()


def test_exact_counts_alone_are_written_within_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(monkeypatch, "--words", "--counts-out", "expected.r") == 0
    assert train(monkeypatch, "--words", "--counts-out", "m.r", "--memory", "40K") == 0
    assert Path("m.r").read_bytes() == Path("expected.r").read_bytes()
    assert not Path("m.r.work").exists()


def test_a_folder_of_other_texts_and_flags_that_make_no_sense_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("m.c.work").mkdir()
    Path("m.c.work/letter").write_text("mine")
    for flags, said in (
        (("--out", "m.c", "--memory", "1M"), "m.c.work: holds other files"),
        (("--out", "m.c", "--memory", "4 GB"), "expected bytes"),
        (("--out", "m.c", "--work", "w"), "give both"),
        (("--counts-out", "-", "--memory", "1M"), "needs --work"),
        (("--out", "-", "--memory", "1M"), "needs --work"),
    ):
        assert train(monkeypatch, "--words", *flags) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and said in err, flags


def test_the_library_trains_the_same_model_within_memory(folder: Path) -> None:
    texts = [json.loads(line)["text"] for line in Path("rows.jsonl").read_text().splitlines()]
    NgramModel.train(texts, orders=4, min_count=2).save("at_once.c")
    NgramModel.train(iter(texts), orders=4, min_count=2, max_memory=40 << 10).save("within.c")
    assert Path("within.c").read_bytes() == Path("at_once.c").read_bytes()
