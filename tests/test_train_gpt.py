"""train_gpt.py as a process: what a run writes, what a killed or repacked one ends in, what ranks agree on, bad input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import train_gpt
from hybrid.training import checkpoint
from tests.support import loaded, tiny
from tests.support.training import command, environment, finish, finish_here

FORTY = ["--steps", "40", "--checkpoint-seconds", "0.001"]


@pytest.fixture(scope="module")
def reference(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference")
    done = finish(tiny_data, out, *FORTY)
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_writes_artifact_log_and_summary(reference: Path) -> None:
    summary = json.loads((reference / "summary.json").read_text())
    assert summary["steps"] == 40 and summary["bytes"]["total"] < 16_000_000
    events = [json.loads(line)["event"] for line in (reference / "train.jsonl").read_text().splitlines()]
    assert events[0] == "start" and events[-1] == "packed" and "step" in events
    assert not (reference / "checkpoint.bin").exists()


def test_a_run_killed_and_resumed_ends_in_the_same_bytes(tiny_data: Path, tmp_path: Path, reference: Path) -> None:
    out = tmp_path / "killed"
    begin = command(tiny_data, out, *FORTY, python=sys.executable)  # another process than the reference's, with another hash seed
    process = subprocess.Popen(begin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    deadline = time.monotonic() + 200
    while not (out / "checkpoint.bin").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    interrupted = (out / "checkpoint.bin").exists()  # else the run was over before it could be killed
    done = finish(tiny_data, out, *FORTY, "--resume=auto", python=sys.executable)
    assert done.returncode == 0, done.stderr
    assert (out / "artifact.bin").read_bytes() == (reference / "artifact.bin").read_bytes()
    assert not interrupted or any(json.loads(line)["event"] == "resume" for line in (out / "train.jsonl").read_text().splitlines())


def test_packing_again_gives_the_bytes_of_a_run_with_those_settings_from_the_start(tiny_data: Path, tmp_path: Path) -> None:
    """And trains nothing: also after late quantisation-aware training."""
    run, out = ["--steps", "12", "--qat-from", "0.5", "--keep-checkpoint"], tmp_path / "again"
    other = ["--embed-bits", "6", "--gptq-tokens", "64", "--no-online", "--cap-bytes", "2000000"]
    for folder, flags in ((out, ()), (tmp_path / "other", other)):
        finish_here(tiny_data, folder, *run, *flags)
    first = (out / "artifact.bin").read_bytes()
    for flags, expected in ((other, (tmp_path / "other" / "artifact.bin").read_bytes()), ([], first)):
        assert (out / "artifact.bin").read_bytes() != expected
        finish_here(tiny_data, out, *run, *flags, "--resume")
        assert (out / "artifact.bin").read_bytes() == expected
        events = [json.loads(line)["event"] for line in (out / "train.jsonl").read_text().splitlines()]
        assert "step" not in events[len(events) - events[::-1].index("resume") :]
        assert (out / "checkpoint.bin").exists()


def test_fewer_bits_packed_again_are_those_of_a_run_with_fewer_bits(tiny_data: Path, tmp_path: Path, reference: Path) -> None:
    out, fewer = tmp_path / "again", ["--weight-bits", "5", "--embed-bits", "7"]
    for folder, flags in ((out, ["--keep-checkpoint"]), (tmp_path / "fewer", fewer), (out, [*fewer, "--resume"])):
        finish_here(tiny_data, folder, *FORTY, *flags)
    assert (out / "artifact.bin").read_bytes() == (tmp_path / "fewer" / "artifact.bin").read_bytes()
    assert (out / "artifact.bin").read_bytes() != (reference / "artifact.bin").read_bytes()
    summary = json.loads((out / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert summary["loss_nats"] is None  # no step was left


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_so_in_one_line_and_exits_with_75(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    out = tmp_path / "stopped"
    process = subprocess.Popen(
        command(tiny_data, out, "--steps", "4000", "--log-every", "1"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "train.jsonl").exists() and '"event": "step"' in (out / "train.jsonl").read_text():
            break
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 75, error
    assert f"{out / 'checkpoint.bin'} holds all of it, go on with --resume" in error.decode().splitlines()[-1]
    assert checkpoint.load(out / "checkpoint.bin")["step"] > 0
    assert not (out / "artifact.bin").exists()
    capsys.readouterr()
    assert tiny.exit_code(train_gpt, *command(tiny_data, out, "--steps", "40", "--resume")[2:]) == 2
    refused = capsys.readouterr().err.strip()
    assert "other settings: train.steps" in refused and len(refused.splitlines()) == 1


def test_resume_without_a_checkpoint_stops_unless_it_is_automatic(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], reference: Path
) -> None:
    out = tmp_path / "never"
    assert tiny.exit_code(train_gpt, *command(tiny_data, out, *FORTY, "--resume")[2:]) == 2
    refused = capsys.readouterr().err.strip()
    assert "no checkpoint to --resume from" in refused and len(refused.splitlines()) == 1 and not out.exists()
    done = finish(tiny_data, out, *FORTY, "--resume=auto")
    assert done.returncode == 0, done.stderr
    assert (out / "artifact.bin").read_bytes() == (reference / "artifact.bin").read_bytes()
    assert tiny.exit_code(train_gpt, *command(tiny_data, out, *FORTY, "--resume")[2:]) == 2
    refused = capsys.readouterr().err.strip()
    assert f"a run has finished here, and {out / 'artifact.bin'} is what eval.py scores; leave --resume out" in refused
    assert len(refused.splitlines()) == 1 and (out / "artifact.bin").read_bytes() == (reference / "artifact.bin").read_bytes()


def test_two_ranks_count_what_one_rank_counts_and_train_alike(tiny_data: Path, tmp_path: Path, reference: Path) -> None:
    torchrun = [loaded.python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        torchrun + command(tiny_data, tmp_path / "two", *FORTY)[1:], capture_output=True, text=True, env=environment(), timeout=240
    )
    assert done.returncode == 0, done.stderr
    from hybrid.storing import artifact

    one, two = (artifact.load(folder / "artifact.bin") for folder in (reference, tmp_path / "two"))
    assert one.table is not None and two.table is not None
    for n in range(one.table.order):
        assert np.array_equal(one.table.tokens[n], two.table.tokens[n]) and np.array_equal(one.table.counts[n], two.table.counts[n])
    for (name, a), b in zip(one.model.state_dict().items(), two.model.state_dict().values(), strict=True):
        assert (a - b).abs().max() <= 0.05 * a.abs().max() + 1e-6, name  # sums in another order, then 8 bits


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--preset", "nonsense"], "nonsense"),
        (["--nonsense"], "--nonsense"),
        (["--steps", "1", "--vocab-size", "999"], "--vocab-size"),
        (["--steps", "1", "--data", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], word: str
) -> None:
    assert tiny.exit_code(train_gpt, *command(tiny_data, tmp_path / "out", *flags)[2:]) == 2
    said = capsys.readouterr().err.strip()
    assert word in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_budget_that_holds_no_model_is_one_line_and_leaves_no_artifact(tiny_data: Path, tmp_path: Path) -> None:
    done = finish(tiny_data, tmp_path / "out", "--steps", "1", "--cap-bytes", "1000")
    lines = [line for line in done.stderr.splitlines() if "Error" in line]
    assert done.returncode == 2 and len(lines) == 1 and "--cap-bytes" in lines[0] and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "artifact.bin").exists()
