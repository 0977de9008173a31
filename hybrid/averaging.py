"""Averages of the weights along a run: exponential (EMA) or over snapshots (SWA).  What is packed is the average."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hybrid.config import ConfigError, TrainConfig

# Young averages forget faster, min(decay, (1 + n)/(10 + n)), so that a run shorter than 1/(1 - decay) does not average in its start
_YOUNG = 10


class WeightAverage:
    """Average of some tensors; `tensors` hold it, `update` moves it.  Without ema_decay and swa_every it does nothing.

    SWA (Izmailov et al. 2018) takes a snapshot every swa_every steps while the learning rate falls and weighs all alike."""

    def __init__(self, parameters: Sequence[Tensor], config: TrainConfig) -> None:
        if config.ema_decay and config.swa_every:
            raise ConfigError("train.ema_decay and train.swa_every exclude each other; set one of them to 0")
        self.config, self.snapshots = config, 0
        self.tensors = [p.detach().clone() for p in parameters] if config.ema_decay or config.swa_every else []

    @torch.no_grad()
    def update(self, parameters: Sequence[Tensor], step: int, share: float) -> None:
        """After optimiser step number `step` (from 0), at `share` of the run."""
        if not self.tensors:
            return
        if self.config.ema_decay:
            weight = 1 - min(self.config.ema_decay, (1 + step) / (_YOUNG + step))
        elif share >= 1 - self.config.lr_decay and step % self.config.swa_every == 0:
            self.snapshots += 1
            weight = 1 / self.snapshots
        elif self.snapshots:
            return
        else:
            weight = 1.0  # before the first snapshot: the weights themselves
        torch._foreach_lerp_(self.tensors, [p.detach() for p in parameters], weight)
