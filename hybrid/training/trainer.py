"""The training loop: loader → model → optimisers, n-grams counted beside it on the host, checkpoints off the hot path.

docs/architecture.md follows a row through it.  The host runs at most QUEUE_STEPS ahead of the device, so the wall clock it reads is the
device's to within that many steps, and nothing waits.
"""

import gc
import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy.ma  # noqa: F401 - else numba does on the counting thread, while torch.compile goes through NumPy's names
import torch
import torch._functorch.config as functorch_config

from hybrid.model.parameters import count_stored
from hybrid.parallel.failures import terminated
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import windows
from hybrid.settings.config import Config
from hybrid.storing.counted_code import code_bytes
from hybrid.training import checkpoint
from hybrid.training.batches import Batches, LossReader
from hybrid.training.inputs import Inputs
from hybrid.training.run_log import RunLog
from hybrid.training.run_state import RunState
from hybrid.training.table_ahead import TableAhead
from ngram.arrays import U16
from ngram.counting.row_counter import RowCounter
from ngram.threads import Worker

VAL_TOKENS = 1 << 18  # what --val-every looks at: enough for three digits, a second on a GPU


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves in memory, besides the model's own weights."""

    steps: int
    wall_s: float  # inside the clock, over all resumes
    tokens: int  # targets trained on, over all ranks and resumes
    loss_nats: float | None  # mean of the last log window; None where a resumed run had no step left
    warmup_s: float
    interrupted: bool


# Inside, torch keeps on disk what it compiles, and a second start takes seconds (docs/decisions.md).
compiler_cache = partial(functorch_config.patch, autograd_cache_allow_custom_autograd_functions=True)


class Trainer:
    """Weights, optimisers and counts of one run; `run` is the loop."""

    def __init__(self, config: Config, inputs: Inputs, ranks: Ranks, log: RunLog) -> None:
        loader, model = inputs.loader, inputs.model
        self.config, self.inputs, self.loader, self.model, self.ranks, self.log = config, inputs, loader, model, ranks, log
        self.batches = Batches(config, loader, ranks)
        self.state = RunState(config, model, ranks.world, loader.digests)
        self.loss: Any = model.loss
        if config.train.compile and ranks.device.type == "cuda":  # CUDA graphs: docs/decisions.md
            self.loss = torch.compile(model.loss, dynamic=False, fullgraph=True, options={"triton.cudagraphs": True})
        order = config.cache.ngram_order
        room = config.cache.cap_bytes - code_bytes() - count_stored(model) * config.quant.weight_bits // 8
        self.ahead = TableAhead(RowCounter(config.model.vocab_size, order, loader.bos), room) if order else None
        self.idle_cores = ranks.device.type == "cuda" and ranks.world == 1  # on a CPU training has them all; several ranks add up first

    def forward_backward(self, rows: U16) -> torch.Tensor:
        """Accumulates gradients of the mean loss over all ranks.  Returns this rank's mean loss, a scalar on the device in nats, NaN where
        the gradient of any rank is NaN or infinite."""
        pairs = self.batches.to_device(rows)
        total = torch.zeros((), device=self.ranks.device)
        for inputs, targets in pairs:
            loss = self.loss(inputs, targets)
            self._add_gradients(loss / (len(pairs) * self.ranks.world))
            total += loss.detach() / len(pairs)
        self.ranks.sum_(self.state.gradients)
        return total + 0 * self.state.gradients.sum()  # so on every rank at the same step

    def _add_gradients(self, loss: torch.Tensor) -> None:
        """What `loss.backward()` does, but all sums in one kernel instead of one a parameter."""
        parameters = [p for p in self.state.parameters if p.requires_grad]
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        pairs = [(p.grad, grad) for p, grad in zip(parameters, grads, strict=True) if grad is not None]
        torch._foreach_add_(*map(list, zip(*pairs, strict=True)))

    def update(self, progress: float) -> None:
        """One optimiser step at `progress` in [0, 1] of the schedule; gradients are zero afterwards."""
        for optimiser in self.state.optimisers:
            optimiser.set_progress(progress)
            optimiser.step()
        self.state.gradients.zero_()

    def count(self, step: int, rows: U16) -> None:
        """Hands rows seen for the first time to the counting thread; when none are left, the table is begun on idle cores."""
        if self.ahead is not None and not self.ahead.begun:
            fresh = self.loader.is_first_epoch(step)
            if fresh.any():
                self.ahead.cache.submit(rows if fresh.all() else rows[fresh])
            elif self.idle_cores:
                self.ahead.cache.submit(self.loader.remainder()[None])
                self.ahead.begin()

    def warm_up(self) -> float:
        """Compiles and warms all that the run will use, then restores weights and optimisers.  Counts nothing.  Returns seconds."""
        begin, settings = time.monotonic(), self.config.train
        searched, before = gc.isenabled(), [p.detach().clone() for p in self.state.parameters]
        fresh = [optimiser.state_dict() for optimiser in self.state.optimisers]
        rows = self.loader.batch(0)
        counting = Worker("warm-up", 1)
        if self.ahead is not None:
            counting.submit(partial(self.ahead.warm_up, self.loss != self.model.loss))  # not in this process where torch's compiler works
        gc.disable()  # searching what the compiler makes is a tenth of its time
        try:
            for _ in range(settings.warmup_steps):
                self.forward_backward(rows)
                self.update(0.5)
            if settings.warmup_steps and settings.qat_from >= 0:  # the graphs of later phases too: nothing is compiled mid-run
                self._round()
                self.forward_backward(rows)
                self.model.set_fake_bits(0)
            if settings.warmup_steps and settings.freeze_at >= 0:
                self.model.freeze_learned()
                self.forward_backward(rows)
                self.state.unfreeze()
        finally:
            if searched:
                gc.enable()
        counting.wait()
        with torch.no_grad():
            torch._foreach_copy_(self.state.parameters, before)
        for optimiser, state in zip(self.state.optimisers, fresh, strict=True):
            optimiser.load_state_dict(state)
        self.state.gradients.zero_()
        synchronize(self.ranks.device)
        self.ranks.barrier()
        return time.monotonic() - begin

    def _round(self) -> None:
        """From now on, weights are rounded in the forward pass."""
        self.model.set_fake_bits(self.config.quant.weight_bits, self.config.quant.weight_step)

    @compiler_cache()
    def run(self, writer: checkpoint.Writer) -> TrainResult:
        """Trains until the clock or the step count is used up, SIGTERM or Ctrl-C.  The weights end unrounded."""
        settings, state = self.config.train, self.state
        warmup_s = self._warm_up_or_resume(writer)
        losses = LossReader(state.step, self.ranks.timeout_s if self.ranks.world > 1 else math.inf)
        begin, saved_at = time.monotonic() - state.wall_s, time.monotonic()
        with self.log.bar("training"), terminated() as signals:
            while True:
                state.wall_s = time.monotonic() - begin
                progress, stop = self.ranks.agree(state.progress(), bool(signals))
                if progress >= 1.0 or stop:
                    break
                self._enter_phase(progress)
                rows = self.loader.batch(state.step)
                self.count(state.step, rows)
                losses.push(self.forward_backward(rows))
                self.update(progress)
                state.step += 1
                if state.step % settings.log_every == 0:
                    self._log(losses, progress)
                if settings.val_every and state.step % settings.val_every == 0:
                    begin += self._watch()
                due = settings.checkpoint_seconds and time.monotonic() - saved_at >= settings.checkpoint_seconds
                if self.ranks.is_first and writer.idle() and due:
                    writer.write(*checkpoint.snapshot(state.to_tree()))
                    saved_at = time.monotonic()
        synchronize(self.ranks.device)
        losses.drain()
        state.wall_s = time.monotonic() - begin
        return self._finish(writer, losses, warmup_s, interrupted=progress < 1.0)

    def _enter_phase(self, progress: float) -> None:
        """Starts what begins at a share of the run: progressive freezing, late rounding."""
        if 0 <= self.config.train.freeze_at <= progress and not self.state.frozen_late:
            self.state.freeze_late()
        if 0 <= self.config.train.qat_from <= progress:
            self._round()

    def _watch(self) -> float:
        """Logs the validation loss over the first VAL_TOKENS; returns the seconds it took, outside the clock."""
        begin = time.monotonic()
        synchronize(self.ranks.device)
        nats = windows.neural_nats(self.model, self.inputs.val_tokens[:VAL_TOKENS], self.config.train.seq_len, self.ranks)
        self.log.show("val", step=self.state.step, loss_nats=float(nats.mean()))
        self.model.train()
        return time.monotonic() - begin

    def _warm_up_or_resume(self, writer: checkpoint.Writer) -> float:
        """Seconds of warm-up: none for a run that is over and is only packed again."""
        if not writer.path.exists():
            return self.warm_up()
        tree = checkpoint.load(writer.path)
        warmup_s = 0.0 if self.state.is_over(tree) else self.warm_up()
        self.restore(tree)
        self.log.show("resume", step=self.state.step, wall_s=self.state.wall_s)
        self.ranks.barrier()
        return warmup_s

    def restore(self, tree: dict[str, Any]) -> None:
        """As RunState.restore, counting anew."""
        self.state.restore(tree)
        for step in range(self.state.step):
            if not self.loader.is_first_epoch(step).any():
                break
            self.count(step, self.loader.batch(step))

    def _log(self, losses: LossReader, progress: float) -> None:
        loss, step, wall_s = losses.mean(), self.state.step, self.state.wall_s
        rate = step * self.config.train.batch_tokens / max(wall_s, 1e-9)
        queued = self.ahead.cache.queued() if self.ahead is not None else 0
        self.log.record("step", step=step, loss_nats=loss, wall_s=round(wall_s, 3), tokens_per_s=round(rate), progress=round(progress, 5), queued=queued)
        self.log.advance(progress, f"step {step}  loss {loss:.4f} nats  {rate:,.0f} tokens/s")

    def _finish(self, writer: checkpoint.Writer, losses: LossReader, warmup_s: float, interrupted: bool) -> TrainResult:
        writer.wait()
        self.loader.stream.check_unchanged()
        if self.ranks.is_first:  # a finished run, too: if packing is killed, --resume packs without training again
            checkpoint.save(writer.path, *checkpoint.snapshot(self.state.to_tree()))
        if self.ahead is not None and not self.ahead.begun:
            self.ahead.cache.drain()
            whole = self.state.step * self.loader.batch_rows >= self.loader.rows_per_epoch
            if whole and self.ranks.is_first and not interrupted:  # the end of the corpus that fills no row
                self.ahead.cache.update(self.loader.remainder()[None])
        if not interrupted:
            self.model.set_fake_bits(0)  # packing measures and fits with what it stores, after a --resume as after training
        step, wall_s, last = self.state.step, self.state.wall_s, losses.mean()
        loss, tokens, memory = last if math.isfinite(last) else None, step * self.config.train.batch_tokens, {}
        if self.ranks.device.type == "cuda":
            memory["peak_gpu_bytes"] = torch.cuda.max_memory_allocated(self.ranks.device)
            torch.cuda.empty_cache()  # the next run may train on this card while this one packs (scripts/queue/run_presets.py)
        rate = round(tokens / max(wall_s, 1e-9))
        self.log.show("trained", steps=step, loss_nats=loss, wall_s=wall_s, warmup_s=warmup_s, tokens_per_s=rate, **memory)
        return TrainResult(step, wall_s, tokens, loss, warmup_s, interrupted)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
