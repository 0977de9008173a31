"""Ranks: who this process is under torchrun, and the few collectives the project needs, over three process groups (docs/faults.md)."""

import os
from contextlib import suppress
from ctypes import CDLL
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # imported here so that it is before any group exists: see Ranks.close

from hybrid.parallel.device import known_device
from ngram.errors import SeedgramError

TIMEOUT_S = 45.0  # a rank that is silent for this long while training is taken for dead (--rank-timeout)
PATIENT_S = 3600.0  # … while the first rank merges, prunes and packs
DEVICE_S = 600.0  # … in NCCL, where compilers may differ by minutes: the host's group sees a dead rank long before

GONE = "another rank ended without giving a reason (killed, or its machine is gone); start again with --resume"


class RankError(SeedgramError):
    """Another rank ended, fell silent, or this one was told to stop outside the loop."""


class DeviceError(SeedgramError):
    """The device asked for is missing or too small."""


def of_peers(error: BaseException) -> BaseException:
    """A RankError for a collective's error that means that a peer is gone; any other as it is."""
    words = str(error).lower()
    if not (isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and ("gloo" in words or "nccl" in words))):
        return error
    if "timed out" in words or "timeout" in words:
        return RankError("another rank has been silent for too long; see what holds it up, or raise --rank-timeout, then --resume")
    return RankError(GONE)


@dataclass
class Ranks:
    """This process among its peers.  world == 1 needs no process group at all."""

    rank: int
    world: int
    device: torch.device
    host_group: Any = None
    patient_group: Any = None
    timeout_s: float = TIMEOUT_S

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"

    def sent(self, array: Any) -> torch.Tensor:
        """A NumPy array on the device; nobody waits for the copy."""
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def keep_memory(self) -> None:
        """For programs: on a CPU glibc keeps freed pages, whose clearing took 6 % of training (LOG.md)."""
        with suppress(AttributeError, TypeError):  # not glibc
            if self.device.type == "cpu":
                for option in -3, -1:  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
                    CDLL(None).mallopt(option, 1 << 30)

    def sum_(self, tensor: torch.Tensor) -> None:
        """Sums `tensor` over ranks in place, on the device's group."""
        if self.world > 1:
            dist.all_reduce(tensor)

    def agree(self, progress: float, stop: bool) -> tuple[float, bool]:
        """Rank 0's progress, and whether any rank wants to stop; on the host, without touching the device."""
        if self.world == 1:
            return progress, stop
        mine = torch.tensor([progress if self.is_first else 0.0, float(stop)], dtype=torch.float64)
        dist.all_reduce(mine, group=self.host_group)
        return float(mine[0]), bool(mine[1] > 0)

    def barrier(self) -> None:
        """Waits for every rank, up to an hour."""
        if self.world > 1:
            dist.barrier(group=self.patient_group)

    def close(self) -> None:
        """Leaves the process groups, and ends their threads: those still at work while Python exits may abort the process (docs/faults.md)."""
        self.host_group = self.patient_group = None
        if dist.is_initialized():
            dist.destroy_process_group()


def start(device: str = "auto", timeout_s: float = TIMEOUT_S) -> Ranks:
    """Reads torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK) and joins the process group.

    device: "auto" (CUDA when there is one), "cuda" or "cpu".  timeout_s: as TIMEOUT_S.
    Raises UsageError for any other device, DeviceError naming the setting to change, RankError where the group does not form."""
    known_device(device)
    world, rank, local = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0)))
    use_cuda, chosen = device != "cpu" and torch.cuda.is_available(), torch.device("cpu")
    if device == "cuda" and not use_cuda:
        raise DeviceError("--device cuda: this torch sees no CUDA device; use --device cpu or install a CUDA build of torch")
    if use_cuda:
        if local >= torch.cuda.device_count():
            raise DeviceError(f"local rank {local} has no GPU, the machine has {torch.cuda.device_count()}; lower torchrun's --nproc_per_node")
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    if world == 1:
        return Ranks(rank, world, chosen)
    try:
        limit = timedelta(seconds=DEVICE_S if use_cuda else timeout_s)
        dist.init_process_group("nccl" if use_cuda else "gloo", timeout=limit, device_id=chosen if use_cuda else None)
        host, patient = (dist.new_group(backend="gloo", timeout=timedelta(seconds=s)) for s in (timeout_s, PATIENT_S))
    except (RuntimeError, ValueError) as error:
        raise RankError(f"the {world} ranks do not find each other ({str(error).splitlines()[0]}); start them with torchrun") from None
    return Ranks(rank, world, chosen, host, patient, timeout_s)
