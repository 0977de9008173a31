"""CUDA graphs: hundreds of kernels for one launch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybrid.model.hybrid_lm import HybridLM


def recorded(task: Callable[[], object], *, warm: int = 1, memory: Any = None) -> torch.cuda.CUDAGraph:
    """What `task` launches, which must read and write the same tensors every time; it is run `warm` times before, apart from other work.

    Libraries make their handles and load their kernels then.  memory: the pool that graphs share.  Other threads may go on meanwhile."""
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm):
            task()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph, pool=memory, capture_error_mode="thread_local"):
        task()
    return graph


class RecordedLogits:
    """`logits_at` of a model on CUDA: from its second time on, a shape is one CUDA graph.  Logits hold until the next call."""

    def __init__(self, model: HybridLM) -> None:
        self.model, self._seen = model, dict[tuple[int, ...], Any]()

    def __call__(self, tokens_BL: Tensor, places_S: Tensor) -> Tensor:
        shape, given = (*tokens_BL.shape, *places_S.shape), (tokens_BL, places_S)
        if shape not in self._seen:
            self._seen[shape] = None
            return self.model.logits_at(*given)
        if self._seen[shape] is None:
            logits = list[Tensor]()
            self._seen[shape] = recorded(lambda: logits.append(self.model.logits_at(*given))), given, logits
        graph, places, logits = self._seen[shape]
        for place, one in zip(places, given, strict=True):
            place.copy_(one)
        graph.replay()
        return logits[-1]
