"""NetworkRows: the network's share of a lockstep column, started early and awaited late.

On CUDA `start` only queues the work, and the distributions arrive in pinned memory while the host counts n-grams.

Shapes: S streams, T tokens a stream, V vocabulary.
"""

import time

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hybrid.coding.adapted_streams import AdaptedStreams
from hybrid.coding.pinned import host_buffer
from hybrid.model.cached_model import CachedModel
from hybrid.model.hybrid_lm import HybridLM
from ngram.arrays import F64, U16


class NetworkRows:
    """Distributions of the next token of S streams by the network, windows of L tokens as in eval.py.

    out_SV: a `host_buffer` (S, V) that holds the distributions after `finish`; uniform before anything was seen.
    stride: 0: windows side by side, else a full window begins anew with its last L - stride tokens.  adapted: its network learns;
    nothing computed before a step is used after it.
    seconds: time that the device (or, on a CPU, this thread) has worked."""

    def __init__(
        self, model: HybridLM, streams: int, seq_len: int, stride: int, device: torch.device, out_SV: Tensor, adapted: AdaptedStreams | None = None
    ) -> None:
        self.stride, self.out_SV, self.seconds, self.adapted = stride, out_SV, 0.0, adapted
        self.model = CachedModel(adapted.learner.model if adapted is not None else model, streams, seq_len, device)
        self._begin = 0  # first column of the window
        self._levels_2S = host_buffer((2, streams), device)
        vocab_size = out_SV.shape[1]
        self.out_SV.fill_(1 / vocab_size)
        self._levels_2S[0], self._levels_2S[1] = np.log(vocab_size), -np.log(vocab_size)
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        self._begun = False

    def start(self, tokens_ST: U16, column: int, known_ST: npt.NDArray[np.bool_] | None = None) -> None:
        """Takes the tokens of `column`, the newest; all before it were taken.  known_ST: which are tokens, where it learns."""
        began, network = time.perf_counter(), self.model
        if self._events:
            self._events[0].record()
        again = network.position >= network.seq_len
        if again:
            network.restart()
            self._begin = column - (network.seq_len - self.stride if self.stride else 0)
        if self.adapted is not None and known_ST is not None and self.adapted.due(column):
            self.adapted.update(tokens_ST, column, known_ST)
            network.reload()
            again = True
        first = self._begin if again else column
        tokens_SL = torch.from_numpy(tokens_ST[:, first : column + 1].astype(np.int64))
        self._read(network.extend(tokens_SL) if len(tokens_SL[0]) > 1 else network.step(tokens_SL[:, 0]))
        if self._events:
            self._events[1].record()
        else:
            self.seconds += time.perf_counter() - began
        self._begun = True

    def finish(self) -> F64:
        """Waits until `out_SV` is there; entropies and greatest log-probabilities, (2, S)."""
        if self._events and self._begun:
            self._events[1].synchronize()
            self.seconds += self._events[0].elapsed_time(self._events[1]) / 1000
        return self._levels_2S.numpy()

    @torch.inference_mode()
    def _read(self, logits_SV: Tensor) -> None:
        """Softmax in float64, on its way to the host."""
        logp_SV = torch.log_softmax(logits_SV.double(), dim=-1)
        probs_SV = logp_SV.exp()
        levels_2S = torch.stack([-(probs_SV * logp_SV).sum(-1), logp_SV.amax(-1)])
        self.out_SV.copy_(probs_SV, non_blocking=True)
        self._levels_2S.copy_(levels_2S, non_blocking=True)
