"""Ranks of a run with one fault in it, as forks of a process that has imported torch: a start from nothing costs seconds a rank.

python tests/support/fault_worker.py: a line of JSON on stdin is a run {"argv", "folder", "fault", "rank", "step", "target", "awake_s"}; the
answer on stdout is {"codes": [exit code or -signal of each rank], "seconds": until the last has ended, "hung": [ranks ended by us]}.
The fault strikes once, when rank `rank` asks for the rows of step `step`; stdout and stderr of rank r go to FOLDER/rank<r>.txt.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import train_gpt
from hybrid.data.shards import HEADER_INTS, Loader
from hybrid.model import hybrid_lm
from ngram.errors import run_cli
from tests.support import loaded

WORLD = 2
LIMIT_S = 60.0  # what no fault may exceed


def kill(target: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop(target: Path) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def limit_files(target: Path) -> None:
    """No file of this process may grow past 64 KiB: what a quota does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def fill(target: Path) -> None:
    """Takes all that is left on the disk."""
    with target.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))


def write_protect(target: Path) -> None:
    """Modes do not bind root, so root makes the folder immutable."""
    if os.geteuid():
        target.chmod(0o555)
    else:
        subprocess.run(["chattr", "+i", str(target)], check=True)


def vanish(target: Path) -> None:
    target.unlink()


def cut(target: Path) -> None:
    os.truncate(target, 4 * HEADER_INTS + 64)


def foreign_tokens(target: Path) -> None:
    overwrite(target, 60_000)


def other_tokens(target: Path) -> None:
    overwrite(target, 7)


def overwrite(target: Path, token: int) -> None:
    with target.open("r+b") as file:
        size = file.seek(0, os.SEEK_END) - 4 * HEADER_INTS
        file.seek(4 * HEADER_INTS)
        file.write(np.full(size // 2, token, "<u2").tobytes())


def spoil_logits(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """From now on the model's logits are `change(logits, hidden)`."""
    original: Any = hybrid_lm.HybridLM.logits

    def changed(self: hybrid_lm.HybridLM, hidden: torch.Tensor) -> torch.Tensor:
        return change(original(self, hidden), hidden)

    replaced: Any = hybrid_lm.HybridLM
    replaced.logits = changed


def bad_loss(target: Path) -> None:
    spoil_logits(lambda logits, hidden: logits * float("nan"))


def bad_gradient(target: Path) -> None:
    """The loss is finite, its gradient is not: that of the square root at 0."""
    spoil_logits(lambda logits, hidden: logits + (hidden[0, 0] * 0).sqrt())


def device_memory(target: Path) -> None:
    def fail(logits: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    spoil_logits(fail)


def host_memory(target: Path) -> None:
    def fail(logits: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        np.empty(1 << 60, np.uint8)
        raise AssertionError("no machine has an exbibyte")

    spoil_logits(fail)


FAULTS = {
    f.__name__: f
    for f in (kill, stop, limit_files, fill, write_protect, vanish, cut, foreign_tokens, other_tokens, bad_loss, bad_gradient, device_memory, host_memory)
}


def one_rank(run: dict[str, Any], rank: int, port: int) -> None:
    """Becomes a rank, with the fault in its way; does not return."""
    out = os.open(f"{run['folder']}/rank{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1), os.dup2(out, 2)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    if run["fault"] is not None and rank == run["rank"]:
        original, waiting = Loader.batch, [run["step"]]

        def batch(self: Loader, step: int) -> Any:
            if waiting == [step]:
                waiting.clear()
                FAULTS[run["fault"]](Path(run["target"]))
            return original(self, step)

        Loader.batch = batch  # type: ignore[method-assign]
    sys.argv = ["train_gpt.py", *run["argv"]]
    code: Any = 70
    try:
        run_cli(train_gpt.main)
    except SystemExit as end:
        code = end.code
    finally:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def carry_out(run: dict[str, Any]) -> dict[str, Any]:
    """Forks the ranks and waits for them; wakes one that was stopped after awake_s (0: never)."""
    begin, port, codes, hung = time.monotonic(), free_port(), dict[int, int](), list[int]()
    pids = {}
    for rank in range(WORLD):
        pids[rank] = os.fork()
        if not pids[rank]:
            one_rank(run, rank, port)
    stopped: dict[int, float] = {}
    while len(codes) < WORLD:
        for rank in set(pids) - set(codes):
            found, status = os.waitpid(pids[rank], os.WNOHANG | os.WUNTRACED)
            if found and os.WIFSTOPPED(status):
                stopped[rank] = time.monotonic()
            elif found:
                codes[rank] = os.waitstatus_to_exitcode(status)
        now = time.monotonic()
        for rank in list(stopped):
            others_ended = len(codes) == WORLD - 1
            if run["awake_s"] and now - stopped[rank] > run["awake_s"]:
                del stopped[rank]
                os.kill(pids[rank], signal.SIGCONT)
            elif others_ended:  # what torchrun does; a stopped process cannot end by itself
                del stopped[rank]
                os.kill(pids[rank], signal.SIGKILL)
        if now - begin > LIMIT_S:
            hung = sorted(set(pids) - set(codes))
            for rank in hung:
                os.kill(pids[rank], signal.SIGKILL)
                codes[rank] = os.waitstatus_to_exitcode(os.waitpid(pids[rank], 0)[1])
        time.sleep(0.01)
    return {"codes": [codes[rank] for rank in range(WORLD)], "seconds": time.monotonic() - begin, "hung": hung}


if __name__ == "__main__":
    loaded.load()  # else every rank would import torch's compiler at its optimiser's first step, and what train_gpt.py needs to train
    for line in sys.stdin:
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(carry_out(json.loads(line))), flush=True)
