"""What run folders say of themselves is held against one another before anything is claimed from it."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from hybrid.cli.train import make_parser, settings_of
from hybrid.settings import presets
from hybrid.submitting import runs
from ngram.errors import SeedgramError
from tests.support.mutants import Sealed
from tests.support.submitting import edit, make_run


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tiny_data, tmp_path_factory.mktemp("runs") / "one", seed=1)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_a_run_is_read_with_its_claim_and_times(run: Path) -> None:
    found = runs.read_run(run)
    summary = json.loads((run / "summary.json").read_text())
    assert found.seed == 1 and found.bpb == summary["scores"]["blended_bpb"] and found.size_bytes == (run / "artifact.bin").stat().st_size
    assert found.training_s == pytest.approx(summary["wall_s"] + found.phases["quantised"] + found.phases["gate"])
    nearest = dataclasses.replace(found, settings={**found.settings, "quant": {"gptq_tokens": 0}})  # rounding that reads no text
    assert nearest.training_s == pytest.approx(summary["wall_s"] + found.phases["gate"])
    nats = found.loss_nats * summary["scores"]["tokens"]
    assert nats == pytest.approx(found.bpb * 0.6931471805599453 * summary["scores"]["bytes"])
    assert len(found.header["data"]) == 1


def test_the_score_of_eval_json_is_claimed_where_there_is_one(copy: Path) -> None:
    claim = json.loads((copy / "summary.json").read_text())["scores"]
    ttt = {"chunk_tokens": 0, "rate": 0.0002}
    (copy / "eval.json").write_text(json.dumps({**claim, "blended_bpb": 1.25, "stride": 8, "adapt": ttt}))
    found = runs.read_run(copy)
    assert found.bpb == 1.25 and found.options().stride == 8 and found.options().adapt.rate == 0.0002


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("summary.json", lambda s: s.pop("scores"), "was not scored; run eval.py"),
        ("summary.json", lambda s: s["scores"].update(artifact_bytes=1), "its score is of another artifact"),
        ("summary.json", lambda s: s["scores"].update(seed=7), "its score is of another artifact"),
        ("summary.json", lambda s: s["bytes"].update(total=5), "log or summary are of another run"),
        ("summary.json", lambda s: s["scores"].pop("stride"), "lacks what is needed"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(copy: Path, name: str, change, said: str) -> None:
    edit(copy / name, change)
    with pytest.raises(SeedgramError, match=said):
        runs.read_run(copy)


def test_a_run_of_before_a_setting_came_is_read_with_its_default(run: Path, copy: Path) -> None:
    sealed, log = Sealed.open((copy / "artifact.bin").read_bytes()), (copy / "train.jsonl").read_text()
    for name in ("window", "whole_layers"):
        del sealed.header["config"]["model"][name]
        log, found = re.subn(rf'"{name}": \d+, ', "", log)
        assert found == 1
    (copy / "artifact.bin").write_bytes(sealed.sound())
    (copy / "train.jsonl").write_text(log)

    def smaller(told: dict[str, Any]) -> None:
        told["scores"]["artifact_bytes"] = (copy / "artifact.bin").stat().st_size
        told["bytes"]["total"] = told["bytes"]["code"] + told["scores"]["artifact_bytes"]

    edit(copy / "summary.json", smaller)
    expected = runs.read_run(run).settings
    expected["model"] |= {"window": 0, "whole_layers": 0}
    assert runs.read_run(copy).settings == expected


def test_a_log_of_another_run_is_refused(copy: Path) -> None:
    lines = (copy / "train.jsonl").read_text().splitlines()
    start = json.loads(lines[0])
    start["config"]["train"]["matrix_lr"] = 0.5
    (copy / "train.jsonl").write_text("\n".join([json.dumps(start), *lines[1:]]))
    with pytest.raises(SeedgramError, match="log or summary are of another run"):
        runs.read_run(copy)
    (copy / "train.jsonl").write_text("step 1\n")
    with pytest.raises(SeedgramError, match="is no log of train_gpt"):
        runs.read_run(copy)


def test_two_runs_need_two_seeds(run: Path, copy: Path) -> None:
    with pytest.raises(SeedgramError, match="every run needs a seed of its own"):
        runs.read_runs([run, copy])


def test_the_flags_say_the_settings(run: Path) -> None:
    settings = runs.read_run(run).settings
    words = runs.train_flags(settings)
    again = settings_of(make_parser().parse_args([*words, "--data", "x", "--tokenizer", "y", "--out", "z"]), {})
    assert runs._plain(again) == settings and words[:2] == ["--preset", "seed1095"]
    assert runs.train_flags(runs._plain(presets.get("best16mb"))) == ["--preset", "best16mb"]
