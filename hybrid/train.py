"""The training loop: loader → model → optimisers, n-grams counted beside it on the host, checkpoints off the hot path.

Order of one step: rows from the loader (host) → copy to the device → forward, backward → sum of gradients over ranks →
optimisers; the same rows go to the counting thread the first time that they are seen.  The host runs at most QUEUE_STEPS
ahead of the device, so the wall clock it reads is the device's to within that many steps, and nothing on the hot path waits.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch._functorch.config as functorch_config

from hybrid import checkpoint, optim, windows
from hybrid.averaging import WeightAverage
from hybrid.batches import Batches, LossReader, TrainError
from hybrid.config import Config, training_differences
from hybrid.data import Loader
from hybrid.distributed import Ranks, terminated
from hybrid.log import RunLog
from hybrid.model import HybridLM
from ngram.cache import NgramCache
from ngram.warm_up import WarmUp

VAL_TOKENS = 1 << 18  # what --val-every looks at: enough for three digits, a second on a GPU


@dataclass(frozen=True)
class TrainResult:
    """What a finished or interrupted run leaves in memory, besides the model's own weights."""

    steps: int
    wall_s: float  # inside the clock, over all resumes
    tokens: int  # targets trained on, over all ranks and resumes
    loss_nats: float | None  # mean of the last log window; None where a resumed run had no step left
    warmup_s: float
    interrupted: bool


class Trainer:
    """Weights, optimisers and counts of one run; `run` is the loop.

    config, loader, ranks, log: see their modules.  model: on the device already.  val_tokens: for --val-every, watched only."""

    def __init__(
        self, config: Config, loader: Loader, model: HybridLM, ranks: Ranks, log: RunLog, val_tokens: npt.NDArray[np.uint16] | None = None
    ) -> None:
        self.config, self.model, self.ranks, self.log = config, model, ranks, log
        self.batches = Batches(config, loader, ranks)
        self.parameters: list[torch.Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.gradients = optim.flat_gradients(self.parameters)
        self.optimisers = optim.build(model, config.train)
        compiling = config.train.compile and ranks.device.type == "cuda"
        self.loss = compiled(model.loss) if compiling else model.loss
        order = config.cache.ngram_order
        self.cache = NgramCache(config.model.vocab_size, orders=(2, order), bos=1) if order else None
        self.average = WeightAverage(self.parameters, config.train)
        self.val_tokens = val_tokens
        self.step, self.wall_s = 0, 0.0
        self.frozen_late = False

    # -- one step ---------------------------------------------------------------------------------------------------

    def forward_backward(self, rows: npt.NDArray[np.uint16]) -> torch.Tensor:
        """Accumulates gradients of the mean loss over all ranks; returns this rank's mean loss, on the device: NaN when the
        gradient of any rank is no number."""
        pairs = self.batches.to_device(rows)
        total = torch.zeros((), device=self.ranks.device)
        for inputs, targets in pairs:
            loss = self.loss(inputs, targets)
            (loss / (len(pairs) * self.ranks.world)).backward()
            total += loss.detach() / len(pairs)
        self.ranks.sum_(self.gradients)
        return total + 0 * self.gradients.sum()  # a gradient that is no number shows in the loss, on every rank at the same step

    def update(self, progress: float) -> None:
        """One optimiser step at `progress` in [0, 1] of the schedule; gradients are zero afterwards."""
        if self.config.train.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.train.clip_norm, foreach=True)
        optim.set_progress(self.optimisers, progress)
        for optimiser in self.optimisers:
            optimiser.step()
        self.gradients.zero_()

    def count(self, step: int, rows: npt.NDArray[np.uint16]) -> None:
        """Hands the rows seen for the first time to the counting thread."""
        if self.cache is not None:
            fresh = self.batches.loader.is_first_epoch(step)
            if fresh.any():
                self.cache.submit(rows if fresh.all() else rows[fresh])

    # -- before and after -------------------------------------------------------------------------------------------

    def warm_up(self) -> float:
        """Compiles and warms everything that the run will use, then restores weights and optimisers.  Counts nothing.  Returns seconds."""
        begin = time.monotonic()
        before = [p.detach().clone() for p in self.parameters]
        fresh = [optimiser.state_dict() for optimiser in self.optimisers]
        rows = self.batches.host(0)
        with WarmUp([self.cache.warm_up] if self.cache is not None else []):  # beside the compiler, which waits for others much of its time
            for _ in range(self.config.train.warmup_steps):
                self.forward_backward(rows)
                self.update(0.5)
            if self.config.train.warmup_steps:
                self._warm_later_phases(rows)
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, before)
        for optimiser, state in zip(self.optimisers, fresh, strict=True):
            optimiser.load_state_dict(state)
        self.gradients.zero_()
        synchronize(self.ranks.device)
        self.ranks.barrier()
        return time.monotonic() - begin

    def _warm_later_phases(self, rows: npt.NDArray[np.uint16]) -> None:
        """The graphs of late rounding and of progressive freezing, so that nothing is compiled in the middle of a run."""
        if self.config.train.qat_from >= 0:
            self.model.set_fake_bits(self.config.quant.weight_bits)
            self.forward_backward(rows)
            self.model.set_fake_bits(0)
        if self.config.train.freeze_at >= 0:
            self.model.freeze_learned()
            self.forward_backward(rows)
            for p in self.parameters:
                p.requires_grad_(True)
            self.gradients = optim.flat_gradients(self.parameters)

    def state(self) -> dict[str, Any]:
        return {
            "config": self.config.to_json(),
            "world": self.ranks.world,
            "step": self.step,
            "wall_s": self.wall_s,
            "data": self.batches.loader.digests,
            "frozen_late": self.frozen_late,
            "parameters": [p.detach() for p in self.model.parameters()],
            "average": {"tensors": self.average.tensors, "snapshots": self.average.snapshots},
            "optimisers": [o.state_dict() for o in self.optimisers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from `state`; counts what was counted before, again.  Raises TrainError when it does not fit this run."""
        with _fitting():
            self._check(state)
            self._restore(state)
        for step in range(self.step):
            if not self.batches.loader.is_first_epoch(step).any():
                break
            self.count(step, self.batches.host(step))

    def _check(self, state: dict[str, Any]) -> None:
        """Raises TrainError unless a run of these settings would have come by `state`; how it will be packed may differ."""
        other = training_differences(Config.from_json(state["config"]), self.config)
        if other:
            raise TrainError(
                f"--resume: the checkpoint was made with other settings: {', '.join(other)}; repeat those or use another --out"
                " (only what packing and evaluation alone read may change)"
            )
        if state["world"] != self.ranks.world:
            raise TrainError(f"--resume: the checkpoint was made by {state['world']} ranks, these are {self.ranks.world}; start as many or use another --out")
        if state["data"] != self.batches.loader.digests:
            raise TrainError("--resume: the training shards are not those of the checkpoint; bring them back or use another --out")

    def _restore(self, state: dict[str, Any]) -> None:
        if state["frozen_late"]:
            self._freeze_late()
        with torch.no_grad():
            torch._foreach_copy_(list(self.model.parameters()), [t.to(self.ranks.device) for t in state["parameters"]])
            for mine, saved in zip(self.average.tensors, state["average"]["tensors"], strict=True):
                mine.copy_(saved)
        self.average.snapshots = state["average"]["snapshots"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.wall_s = int(state["step"]), float(state["wall_s"])

    def _freeze_late(self) -> None:
        """Progressive freezing: what was trained so far stays as it is, and is stored like any learned weight."""
        self.model.freeze_learned()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.gradients = optim.flat_gradients(self.parameters)
        self.average = WeightAverage(self.parameters, self.config.train)
        self.optimisers = optim.build(self.model, self.config.train)
        self.frozen_late = True

    def progress(self) -> float:
        """Share of the run that is done: of the steps, of the seconds, or the larger of both when both are limited."""
        return self._share_done(self.step, self.wall_s)

    def _share_done(self, step: int, wall_s: float) -> float:
        steps, seconds = self.config.train.steps, self.config.train.seconds
        if not steps and not seconds:
            raise TrainError("a run needs a limit; give --seconds or --steps")
        return min(1.0, max(step / steps if steps else 0.0, wall_s / seconds if seconds else 0.0))

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self, writer: checkpoint.Writer) -> TrainResult:
        """Trains until the clock or the step count is used up, or SIGTERM.  Weights end as the average if one is kept, unrounded."""
        settings = self.config.train
        warmup_s = self._warm_up_or_resume(writer)
        patience_s = self.ranks.timeout_s if self.ranks.world > 1 else math.inf
        losses = LossReader(self.ranks.device, self.step, patience_s)
        begin, saved_at, stop, interrupted = time.monotonic() - self.wall_s, time.monotonic(), False, False
        self.log.start_bar("training")
        with terminated() as signals:
            while True:
                self.wall_s = time.monotonic() - begin
                progress, stop = self.ranks.agree(self.progress(), bool(signals))
                if progress >= 1.0 or stop:
                    interrupted = stop and progress < 1.0
                    break
                self._enter_phase(progress)
                rows = self.batches.host(self.step)
                self.count(self.step, rows)
                losses.push(self.forward_backward(rows))
                self.update(progress)
                self.average.update(self.parameters, self.step, progress)
                self.step += 1
                if self.step % settings.log_every == 0:
                    self._log(losses, progress)
                if settings.val_every and self.step % settings.val_every == 0:
                    begin += self._watch()
                due = settings.checkpoint_seconds and time.monotonic() - saved_at >= settings.checkpoint_seconds
                if self.ranks.is_first and writer.ready() and due:
                    writer.submit(*checkpoint.snapshot(self.state()))
                    saved_at = time.monotonic()
        synchronize(self.ranks.device)
        losses.drain()
        self.wall_s = time.monotonic() - begin
        self.log.stop_bar()
        return self._finish(writer, losses, warmup_s, interrupted)

    def _enter_phase(self, progress: float) -> None:
        """Starts what begins at a share of the run: progressive freezing, late rounding."""
        if 0 <= self.config.train.freeze_at <= progress and not self.frozen_late:
            self._freeze_late()
        if 0 <= self.config.train.qat_from <= progress:
            self.model.set_fake_bits(self.config.quant.weight_bits)

    def _watch(self) -> float:
        """Logs the validation loss over the first VAL_TOKENS; returns the seconds it took, which the clock does not count."""
        begin = time.monotonic()
        synchronize(self.ranks.device)
        if self.val_tokens is not None:
            scores = windows.neural_scores(
                self.model, self.val_tokens[:VAL_TOKENS], self.config.train.seq_len, 0, self.ranks.device, ranks=self.ranks
            )
            self.log.show("val", step=self.step, loss_nats=float(scores.nll_nats.mean()))
            self.model.train()
        return time.monotonic() - begin

    def _warm_up_or_resume(self, writer: checkpoint.Writer) -> float:
        """Seconds of warm-up: none for a run that is over and is only packed again."""
        if not writer.path.exists():
            return self.warm_up()
        state = checkpoint.load(writer.path)
        with _fitting():
            self._check(state)
            over = self._share_done(int(state["step"]), float(state["wall_s"])) >= 1.0
        warmup_s = 0.0 if over else self.warm_up()
        self.restore(state)
        self.log.show("resume", step=self.step, wall_s=self.wall_s)
        self.ranks.barrier()
        return warmup_s

    def _log(self, losses: "LossReader", progress: float) -> None:
        loss = losses.mean()
        rate = self.step * self.config.train.batch_tokens / max(self.wall_s, 1e-9)
        self.log.record(
            "step", step=self.step, loss_nats=loss, wall_s=round(self.wall_s, 3), tokens_per_s=round(rate), progress=round(progress, 5)
        )
        self.log.advance(progress, f"step {self.step}  loss {loss:.4f} nats  {rate:,.0f} tokens/s")

    def _finish(self, writer: checkpoint.Writer, losses: "LossReader", warmup_s: float, interrupted: bool) -> TrainResult:
        writer.wait()
        self.batches.loader.stream.check_unchanged()
        if self.ranks.is_first:  # a finished run, too: if packing is killed, --resume packs without training again
            checkpoint.save(writer.path, *checkpoint.snapshot(self.state()))
        if self.cache is not None:
            self.cache.close()  # waits for what was submitted, and ends the thread
            whole = self.step * self.batches.rows * self.ranks.world >= self.batches.loader.rows_per_epoch
            if whole and self.ranks.is_first and not interrupted:  # the end of the corpus that fills no row
                self.cache.update(self.batches.loader.remainder()[None])
        if self.average.tensors and not interrupted:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.average.tensors)
        if not interrupted:
            self.model.set_fake_bits(0)  # packing measures and fits with what it stores, after a --resume as after training
        last = losses.mean()
        loss = last if math.isfinite(last) else None
        result = TrainResult(self.step, self.wall_s, self.step * self.config.train.batch_tokens, loss, warmup_s, interrupted)
        memory = {}
        if self.ranks.device.type == "cuda":
            memory["peak_gpu_bytes"] = torch.cuda.max_memory_allocated(self.ranks.device)
            torch.cuda.empty_cache()  # the next run may train on this card while this one packs (scripts/run_presets.py)
        self.log.show(
            "trained",
            steps=result.steps,
            loss_nats=loss,
            wall_s=result.wall_s,
            tokens_per_s=round(result.tokens / max(result.wall_s, 1e-9)),
            warmup_s=warmup_s,
            **memory,
        )
        return result


def compiled(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """One graph without dynamic shapes; what was compiled is kept on disk, also with our own backward passes in it."""
    functorch_config.autograd_cache_allow_custom_autograd_functions = True  # they are part of the key: a second start takes seconds
    result: Callable[..., torch.Tensor] = torch.compile(loss, dynamic=False, fullgraph=True)
    return result


@contextmanager
def _fitting() -> Iterator[None]:
    """Turns what goes wrong with a checkpoint's contents into one line."""
    try:
        yield
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        raise TrainError(f"--resume: the checkpoint does not fit this model ({str(error).splitlines()[0]}); use another --out") from None


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
