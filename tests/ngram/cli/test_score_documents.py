"""`python -m ngram score --jsonl`: a line a row, in order, and on from where a killed run had got."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ngram.cli import documents as scoring
from ngram.cli.commands import carry_out
from ngram.cli.options import Options, ScoreDocumentsOptions
from ngram.cli.parser import build_parser, options_of
from ngram.errors import SeedgramError
from ngram.library.model import NgramModel
from ngram.terminal import UsageError
from ngram.tokenizer import Tokenizer
from tests.support.paths import ROOT
from tests.support.tokenizers import NASTY, kinds, small_texts


def parse(arguments: list[str]) -> Options:
    return options_of(build_parser().parse_args(arguments))


pytestmark = pytest.mark.compiled
TEXT = "the cat sat on the mat\nthe dog sat on the log\n" * 3
ROWS: list[Any] = ["the cat\nsat on\n\nthe log", "", None, "zebras", "the dog sat on the mat\n", *[f"the cat {i}" for i in range(40)]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("documents")
    NgramModel.train([TEXT], orders=3).save(made / "m.ngram")
    (made / "in.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS))
    return made


def run(folder: Path, out: Path, *flags: str) -> list[dict[str, Any]]:
    carry_out(parse(["score", "--model", str(folder / "m.ngram"), "--jsonl", str(folder / "in.jsonl"), "--out", str(out), "--processes", "2", *flags]))
    assert not Path(f"{out}.partial").exists() and not Path(f"{out}.partial.json").exists()
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_each_row_has_the_score_of_its_lines_in_order(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "BATCH_CHARS", 300)  # several batches, whose processes end in any order
    found = run(folder, tmp_path / "out.jsonl")
    model = NgramModel.load(folder / "m.ngram")
    assert len(found) == len(ROWS)
    for row, text in zip(found, ROWS, strict=True):
        lines = [line for line in (text or "").split("\n") if line]
        assert row["log10"] == pytest.approx(sum(model.score(line) for line in lines), abs=1e-6)
        assert row["tokens"] == sum(len(line.split()) + 1 for line in lines)
        assert row["perplexity"] == (pytest.approx(10 ** (-row["log10"] / row["tokens"]), rel=1e-4) if lines else None)
        assert row["unknown"] == sum(word not in TEXT.split() for line in lines for word in line.split())


@pytest.mark.parametrize("kind", ["pieces", "words"])
def test_a_batch_has_the_bits_of_each_document_by_itself(kind: str) -> None:
    """Of pieces a document is a text to `NgramModel.score`; of words its lines are, whose tokens are summed document by document."""
    tokenizer = Tokenizer(kinds()["public"]) if kind == "pieces" else "words"
    model = NgramModel.train(small_texts()[:5], tokenizer, orders=4)
    texts = [*small_texts()[4:8], "", "zebras of déjà vu", " \n\n", *NASTY]
    scoring._MODEL[:] = [model]
    lines = scoring.score_batch(texts)[0].decode().splitlines()
    for text, line in zip(texts, lines, strict=True):
        parts = [text] if kind == "pieces" else [part for part in text.encode("utf-8", "surrogatepass").split(b"\n") if part.split()]
        scores = [model.full_scores(part if isinstance(part, str) else model.vocabulary.encode(part)) for part in parts]  # type: ignore[arg-type]
        log10 = [np.concatenate([[0.0], score.log10]) for score in scores]  # `<s>` adds nothing
        total = float(np.add.reduceat(np.concatenate(log10), [0])[0]) if log10 else 0.0
        assert line.startswith(f'{{"log10": {total:.6f}, "tokens": {sum(map(len, scores))}, ')
        assert kind == "words" or total == model.score(text)


def test_a_killed_run_goes_on_behind_its_last_whole_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, out = run(folder, tmp_path / "whole.jsonl"), tmp_path / "out.jsonl"
    asked = parse(["score", "--model", str(folder / "m.ngram"), "--jsonl", str(folder / "in.jsonl"), "--out", str(out)])
    assert isinstance(asked, ScoreDocumentsOptions)
    note = Path(f"{out}.partial.json")
    note.write_text(json.dumps(scoring._task(asked, [folder / "in.jsonl"])))
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    Path(f"{out}.partial").write_text("".join(lines[:7]) + lines[7][:9])
    capsys.readouterr()
    assert run(folder, out) == whole
    assert json.loads(capsys.readouterr().out)["resumed_at"] == 7


def test_what_another_run_left_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    Path(f"{out}.partial.json").write_text('{"files": []}')
    Path(f"{out}.partial").write_text("{}\n")
    with pytest.raises(SeedgramError, match="another model or input"):
        run(folder, out)
    assert Path(f"{out}.partial").read_text() == "{}\n"


@pytest.mark.parametrize(("flags", "said"), [(["--jsonl", "x"], "needs --out"), (["--test", "x", "--out", "y"], "--out is for --jsonl")])
def test_flags_that_do_not_belong_together_are_refused(flags: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(["score", "--model", "m", *flags])


def processes_of(word: Path) -> list[str]:
    """Processes whose command line names a path; none where there is no /proc."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(word).encode() in place.read_bytes():
                found.append(place.parent.name)
    return found


def test_a_run_ended_by_sigkill_ends_in_the_same_bytes_when_it_is_started_again(folder: Path, tmp_path: Path) -> None:
    """The kill is real: it comes while documents are being written, and the processes beside it end with it."""
    rows = [json.dumps({"text": f"the cat {place}\nthe dog sat"}) + "\n" for place in range(40_000)]
    (tmp_path / "in.jsonl").write_text("".join(rows))
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"

    def command(path: Path, processes: int = 2) -> list[str]:
        flags = ["--model", str(folder / "m.ngram"), "--jsonl", str(tmp_path / "in.jsonl"), "--out", str(path), "--processes", str(processes)]
        return [sys.executable, "-m", "ngram", "score", *flags]

    partial = Path(f"{out}.partial")

    def killed() -> int:
        """Documents that were written when the kill came."""
        for path in (out, partial):
            path.unlink(missing_ok=True)
        with subprocess.Popen(command(out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as running:
            while running.poll() is None and not (partial.exists() and partial.stat().st_size):
                time.sleep(0.002)
            running.kill()
        end = time.monotonic() + 30
        while (left := processes_of(out)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not left
        return partial.read_bytes().count(b"\n") if running.returncode == -signal.SIGKILL and not out.exists() else len(rows)

    done = next(written for written in (killed() for _ in range(20)) if written < len(rows))  # on a busy machine a kill can come too late
    assert done > 0
    again = subprocess.run(command(out), cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and done <= json.loads(again.stdout)["resumed_at"] < len(rows), again.stderr
    subprocess.run(command(whole, processes=1), cwd=ROOT, capture_output=True, check=True)
    assert out.read_bytes() == whole.read_bytes() and whole.read_bytes().count(b"\n") == len(rows)
