"""How ranks learn of each other's end: each scene is two processes, one of which ends in its own way."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from hybrid.parallel import failures, ranks
from hybrid.training import checkpoint
from ngram.errors import SeedgramError
from tests.support import loaded
from tests.support.paths import ROOT

HALF = 1 << 25  # bytes: more than a socket holds
GONE = f"RankError: {ranks.GONE}\n"


def half_a_buffer(path: Path) -> torch.Tensor:
    """A tensor whose second half cannot be received: the file that it maps has been cut."""
    path.write_bytes(bytes(2 * HALF))
    mapped = np.memmap(path, np.uint8, "r+")
    os.truncate(path, HALF)
    return torch.from_numpy(mapped)


def killed_in_the_middle_of_a_message(mine: ranks.Ranks, folder: str) -> None:
    message = torch.ones(2 * HALF, dtype=torch.uint8) if mine.is_first else half_a_buffer(Path(folder) / "buffer")

    def kill_half_way() -> None:
        while not message[HALF - 1]:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    if not mine.is_first:
        threading.Thread(target=kill_half_way).start()
    dist.broadcast(message, 0, group=mine.host_group)


def killed_while_the_first_works_alone(mine: ranks.Ranks, folder: str) -> None:
    if not mine.is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def killed_while_the_first_writes_and_works(mine: ranks.Ranks, folder: str) -> None:
    def write() -> None:
        time.sleep(2 * failures.OWN_S)
        (Path(folder) / "checkpoint.bin").write_text("whole")

    failures.WRITE_S = 300.0  # longer than the test may last
    if mine.is_first:
        checkpoint.Writer(Path(folder) / "unused").submit(write)
        threading.Thread(target=time.sleep, args=(300,)).start()
    killed_while_the_first_works_alone(mine, folder)


def fails_while_the_first_works_alone(mine: ranks.Ranks, folder: str) -> None:
    if not mine.is_first:
        raise SeedgramError("its own fault")
    time.sleep(60)


def first_fails_while_the_other_works_alone(mine: ranks.Ranks, folder: str) -> None:
    if mine.is_first:
        raise SeedgramError("its own fault")
    time.sleep(60)


def first_told_to_stop_while_the_other_waits(mine: ranks.Ranks, folder: str) -> None:
    if mine.is_first:
        os.kill(os.getpid(), signal.SIGTERM)
    mine.barrier()


def done_before_the_first(mine: ranks.Ranks, folder: str) -> None:
    if mine.is_first:
        time.sleep(4 * failures.OWN_S)


def run(rank: int, name: str, folder: str) -> None:
    """One rank of the scene of that name, in a process of its own."""
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
    with closing(ranks.start("cpu", 60.0)) as mine, failures.together(mine):
        globals()[name](mine, folder)


def ends(scene: Callable[[ranks.Ranks, str], None], folder: Path) -> list[tuple[int, str]]:
    """Exit code and words of both ranks.  None of them has a launcher that would send it a signal."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    code = f"import json, sys; from {__name__} import run; run(*json.loads(sys.argv[1]))"
    commands = [[loaded.python(), "-c", code, json.dumps([rank, scene.__name__, str(folder)])] for rank in range(2)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **address}) for command in commands]
    try:
        said = [process.communicate(timeout=100)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, words) for process, words in zip(processes, said, strict=True)]


def test_a_rank_that_is_killed_in_the_middle_of_a_message_is_missed_by_the_one_that_sends_it(tmp_path: Path) -> None:
    """Gloo alone waits until the group's time is over: a minute here, an hour while counts are merged, and torchrun kills after 30 s."""
    assert ends(killed_in_the_middle_of_a_message, tmp_path) == [(2, GONE), (-signal.SIGKILL, "")]


def test_a_killed_rank_is_missed_by_one_that_waits_for_nobody(tmp_path: Path) -> None:
    assert ends(killed_while_the_first_works_alone, tmp_path) == [(2, GONE), (-signal.SIGKILL, "")]


def test_the_reason_of_a_rank_reaches_the_first_while_it_works_alone(tmp_path: Path) -> None:
    assert ends(fails_while_the_first_works_alone, tmp_path) == [(2, "SeedgramError: rank 1: its own fault\n"), (2, "")]


def test_the_reason_of_the_first_rank_ends_another_that_works_alone_and_is_said_once(tmp_path: Path) -> None:
    assert ends(first_fails_while_the_other_works_alone, tmp_path) == [(2, "SeedgramError: its own fault\n"), (2, "")]


def test_a_rank_that_waits_in_a_collective_hears_that_the_first_was_told_to_stop(tmp_path: Path) -> None:
    stopped = "RankError: told to stop (SIGTERM) outside the training loop; start again with --resume\n"
    assert ends(first_told_to_stop_while_the_other_waits, tmp_path) == [(2, stopped), (2, "")]


def test_a_rank_that_is_done_first_is_not_taken_for_dead(tmp_path: Path) -> None:
    assert ends(done_before_the_first, tmp_path) == [(0, ""), (0, "")]


def test_a_rank_that_has_to_leave_waits_for_a_checkpoint_and_for_no_other_thread(tmp_path: Path) -> None:
    """Threads of the main thread's own work may never end without it."""
    assert ends(killed_while_the_first_writes_and_works, tmp_path) == [(2, GONE), (-signal.SIGKILL, "")]
    assert (tmp_path / "checkpoint.bin").read_text() == "whole"
