"""The rows of a step on their way to the device, and its losses on their way back."""

import math
import time
from collections import deque

import numpy as np
import torch

from hybrid.data.shards import Loader
from hybrid.parallel.ranks import RankError, Ranks
from hybrid.settings.config import Config
from ngram.arrays import U16
from ngram.errors import SeedgramError

QUEUE_STEPS = 2  # steps that the host may run ahead of the device


class TrainError(SeedgramError):
    """Training cannot go on: a NaN or infinite loss, a batch size that does not divide."""


class Batches:
    """The rows of a step: as tokens on the host, and as inputs and targets on the device."""

    def __init__(self, config: Config, loader: Loader, ranks: Ranks) -> None:
        self.loader, self._sent, train = loader, ranks.sent, config.train
        self.micro_rows = max(1, min(train.microbatch_tokens, train.batch_tokens // ranks.world) // train.seq_len)
        rows = loader.rows_per_rank
        if rows * train.seq_len * ranks.world != train.batch_tokens or rows % self.micro_rows:
            parts = f"{ranks.world} ranks of whole microbatches of {self.micro_rows} rows of {train.seq_len} tokens"
            raise TrainError(f"--batch-tokens {train.batch_tokens} does not split into {parts}; choose multiples of one another")

    def to_device(self, rows: U16) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs and targets (micro_rows, seq_len) int64 on the device, one pair a microbatch."""
        tokens = self._sent(rows.view(np.int16)).to(torch.int64) & 0xFFFF
        inputs, targets = (tokens[:, self.loader.history + at : at or None].contiguous() for at in (-1, 0))
        return list(zip(inputs.split(self.micro_rows), targets.split(self.micro_rows), strict=True))


class LossReader:
    """Reads the losses of the steps after `step` QUEUE_STEPS later, without waiting for the device.

    timeout_s: that the device may take for one step.  Raises TrainError, naming the step, for a NaN or infinite loss, and RankError when
    the device hangs (in NCCL, on a rank that is gone)."""

    def __init__(self, step: int = 0, timeout_s: float = math.inf) -> None:
        self._step, self._timeout_s = step, timeout_s
        self._pending: deque[tuple[torch.Tensor, torch.cuda.Event | None]] = deque()
        self._window, self._last = list[float](), math.nan

    def push(self, loss: torch.Tensor) -> None:
        self._pending.append((loss.to("cpu", non_blocking=True), torch.cuda.current_stream().record_event() if loss.is_cuda else None))
        while len(self._pending) > QUEUE_STEPS:
            self._read()

    def _read(self) -> None:
        host, event = self._pending.popleft()
        end = time.monotonic() + self._timeout_s
        while event is not None and not event.query():
            if time.monotonic() > end:
                raise RankError(f"the device has not finished step {self._step + 1} in {self._timeout_s:.0f} s: another rank is gone or too slow; --resume")
            time.sleep(1e-4)
        self._step += 1
        loss = float(host)
        if not math.isfinite(loss):
            what = f"the loss or a gradient is NaN or infinite ({loss})"
            raise TrainError(f"step {self._step}: {what}; lower --matrix-lr, then --resume from the last checkpoint")
        self._window.append(loss)

    def drain(self) -> None:
        """Reads what is left, so that every step is checked."""
        while self._pending:
            self._read()

    def mean(self) -> float:
        """Mean loss of the steps read since the last call (nats); the last value again when there is none."""
        if not self._window:
            self.drain()
        if self._window:
            self._last = sum(self._window) / len(self._window)
            self._window.clear()
        return self._last
