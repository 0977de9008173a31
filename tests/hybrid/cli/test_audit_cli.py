"""`seedgram audit`: its exit code is its verdict, and the published rule's claim is labelled as what it is."""

import json
import subprocess

import numpy as np
import pytest
import torch

from hybrid.auditing import printed_run
from hybrid.cli import seedgram
from hybrid.data.write_shards import write_shard
from hybrid.scoring import printed
from hybrid.scoring.options import EvalOptions
from ngram.errors import SeedgramError
from ngram.terminal import UsageError
from tests.support import tiny

pytestmark = pytest.mark.usefixtures("loaded_processes")  # eval.py, which the audit starts

def call(*argv):
    """Exit code of `seedgram audit` with these arguments."""
    return tiny.exit_code(seedgram, "audit", *argv)


def test_the_audit_command_passes_on_our_artifact(made, capsys):
    flags = ["--positions", 100, "--max-tokens", 400, "--json", made / "audit.json", "--png", made / "z.png"]
    assert call("--artifact", made / "artifact.bin", "--data", made, *flags) == 0
    assert json.loads((made / "audit.json").read_text())["passed"] is True
    assert (made / "z.png").exists()
    assert "eval.py: PASSED" in capsys.readouterr().out


def test_a_thorough_audit_reads_all_and_computes_the_network_more_often(made, monkeypatch):
    asked = []

    def audit_artifact(path, data, options, positions, ranks, printing_ranks):
        asked.append((options.max_tokens, positions))
        raise UsageError("enough seen")

    monkeypatch.setattr(printed_run, "audit_artifact", audit_artifact)
    for flags in ([], ["--thorough"], ["--thorough", "--max-tokens", 300, "--positions", 7]):
        assert call("--artifact", made / "artifact.bin", "--data", made, *flags) == 2
    assert asked == [(printed_run.MAX_TOKENS, 256), (0, 4096), (300, 7)]


def test_the_audit_command_fails_with_exit_code_1(made, monkeypatch):
    from hybrid.scoring.predictor import Predictor

    honest = Predictor.row
    monkeypatch.setattr(Predictor, "row", lambda *a: 1.001 * np.asarray(honest(*a)))
    flags = ["--positions", 100, "--max-tokens", 200]
    assert call("--artifact", made / "artifact.bin", "--data", made, *flags) == 1


def test_the_published_rules_claim_stands_beside_and_is_labelled(made, capsys):
    write_shard(made / "x_train_000000.bin", tiny.stream(seed=1, count=30))
    flags = ["--artifact", made / "artifact.bin", "--data", made, "--published-rule", made, "--json", made / "claim.json"]
    assert call(*flags) == 0
    found = json.loads((made / "claim.json").read_text())
    assert found["published_rule"]["is_a_probability"] is False
    assert found["published_rule"]["claimed_bpb"] < found["neural_bpb"]
    printed = capsys.readouterr().out
    assert f"NOT a probability │ {found['published_rule']['claimed_bpb']:13.4f}" in printed
    assert f"{found['blended_bpb']:.4f}" in printed


def test_what_does_not_go_together_is_one_line_and_exit_code_2(made, capsys):
    no_ranks = ["--artifact", made / "artifact.bin", "--data", made, "--ranks", 0]
    for flags in ([], ["--positions", -1], no_ranks, ["--control", "--data", made], ["--data", made, "--published-rule", made]):
        assert call(*flags) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["audit", "certify"])
def test_a_proof_under_torchrun_is_refused_and_told_of_the_flag(made, capsys, monkeypatch, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    more = ["--bytes", 100, "--out", made / "F"] if command == "certify" else []
    assert tiny.exit_code(seedgram, command, "--artifact", made / "artifact.bin", "--data", made, *more) == 2
    assert "give --ranks N" in capsys.readouterr().err


def test_what_several_ranks_print_is_printed_by_torchrun(monkeypatch):
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 3, "", "enough seen")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SeedgramError, match="code 3: enough seen"):
        printed.run_eval("a.bin", "data", EvalOptions(), torch.device("cpu"), 2)
    assert asked[0][1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] and asked[0][5].endswith("eval.py")
