"""A submission is written when it keeps the rules and its copy, run by itself, says what is claimed; otherwise one line and no folder."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybrid import __main__ as command
from hybrid.auditing.printed_run import audit_artifact
from hybrid.auditing.report import AuditReport, Verdict
from hybrid.data.write_shards import write_shard
from hybrid.parallel.ranks import Ranks
from hybrid.scoring.printed import Printed, run_eval
from hybrid.submitting import archive, checks, machine, prove, runs
from tests.support import tiny
from tests.support.submitting import edit, make_run

WHO = ["--name", "Tiny", "--author", "A. Uthor", "--github-id", "author", "--blurb", "Two layers."]


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Less than the other tests have: what stands alone runs with its kernels as plain Python."""
    folder = tmp_path_factory.mktemp("data")
    tiny.write_data(folder, train=20, val=2)
    return folder


@pytest.fixture(scope="module")
def two(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of the small model with seeds 1 and 2."""
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(tiny_data, folder / f"seed{seed}", seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def code() -> tuple[bytes, list[str]]:
    """The archive and what it needs: tests/hybrid/submitting/test_archive.py asks whether they are right."""
    return archive.archive_bytes(), archive.requirements()


@pytest.fixture(autouse=True)
def quick(code: tuple[bytes, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels as plain Python in processes with an empty home, no long measurements; the first test below audits, the others do not."""
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    monkeypatch.setattr(archive, "archive_bytes", lambda: code[0])
    monkeypatch.setattr(archive, "requirements", lambda: code[1])
    monkeypatch.setattr(machine, "ROUNDS", 1)
    monkeypatch.setattr(machine, "measure", lambda device: {"device": "cpu"})
    verdicts = {name: Verdict(name) for name in ("C1", "C2", "C3", "C4")}
    monkeypatch.setattr(checks, "audit_artifact", lambda *_: AuditReport("run", verdicts, np.arange(9), np.ones(9)))


@pytest.fixture
def claimed(two: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Instead of the archive's processes: they say what is claimed.  Returns the command lines that were asked for."""
    asked, said = [], iter([json.loads((run / "summary.json").read_text())["scores"] for run in two])

    def alone(place: Path, words: list[str]) -> None:
        asked.append(list(words))
        if words[0] == "eval":
            size = (place / "work" / "submission.zip").stat().st_size
            (place / "work" / "result.json").write_text(json.dumps({**next(said), "code_bytes": size}))
        else:
            run = place / "work" / "small" / "run"
            run.mkdir()
            (run / "summary.json").write_text('{"steps": 2, "scores": {"blended_bpb": 5.0}}')

    monkeypatch.setattr(prove, "alone", alone)
    return asked


def submit(out: Path, data: Path, *words: object) -> int:
    return tiny.exit_code(command, "submit", *words, "--data", data, "--out", out, *WHO, "--device", "cpu")


def test_the_copy_stands_alone_and_says_what_is_claimed(
    tiny_data: Path, two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real thing: the run is audited, the archive trains and scores in processes of its own, with an empty home."""
    monkeypatch.setattr(checks, "audit_artifact", audit_artifact)
    assert submit(tmp_path / "out", tiny_data, two[0], "--audit-tokens", "129") == 0, capsys.readouterr().err
    assert f"{tmp_path / 'out'}: " in capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "submission.json").read_text())
    size = (tmp_path / "out" / "submission.zip").stat().st_size
    assert told["bytes_code"] == size and told["bytes_total"] == size + (tmp_path / "out" / "artifact.bin").stat().st_size
    assert abs(told["seeds"]["1"]["val_bpb_alone"] - told["val_bpb"]) < 1e-4 and told["proof"]["small_training"]["steps"] == 2
    assert told["checks"]["audit of seed 1"] == "128 distributions: C1 held, C2 held, C3 held, C4 held"


@pytest.mark.parametrize(
    ("device", "gpus", "used", "told"), [("cpu", 0, 3, "by 3 of the 3 ranks"), ("cuda", 2, 2, "by 2 of the 3 ranks"), ("cuda", 8, 3, "by 3 of the 3 ranks")]
)
def test_a_figure_that_several_ranks_printed_is_audited_with_as_many_or_what_is_missing_is_said(
    tiny_data: Path, two: list[Path], monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, used: int, told: str
) -> None:
    asked: list[int] = []

    def audit(path: str, data: str, options: Any, positions: int, here: Ranks, printing_ranks: int = 1) -> AuditReport:
        asked.append(printing_ranks)
        return AuditReport("run", {}, np.arange(9), np.ones(9))

    monkeypatch.setattr(checks, "audit_artifact", audit)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    alone, claim = runs.read_run(two[0]), runs.read_run(two[1])
    several = dataclasses.replace(claim, claim={**claim.claim, "world": 3})
    found = checks.check_audits([alone, several], str(tiny_data), checks.Limits(), Ranks(0, 1, torch.device(device)))
    assert asked == [1, used]
    assert [check.found.partition(":")[0] for check in found] == ["9 distributions", f"9 distributions {told} that printed the claim"]


@pytest.mark.usefixtures("loaded_processes")
def test_a_run_whose_printed_bits_are_not_those_of_its_distributions_is_not_submitted(
    tiny_data: Path, two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, claimed: list[list[str]]
) -> None:
    """The audit's own verdict, on an eval.py that prints a hundredth of a bit less for every token than the model it scores gives."""
    monkeypatch.delenv("NUMBA_DISABLE_JIT")
    monkeypatch.setattr(checks, "audit_artifact", audit_artifact)

    def flattering(*arguments: Any) -> Printed:
        printed = run_eval(*arguments)
        bits = printed.bits - 0.01
        bpb = float(bits.sum()) / printed.size_bytes
        return dataclasses.replace(printed, bits=bits, bpb=bpb, result={**printed.result, "blended_bpb": bpb})

    monkeypatch.setattr("hybrid.auditing.printed_run.run_eval", flattering)
    assert submit(tmp_path / "out", tiny_data, two[0], "--audit-tokens", "129") == 2
    assert_refused(capsys, tmp_path, "audit of seed 1: 128 distributions: C1 held, C2 held, C3 held, C4 ")
    assert claimed == []


def test_the_folder_holds_what_the_challenge_asks(tiny_data: Path, two: list[Path], tmp_path: Path, claimed: list[list[str]]) -> None:
    (two[0] / "machine.json").write_text('{"device": "the one that trained"}')
    assert submit(tmp_path / "out", tiny_data, *two, "--json", tmp_path / "copy.json") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    seeds = {f"{kind}_seed{seed}.{ending}" for seed in (1, 2) for kind, ending in (("train", "jsonl"), ("eval", "json"))}
    assert names == {"README.md", "submission.json", "submission.zip", "artifact.bin", "requirements.txt"} | seeds
    told = json.loads((tmp_path / "out" / "submission.json").read_text())
    bpb = [runs.read_run(run).bpb for run in two]
    assert told["author"] == "A. Uthor" and told["github_id"] == "author" and told["val_bpb"] == pytest.approx(sum(bpb) / 2)
    assert told["val_bpb_std"] == pytest.approx(abs(bpb[0] - bpb[1]) / 2**0.5)
    assert told["no_record_because"][0] == "2 of 3 seeds" and "H100" in told["no_record_because"][1]
    assert told["ledger"]["files"]["code"] > 3 * told["ledger"]["shipped"]["code"] and told["data"]["shared_documents"] == 0
    assert told["machines"] == {"proved": {"device": "cpu"}, "trained, seed 1": {"device": "the one that trained"}}
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"**{told['val_bpb']:.4f} bits per byte**" in text and "python submission.zip train --preset seed1095" in text and "C4 held" in text
    assert [words[0] for words in claimed] == ["eval", "eval", "train"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cap-bytes", "100000"], "size: "),
        (["--train-limit", "1e-6"], "training time: "),
        (["--eval-limit", "1e-6"], "evaluation time: "),
        (["--audit-tokens", "1"], "--audit-tokens must be at least 2"),
    ],
)
def test_limits_are_kept_or_nothing_is_written(
    tiny_data: Path, two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], claimed: list[list[str]], words: list[str], said: str
) -> None:
    assert submit(tmp_path / "out", tiny_data, *two, *words) == 2
    assert_refused(capsys, tmp_path, said)
    assert claimed == []


def assert_refused(capsys: pytest.CaptureFixture[str], folder: Path, said: str) -> None:
    """The last line says why, and nothing lies in the folder."""
    told = capsys.readouterr().err.strip().splitlines()
    assert said in told[-1] and "Error" in told[-1] and "Traceback" not in "".join(told)
    assert not [path.name for path in folder.iterdir() if "out" in path.name]


def test_an_audit_that_fails_ends_it(
    tiny_data: Path, two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, claimed: list[list[str]]
) -> None:
    bad = Verdict("C2", passed=False, why="rows sum to 850")
    monkeypatch.setattr(checks, "audit_artifact", lambda *_: AuditReport("run", {"C2": bad}, np.arange(9), np.ones(9)))
    assert submit(tmp_path / "out", tiny_data, *two) == 2
    assert_refused(capsys, tmp_path, "audit of seed 1: 9 distributions: C2 rows sum to 850")


def test_sides_that_share_documents_end_it_unless_that_is_allowed(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], claimed: list[list[str]]
) -> None:
    data, out = tmp_path / "data", tmp_path / "written"
    shutil.copytree(tiny_data, data)
    write_shard(data / "tiny_val_000000.bin", tiny.stream(seed=3, count=45)[:400])  # the beginning of the training text
    run = make_run_with_overlap(data, tmp_path / "run")
    assert submit(tmp_path / "out", data, run) == 2
    assert_refused(capsys, tmp_path, "validation documents are training documents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prove, "_evaluate", lambda *_: 1.0)
        assert submit(out, data, run, "--allow-overlap") == 0
    assert "allowed by hand" in (out / "README.md").read_text()


def make_run_with_overlap(data: Path, out: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybrid.training.inputs.check_overlap", lambda *_, **__: None)
        return make_run(data, out, seed=1)


def test_other_shards_than_those_of_the_log_end_it(
    tiny_data: Path, two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], claimed: list[list[str]]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    write_shard(data / "tiny_train_000000.bin", tiny.stream(seed=5, count=45))
    assert submit(tmp_path / "out", data, *two) == 2
    assert_refused(capsys, tmp_path, "training data: not the shards that the runs' logs name")


def test_a_copy_that_says_another_figure_ends_it(
    tiny_data: Path, two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], claimed: list[list[str]]
) -> None:
    better = shutil.copytree(two[0], tmp_path / "better")
    edit(better / "summary.json", lambda summary: summary["scores"].update(blended_bpb=summary["scores"]["blended_bpb"] - 0.001))
    assert submit(tmp_path / "out", tiny_data, better) == 2
    assert_refused(capsys, tmp_path, "bits per byte, alone the archive says")


def test_an_archive_that_python_cannot_run_ends_it(
    tiny_data: Path, two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "archive_bytes", lambda: b"no zip")
    assert submit(tmp_path / "out", tiny_data, two[0]) == 2
    assert_refused(capsys, tmp_path, "alone, `submission.zip eval` ends with code 1: ")


def test_an_archive_that_runs_other_code_ends_it(
    tiny_data: Path, two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = json.loads((two[0] / "summary.json").read_text())["scores"]  # which count the code as files
    monkeypatch.setattr(prove, "alone", lambda place, words: (place / "work" / "result.json").write_text(json.dumps(scores)))
    assert submit(tmp_path / "out", tiny_data, two[0]) == 2
    assert_refused(capsys, tmp_path, "ran other code than the archive's")


def test_a_folder_that_is_there_is_not_written_over(tiny_data: Path, two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    assert submit(tmp_path / "taken", tiny_data, *two) == 2
    assert "is there already" in capsys.readouterr().err
    assert tiny.exit_code(command, "submit", *two) == 2
    assert "--data --out --name --author --github-id --blurb missing" in capsys.readouterr().err


def test_the_archive_alone_is_one_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.exit_code(command, "submit", "--code", tmp_path / "s.zip") == 0
    assert (tmp_path / "s.zip").read_bytes() == archive.archive_bytes()
