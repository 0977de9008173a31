"""CUDA graphs: hundreds of kernels for one launch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybrid.model.hybrid_lm import HybridLM


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


class RecordedModel:
    """A model on CUDA as windows are scored: from its second time on, each shape of inputs is one graph.  Logits hold until the next call."""

    def __init__(self, model: HybridLM) -> None:
        self._model, self._seen = model, dict[tuple[int, ...], Any]()

    def eval(self) -> None:
        self._model.eval()

    def logits_at(self, *given: Tensor) -> Tensor:
        shape = tuple(size for one in given for size in one.shape)
        if shape not in self._seen:
            self._seen[shape] = None
            return self._model.logits_at(*given)
        if self._seen[shape] is None:
            logits, places = list[Tensor](), [one.clone() for one in given]
            self._seen[shape] = recorded(lambda: logits.append(self._model.logits_at(*places))), places, logits
        graph, places, logits = self._seen[shape]
        for place, one in zip(places, given, strict=True):
            place.copy_(one)
        graph.replay()
        return logits[-1]
