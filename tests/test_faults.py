"""Faults on two ranks: each ends within 60 s with one line from rank 0, leaves the last checkpoint whole and no process behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybrid.training import checkpoint
from ngram.errors import SeedgramError
from tests.support.paths import ROOT
from tests.support.training import command, environment

STEP = 12  # at which faults strike: checkpoints are written from the first step on
# no cache: what may be lost is weights and files, and compiling its kernels would take most of the time
FLAGS = ["--steps", "40", "--ngram-order", "0", "--checkpoint-seconds", "0.001", "--log-every", "1"]


class Worker:
    """Runs of two ranks with a fault in them, one at a time; see fault_worker.py."""

    def __init__(self, data: Path) -> None:
        self.data = data
        place = {**environment(), "PYTHONPATH": str(ROOT), "NUMBA_DISABLE_JIT": "1"}
        self.process = subprocess.Popen([sys.executable, str(ROOT / "tests/support/fault_worker.py")], stdin=-1, stdout=-1, text=True, env=place)

    def run(self, folder: Path, *flags: str, fault: str | None = None, rank: int = 1, target: Path | None = None, **more: Any) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        argv = command(more.pop("data", self.data), folder / "out", *FLAGS, *flags)[2:]
        order = {"argv": argv, "folder": str(folder), "fault": fault, "rank": rank, "step": STEP, "target": str(target), "awake_s": 0.0, **more}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        result: dict[str, Any] = json.loads(self.process.stdout.readline())
        return {**result, "said": [(folder / f"rank{r}.txt").read_text() for r in range(2)]}


@pytest.fixture(scope="module")
def worker(tiny_data: Path) -> Iterator[Worker]:
    found = Worker(tiny_data)
    yield found
    found.process.communicate(timeout=70)
    assert found.process.returncode == 0


@pytest.fixture(scope="module")
def undisturbed(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The artifact of a run in which nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result = worker.run(folder)
    assert result["codes"] == [0, 0], result["said"]
    return (folder / "out/artifact.bin").read_bytes()


def shards(data: Path, folder: Path) -> Path:
    """A copy of the data that a fault may spoil."""
    folder.mkdir(parents=True)
    for path in data.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def errors(said: str) -> list[str]:
    """Error lines of a rank; fails on anything that is no line for a user."""
    assert "Traceback" not in said and "terminate called" not in said, said
    return re.findall(r"^\w*Error: .*$", said, re.MULTILINE)


def ended_well(result: dict[str, Any], folder: Path, *words: str, codes: tuple[int, int] = (2, 2), litter: bool = False) -> dict[str, Any]:
    """Checks what every fault must leave: the line, no hung rank, a whole checkpoint, nothing half-written.  Returns the checkpoint."""
    assert result["hung"] == [] and tuple(result["codes"]) == codes, result
    lines = errors(result["said"][0])
    assert len(lines) == 1 and all(word in lines[0] for word in words), result["said"]
    assert errors(result["said"][1]) == [], result["said"]
    assert litter or not [path for path in (folder / "out").iterdir() if path.name.startswith((".checkpoint", ".artifact", "artifact"))]
    state: dict[str, Any] = checkpoint.load(folder / "out/checkpoint.bin")
    assert 0 < state["step"] <= 40 and all(bool(torch.isfinite(p).all()) for p in state["parameters"])
    return state


def test_a_killed_rank_ends_the_run_which_resumes_to_the_same_bytes(worker: Worker, tmp_path: Path, undisturbed: bytes) -> None:
    ended_well(worker.run(tmp_path, fault="kill"), tmp_path, "RankError: another rank ended", codes=(2, -9))
    resumed = worker.run(tmp_path, "--resume")
    assert resumed["codes"] == [0, 0] and "resume" in resumed["said"][0]
    assert (tmp_path / "out/artifact.bin").read_bytes() == undisturbed


def test_without_its_first_rank_a_run_ends_too(worker: Worker, tmp_path: Path) -> None:
    result = worker.run(tmp_path, fault="kill", rank=0)
    assert result["codes"] == [-9, 2] and result["hung"] == []
    assert len(errors(result["said"][1])) == 1 and "another rank ended" in result["said"][1]
    assert checkpoint.load(tmp_path / "out/checkpoint.bin")["step"] > 0


def test_a_slow_rank_is_waited_for_and_changes_nothing(worker: Worker, tmp_path: Path, undisturbed: bytes) -> None:
    result = worker.run(tmp_path, "--rank-timeout", "20", fault="stop", awake_s=2.0)
    assert result["codes"] == [0, 0] and result["seconds"] > 2.0, result["said"]
    assert (tmp_path / "out/artifact.bin").read_bytes() == undisturbed


def test_a_rank_that_is_silent_for_longer_than_the_limit_is_given_up(worker: Worker, tmp_path: Path) -> None:
    result = worker.run(tmp_path, "--rank-timeout", "6", fault="stop")  # longer than a step takes on the busiest machine
    ended_well(result, tmp_path, "silent for too long", "--rank-timeout", codes=(2, -9))


@pytest.mark.parametrize(
    "fault, rank, words",
    [
        ("bad_loss", 0, ("TrainError", f"step {STEP + 1}: the loss or a gradient is NaN or infinite")),
        ("bad_gradient", 1, ("TrainError", f"step {STEP + 1}: the loss or a gradient is NaN or infinite")),
        ("device_memory", 0, ("DeviceError", "--microbatch-tokens")),
        ("device_memory", 1, ("DeviceError: rank 1: ", "--microbatch-tokens")),
        ("host_memory", 1, ("DeviceError: rank 1: this machine ran out of memory",)),
    ],
)
def test_what_one_rank_cannot_compute_is_said_by_the_first(worker: Worker, tmp_path: Path, fault: str, words: tuple[str, ...], rank: int) -> None:
    state = ended_well(worker.run(tmp_path, fault=fault, rank=rank), tmp_path, *words)
    assert state["step"] <= STEP  # nothing was saved from the spoilt step


@pytest.mark.parametrize(
    "fault, rank, word", [("cut", 0, "cut while it was being read"), ("foreign_tokens", 1, "outside the vocabulary")]
)
def test_a_shard_spoilt_while_it_is_read_is_named(worker: Worker, tmp_path: Path, tiny_data: Path, fault: str, word: str, rank: int) -> None:
    data = shards(tiny_data, tmp_path / "data")
    result = worker.run(tmp_path, fault=fault, target=data / "tiny_train_000000.bin", data=data, rank=rank)
    ended_well(result, tmp_path, "ShardError", str(data), word)


def test_a_shard_with_other_tokens_than_at_the_start_is_found_at_the_end(worker: Worker, tmp_path: Path, tiny_data: Path) -> None:
    data = shards(tiny_data, tmp_path / "data")
    result = worker.run(tmp_path, fault="other_tokens", target=data / "tiny_train_000000.bin", data=data)
    ended_well(result, tmp_path, "ShardError", "changed while it was being read")
    refused = worker.run(tmp_path, "--resume", data=data)
    ended_well(refused, tmp_path, "TrainError", "not those of the checkpoint")


def test_a_shard_that_vanishes_is_read_to_the_end_and_missed_at_the_next_start(
    worker: Worker, tmp_path: Path, tiny_data: Path, undisturbed: bytes
) -> None:
    data = shards(tiny_data, tmp_path / "data")
    result = worker.run(tmp_path, fault="vanish", target=data / "tiny_train_000000.bin", data=data)
    assert result["codes"] == [0, 0], result["said"]
    assert (tmp_path / "out/artifact.bin").read_bytes() == undisturbed
    again = worker.run(tmp_path, data=data)
    assert again["codes"] == [2, 2] and len(errors(again["said"][0])) == 1 and "no *_train_*.bin" in again["said"][0]


def test_a_file_limit_reached_by_a_checkpoint_leaves_the_one_before(worker: Worker, tmp_path: Path) -> None:
    result = worker.run(tmp_path, fault="limit_files", rank=0)
    ended_well(result, tmp_path, "SeedgramError", "checkpoint.bin: cannot write")


def test_a_full_disk_leaves_the_last_checkpoint(worker: Worker, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(out)], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk; the file limit above stands for it")
    try:
        ended_well(worker.run(tmp_path, fault="fill", rank=0, target=out / "filler"), tmp_path, "No space left on device")
    finally:
        subprocess.run(["umount", str(out)], check=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_log_that_cannot_grow_is_said(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/train.jsonl").symlink_to("/dev/full")
    result = worker.run(tmp_path)
    assert result["codes"] == [2, 2] and result["hung"] == []
    assert len(errors(result["said"][0])) == 1 and "cannot write the log: No space left" in result["said"][0]
    assert "free space, then start again" in result["said"][0] and "--resume" not in result["said"][0]  # there is nothing to continue from


def test_a_folder_that_becomes_read_only_keeps_its_checkpoint(worker: Worker, tmp_path: Path) -> None:
    out = tmp_path / "out"
    try:
        result = worker.run(tmp_path, fault="write_protect", rank=0, target=out)
    finally:
        subprocess.run(["chattr", "-i", str(out)] if os.geteuid() == 0 else ["chmod", "755", str(out)], check=False, capture_output=True)
    if "CalledProcessError" in result["said"][0] or "FileNotFoundError" in result["said"][0]:
        pytest.skip("this file system cannot protect a folder from root")
    ended_well(result, tmp_path, "checkpoint.bin: cannot write", litter=True)  # nothing can be removed from it either


def test_a_run_folder_that_is_no_folder_is_one_line(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    result = worker.run(tmp_path)
    assert result["codes"] == [2, 2] and result["hung"] == []
    assert len(errors(result["said"][0])) == 1 and "cannot use as run folder" in result["said"][0]


def running(word: str) -> list[int]:
    """Processes whose command line holds `word`."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (place / "cmdline").read_bytes():
                found.append(int(place.name))
        except OSError:
            pass
    return found


def test_torchrun_leaves_no_process_behind_when_a_rank_is_killed(tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "torchrun"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    flags = ["--ngram-order", "0", "--steps", "100000", "--checkpoint-seconds", "0.001"]
    begin = subprocess.Popen(
        launcher + command(tiny_data, out, *flags)[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()
    )
    deadline = time.monotonic() + 100
    while not (out / "checkpoint.bin").exists() and begin.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    ranks = sorted(set(running(str(out))) - {begin.pid})
    assert len(ranks) == 2
    victim = next(pid for pid in ranks if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(victim, signal.SIGKILL)
    _, said = begin.communicate(timeout=60)
    assert begin.returncode != 0 and running(str(out)) == []
    assert len(re.findall(r"^RankError: another rank ended", said, re.MULTILINE)) == 1, said
    assert checkpoint.load(out / "checkpoint.bin")["step"] > 0


def test_numbers_that_are_none_are_never_written(tmp_path: Path) -> None:
    good, bad = torch.ones(3), torch.tensor([1.0, float("nan"), 2.0])
    checkpoint.save(tmp_path / "c", *checkpoint.snapshot({"p": good}))
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(SeedgramError, match="NaN or infinite"):
        checkpoint.save(tmp_path / "c", *checkpoint.snapshot({"p": bad}))
    assert (tmp_path / "c").read_bytes() == before and np.isnan(bad.numpy()).any()
