"""Ranks: who this process is under torchrun, the few collectives the project needs, and how all ranks end when one fails.

Three process groups: the device's (NCCL on CUDA, Gloo on CPU) for gradients; a Gloo group on the host for decisions (stop,
progress), so that deciding never waits for the GPU; and a patient one for the phases where one rank works and the others wait.

A rank that fails writes its reason into the store where the ranks met, and ends; the others find their connections closed, and
the first rank says the reason in one line.  A rank that is silent for too long is taken for dead.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from ngram.errors import SeedgramError, one_line

TIMEOUT_S = 45.0  # a rank that is silent for this long while training is taken for dead (--rank-timeout)
PATIENT_S = 3600.0  # … while the first rank merges, prunes and packs
DEVICE_S = 600.0  # … in NCCL, where compilers may differ by minutes: the host's group sees a dead rank long before
REASON_S = 2.0  # how long the first rank looks for the reason of a rank that went away
SAID_S = 5.0  # how long another rank waits for the first to say it
WRITE_S = 20.0  # how long a failing rank waits for a checkpoint that is being written


class RankError(SeedgramError):
    """Another rank ended, fell silent, or this one was told to stop outside the loop."""


class DeviceError(SeedgramError):
    """The device asked for is missing or too small."""


@dataclass(frozen=True)
class Ranks:
    """This process among its peers.  world == 1 needs no process group at all."""

    rank: int
    world: int
    device: torch.device
    host_group: Any = None
    patient_group: Any = None
    timeout_s: float = TIMEOUT_S
    store: Any = None  # where the ranks met: reasons of failures are left there

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum_(self, tensor: torch.Tensor) -> None:
        """Sums `tensor` over ranks in place, on the device's group."""
        if self.world > 1:
            with peers():
                dist.all_reduce(tensor)

    def agree(self, progress: float, stop: bool) -> tuple[float, bool]:
        """Rank 0's progress, and whether any rank wants to stop; on the host, without touching the device."""
        if self.world == 1:
            return progress, stop
        mine = torch.tensor([progress if self.is_first else 0.0, float(stop)], dtype=torch.float64)
        with peers():
            dist.all_reduce(mine, group=self.host_group)
        return float(mine[0]), bool(mine[1] > 0)

    def barrier(self) -> None:
        """Waits for every rank, up to an hour."""
        if self.world > 1:
            with peers():
                dist.barrier(group=self.patient_group)

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def peers() -> Iterator[None]:
    """Around collectives: an error that means that a peer is gone becomes a RankError."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        words = str(error)
        if not isinstance(error, dist.DistError) and "gloo" not in words.lower() and "nccl" not in words.lower():
            raise
        if "imed out" in words or "imeout" in words:
            raise RankError("another rank has been silent for too long; see what holds it up, or raise --rank-timeout, then --resume") from error
        raise RankError("another rank ended without giving a reason (killed, or its machine is gone); start again with --resume") from error


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """Around everything that several ranks do: when one fails, all end, and the first rank says why in one line.

    With one rank: nothing.  Leaves the process on failure, with exit code 2 (1 for a fault in the program), without
    destructors, which may wait for peers that are gone; a checkpoint that is being written is waited for."""
    if ranks.world == 1:
        yield
        return
    previous = signal.signal(signal.SIGTERM, _told_to_stop)
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it as soon as one rank has ended
        _fail(ranks, error)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _told_to_stop(number: int, frame: FrameType | None) -> None:
    raise RankError("told to stop (SIGTERM) outside the training loop; start again with --resume")


def _fail(ranks: Ranks, error: BaseException) -> None:
    """Says or leaves the reason, and leaves the process."""
    own = not isinstance(error, RankError)
    line = one_line(error)
    if own and not isinstance(error, (SeedgramError, KeyboardInterrupt)):
        traceback.print_exception(error)  # a fault in the program: whoever repairs it needs all of it
    if ranks.is_first:
        print(line if own else _reason(ranks) or line, file=sys.stderr)
        _leave(ranks, "said", "yes")
    elif own:
        _leave(ranks, f"reason/{ranks.rank}", line.replace(": ", f": rank {ranks.rank}: ", 1))
    elif not _wait(ranks, "said", SAID_S):
        print(line, file=sys.stderr)
    end = time.monotonic() + WRITE_S
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join(max(0.0, end - time.monotonic()))
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(130 if isinstance(error, KeyboardInterrupt) else 2 if isinstance(error, SeedgramError) else 1)


def _leave(ranks: Ranks, key: str, words: str) -> None:
    """Writes into the store, as long as it is there."""
    with suppress(RuntimeError):
        ranks.store.set(key, words)


def _wait(ranks: Ranks, key: str, seconds: float) -> str | None:
    """What is in the store under `key` within so many seconds; None without it, or without the store."""
    end = time.monotonic() + seconds
    with suppress(RuntimeError):
        while True:
            if ranks.store.check([key]):
                return str(ranks.store.get(key), "utf-8")
            if time.monotonic() > end:
                break
            time.sleep(0.05)
    return None


def _reason(ranks: Ranks) -> str | None:
    """The line that another rank left; it writes it before it ends."""
    end = time.monotonic() + REASON_S
    while time.monotonic() < end:
        for rank in range(1, ranks.world):
            found = _wait(ranks, f"reason/{rank}", 0.0)
            if found is not None:
                return found
        time.sleep(0.05)
    return None


def start(device: str = "auto", timeout_s: float = TIMEOUT_S) -> Ranks:
    """Reads torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK) and joins the process group.

    device: "auto" (CUDA when there is one), "cuda" or "cpu".  timeout_s: a rank silent for so long while training is taken for
    dead.  Raises DeviceError naming the setting to change."""
    world, rank, local = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0)))
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise DeviceError("--device cuda: this torch sees no CUDA device; use --device cpu or install a CUDA build of torch")
    use_cuda = device == "cuda" or (device == "auto" and cuda)
    if use_cuda and local >= torch.cuda.device_count():
        raise DeviceError(f"local rank {local} has no GPU, the machine has {torch.cuda.device_count()}; lower torchrun's --nproc_per_node")
    if use_cuda and world > 1 and not dist.is_nccl_available():
        raise DeviceError("several GPUs need NCCL and this torch has none; use --nproc_per_node=1 or --device cpu")
    chosen = torch.device("cuda", local) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(chosen)
    if world == 1:
        return Ranks(rank, world, chosen)
    try:
        store, _, _ = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        device_group = timedelta(seconds=DEVICE_S if use_cuda else timeout_s)
        dist.init_process_group(
            "nccl" if use_cuda else "gloo",
            store=dist.PrefixStore("ranks", store),  # type: ignore[attr-defined]
            rank=rank,
            world_size=world,
            timeout=device_group,
            device_id=chosen if use_cuda else None,
        )
        host, patient = (dist.new_group(backend="gloo", timeout=timedelta(seconds=s)) for s in (timeout_s, PATIENT_S))
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise RankError(f"the {world} ranks do not find each other ({str(error).splitlines()[0]}); start them with torchrun") from None
    return Ranks(rank, world, chosen, host, patient, timeout_s, dist.PrefixStore("seedgram", store))  # type: ignore[attr-defined]


@contextmanager
def terminated() -> Iterator[list[int]]:
    """Collects SIGTERMs instead of dying of them; the loop looks once a step."""
    seen: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        yield seen
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns running out of memory, on the device or the host, into one line that names the setting to change."""
    try:
        yield
    except MemoryError as error:
        raise DeviceError(f"this machine ran out of memory ({error or 'Python gave up'}); lower --batch-tokens or use a larger machine") from None
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceError(f"the GPU ran out of memory ({str(error).split('.')[0]}); lower --microbatch-tokens") from None
