"""A fingerprint of a machine's speed: what two people need to know of each other's before they compare runs by the clock.

Four workloads that do not depend on any preset: a product of matrices, a copy of memory, attention, and a training step of a small
model, forward and backward, not compiled.  Each is run ROUNDS times after one that is not counted, and the median is reported.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from hybrid.coding.fingerprint import processor_name
from hybrid.model.hybrid_lm import HybridLM
from hybrid.settings.config import ModelConfig

ROUNDS = 7
SIZES = {  # of the workloads, so that each takes a fraction of a second
    "cuda": {"matrix": 8192, "copy_bytes": 1 << 30, "batch": 8, "heads": 8, "length": 2048, "head_width": 64, "step_batch": 16},
    "cpu": {"matrix": 1024, "copy_bytes": 1 << 26, "batch": 1, "heads": 4, "length": 512, "head_width": 64, "step_batch": 1},
}
STEP_MODEL = ModelConfig(vocab_size=1024, layers=4, d_model=256, heads=4, kv_heads=2)


def measure(device: torch.device, rounds: int = ROUNDS) -> dict[str, Any]:
    """The machine's names and versions, and {workload: its size, its median seconds, its rate}; JSON-able.  rounds: at least 1."""
    size = SIZES[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    return {
        **describe(device),
        "dtype": str(dtype).removeprefix("torch."),
        "rounds": rounds,
        "matrix_product": _matrix_product(size["matrix"], dtype, device, rounds),
        "memory_copy": _memory_copy(size["copy_bytes"], device, rounds),
        "attention": _attention(size, dtype, device, rounds),
        "step": _step(size["step_batch"], size["length"], device, rounds),
    }


def describe(device: torch.device) -> dict[str, Any]:
    """What the machine is, without measuring."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "devices": torch.cuda.device_count() if cuda else 0,
        "device_bytes": torch.cuda.get_device_properties(device).total_memory if cuda else 0,
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__, "cuda": torch.version.cuda},
    }


def _median_s(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


def _matrix_product(size: int, dtype: torch.dtype, device: torch.device, rounds: int) -> dict[str, Any]:
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = _median_s(lambda: a @ b, device, rounds)
    return {"size": size, "seconds": seconds, "tflop_per_s": 2 * size**3 / seconds / 1e12}


def _memory_copy(size_bytes: int, device: torch.device, rounds: int) -> dict[str, Any]:
    source = torch.zeros(size_bytes, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = _median_s(lambda: target.copy_(source), device, rounds)
    return {"bytes": size_bytes, "seconds": seconds, "gb_per_s": 2 * size_bytes / seconds / 1e9}  # read and written


def _attention(size: dict[str, int], dtype: torch.dtype, device: torch.device, rounds: int) -> dict[str, Any]:
    shape = size["batch"], size["heads"], size["length"], size["head_width"]
    q, k, v = (torch.randn(*shape, device=device, dtype=dtype) for _ in range(3))
    seconds = _median_s(lambda: scaled_dot_product_attention(q, k, v, is_causal=True), device, rounds)
    return {"shape_BHLD": list(shape), "seconds": seconds, "tokens_per_s": size["batch"] * size["length"] / seconds}


def _step(batch: int, length: int, device: torch.device, rounds: int) -> dict[str, Any]:
    model = HybridLM(STEP_MODEL).to(device)
    tokens = torch.randint(STEP_MODEL.vocab_size, (batch, length + 1), device=device)

    def work() -> None:
        model.zero_grad(set_to_none=True)
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()

    seconds = _median_s(work, device, rounds)
    return {"tokens": batch * length, "seconds": seconds, "tokens_per_s": batch * length / seconds}
