"""Memory of the host that a device can read and write by itself, so that copies go on beside other work."""

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


def host_buffer(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Float64 memory of the host, not initialised, that the device can use by itself."""
    return torch.empty(shape, dtype=torch.float64, pin_memory=device.type == "cuda")


def sent(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device; nobody waits for its way there."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
