"""Memory of the host that a device can write to by itself."""

import torch
from torch import Tensor


def host_buffer(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Float64 memory of the host, not initialised, that the device can write to by itself."""
    return torch.empty(shape, dtype=torch.float64, pin_memory=device.type == "cuda")
