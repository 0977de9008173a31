"""CUDA graphs: hundreds of kernels for one launch."""

from collections.abc import Callable
from typing import Any

import torch


def recorded(task: Callable[[], object], *, warm: int = 1, memory: Any = None) -> torch.cuda.CUDAGraph:
    """What `task` launches, always on the same tensors.  It is run `warm` times before, when libraries load their kernels.

    memory: the pool that graphs share.  Other threads may go on meanwhile."""
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm):
            task()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph, pool=memory, capture_error_mode="thread_local"):
        task()
    return graph
