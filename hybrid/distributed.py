"""Ranks: who this process is under torchrun, and the few collectives the project needs.

Three process groups: the device's (NCCL on CUDA, Gloo on CPU) for gradients; a Gloo group on the host for decisions (stop,
progress), so that deciding never waits for the GPU; and a patient one for the phases where one rank works and the others wait.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ngram.errors import SeedgramError

TIMEOUT_S = 60  # a rank that is silent for this long while training is taken for dead
PATIENT_S = 3600  # … while the first rank merges, prunes and packs


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

    @property
    def is_first(self) -> bool:
        return self.rank == 0

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
        if dist.is_initialized():
            dist.destroy_process_group()


def start(device: str = "auto") -> Ranks:
    """Reads torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK) and joins the process group.

    device: "auto" (CUDA when there is one), "cuda" or "cpu".  Raises DeviceError naming the setting to change.
    """
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
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if use_cuda else "gloo", timeout=timedelta(seconds=TIMEOUT_S), device_id=chosen if use_cuda else None
        )
    host, patient = (dist.new_group(backend="gloo", timeout=timedelta(seconds=s)) for s in (TIMEOUT_S, PATIENT_S))
    return Ranks(rank, world, chosen, host, patient)
