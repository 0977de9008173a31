"""train_gpt.py as a process: what a run writes, what a killed or repacked one ends in, what ranks agree on, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import PIECES

from hybrid import checkpoint

ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    "--layers",
    "2",
    "--d-model",
    "32",
    "--heads",
    "2",
    "--kv-heads",
    "1",
    "--mlp-mult",
    "2",
    "--rope-dims",
    "8",
    "--rank-attention",
    "4",
    "--rank-mlp",
    "4",
]
FLAGS += [
    "--basis",
    "hadamard",
    "--vocab-size",
    str(PIECES),
    "--seq-len",
    "16",
    "--batch-tokens",
    "64",
    "--microbatch-tokens",
    "32",
    "--holdout-tokens",
    "200",
]
FLAGS += [
    "--warmup-steps",
    "1",
    "--ngram-order",
    "4",
    "--bigram-buckets",
    "0",
    "--value-embed-dim",
    "0",
    "--value-embed-layers",
    "0",
    "--xsa-layers",
    "0",
]

FORTY = ["--steps", "40", "--checkpoint-seconds", "0.001"]


def command(data: Path, out: Path, *extra: str) -> list[str]:
    flags = [
        "--preset",
        "seed1095",
        "--device",
        "cpu",
        "--data",
        str(data),
        "--tokenizer",
        str(data / "tokenizer.model"),
        "--out",
        str(out),
        "--no-score",
    ]
    return [sys.executable, str(ROOT / "train_gpt.py"), *flags, *FLAGS, *extra]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def finish(data: Path, out: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(data, out, *extra), capture_output=True, text=True, env=environment(), timeout=240)


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
    process = subprocess.Popen(
        command(tiny_data, out, *FORTY),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    deadline = time.monotonic() + 200
    while not (out / "checkpoint.bin").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    interrupted = (out / "checkpoint.bin").exists()  # else the run was over before it could be killed
    done = finish(tiny_data, out, *FORTY, "--resume")
    assert done.returncode == 0, done.stderr
    assert (out / "artifact.bin").read_bytes() == (reference / "artifact.bin").read_bytes()
    assert not interrupted or any(json.loads(line)["event"] == "resume" for line in (out / "train.jsonl").read_text().splitlines())


def test_packing_again_gives_the_bytes_of_a_run_with_those_settings_from_the_start(tiny_data: Path, tmp_path: Path) -> None:
    """And trains nothing: also after late quantisation-aware training and with averaged weights."""
    run, out = ["--steps", "12", "--qat-from", "0.5", "--ema-decay", "0.9", "--keep-checkpoint"], tmp_path / "again"
    other = ["--embed-bits", "6", "--gptq-tokens", "64", "--no-online", "--cap-bytes", "2000000"]
    for folder, flags in ((out, ()), (tmp_path / "other", other)):
        done = finish(tiny_data, folder, *run, *flags)
        assert done.returncode == 0, done.stderr
    first = (out / "artifact.bin").read_bytes()
    for flags, expected in ((other, (tmp_path / "other" / "artifact.bin").read_bytes()), ([], first)):
        assert (out / "artifact.bin").read_bytes() != expected
        done = finish(tiny_data, out, *run, *flags, "--resume")
        assert done.returncode == 0, done.stderr
        assert (out / "artifact.bin").read_bytes() == expected
        events = [json.loads(line)["event"] for line in (out / "train.jsonl").read_text().splitlines()]
        assert "step" not in events[len(events) - events[::-1].index("resume") :]
        assert (out / "checkpoint.bin").exists()


def test_fewer_bits_packed_again_are_those_of_a_run_with_fewer_bits(tiny_data: Path, tmp_path: Path, reference: Path) -> None:
    out, fewer = tmp_path / "again", ["--weight-bits", "5", "--embed-bits", "7"]
    for folder, flags in ((out, ["--keep-checkpoint"]), (tmp_path / "fewer", fewer), (out, [*fewer, "--resume"])):
        done = finish(tiny_data, folder, *FORTY, *flags)
        assert done.returncode == 0, done.stderr
    assert (out / "artifact.bin").read_bytes() == (tmp_path / "fewer" / "artifact.bin").read_bytes()
    assert (out / "artifact.bin").read_bytes() != (reference / "artifact.bin").read_bytes()
    summary = json.loads((out / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert summary["loss_nats"] is None  # no step was left


def test_sigterm_saves_and_exits_with_zero(tiny_data: Path, tmp_path: Path, reference: Path) -> None:
    out = tmp_path / "terminated"
    process = subprocess.Popen(
        command(tiny_data, out, "--steps", "4000", "--log-every", "1"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "train.jsonl").exists() and '"event": "step"' in (out / "train.jsonl").read_text():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert checkpoint.load(out / "checkpoint.bin")["step"] > 0
    assert not (out / "artifact.bin").exists()
    refused = finish(tiny_data, out, "--steps", "40", "--resume")
    assert refused.returncode == 2 and "other settings: train.steps" in refused.stderr and len(refused.stderr.strip().splitlines()) == 1


def test_two_ranks_count_what_one_rank_counts_and_train_alike(tiny_data: Path, tmp_path: Path, reference: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        torchrun + command(tiny_data, tmp_path / "two", *FORTY)[1:], capture_output=True, text=True, env=environment(), timeout=240
    )
    assert done.returncode == 0, done.stderr
    from hybrid import artifact

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
        (["--steps", "1", "--cap-bytes", "1000"], "--cap-bytes"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(tiny_data: Path, tmp_path: Path, flags: list[str], word: str) -> None:
    done = finish(tiny_data, tmp_path / "out", *flags)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "Error" in line]
    assert len(lines) == 1 and word in lines[0] and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "artifact.bin").exists()
