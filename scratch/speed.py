"""Scratch: one preset's speed under given inductor options, with a table of kernels.  Not for merging.

    python scratch/speed.py --data DIR --preset seed1095 [--options JSON] [--table FILE] [--bench-steps 40] [--batch-tokens N …]
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

BEGAN = time.monotonic()

import torch
import torch._inductor.config as inductor_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hybrid.model import attention
from hybrid.parallel import ranks as distributed
from hybrid.settings import config
from hybrid.training import optim
from hybrid.training import trainer as training
from hybrid.training.run_log import RunLog
from scripts.bench.training import build, timed


def known(options):
    """The options that this torch has; says which it has not."""
    names = set(inductor_config.get_config_copy())
    for name in sorted(set(options) - names):
        print(f"unknown option {name}", flush=True)
    return {name: value for name, value in options.items() if name in names}


def kernel_table(trainer, steps, path):
    """Self time on the device by kernel, per step, the most expensive first; on a CPU by operator."""
    cuda = trainer.ranks.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU] + ([torch.profiler.ProfilerActivity.CUDA] if cuda else [])
    with torch.profiler.profile(activities=activities) as trace:
        seconds = timed(trainer, steps, False)
    spent, calls = defaultdict(float), defaultdict(int)
    for event in trace.events():
        on_device = event.device_type == torch.autograd.DeviceType.CUDA
        if on_device == cuda:
            spent[event.name] += event.time_range.elapsed_us() if cuda else event.self_cpu_time_total
            calls[event.name] += 1
    total = sum(spent.values()) / steps / 1000
    lines = [f"wall {1000 * seconds:.2f} ms a step under the profiler, kernels {total:.2f} ms, {sum(calls.values()) / steps:.0f} launches"]
    for name in sorted(spent, key=spent.get, reverse=True)[:130]:
        lines.append(f"{spent[name] / steps / 1000:8.3f} ms {calls[name] / steps:7.1f} x  {name[:150]}")
    path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[:41]), flush=True)


def old_heads(self, qkv_TO, window):
    shape, rope, _ = window
    normed, v = qkv_TO.split([(self.heads + self.kv_heads) * self.width, self.kv_heads * self.width], dim=-1)
    normed = attention.rms_norm(normed.reshape(*shape, -1, self.width))
    q, k = (normed if rope is None else attention.rotate(normed, *rope)).split([self.heads, self.kv_heads], dim=2)
    return q * self.query_gain.to(q.dtype)[:, None], k, v


def old_forward_backward(self, rows):
    pairs = self.batches.to_device(rows)
    total = torch.zeros((), device=self.ranks.device)
    for inputs, targets in pairs:
        loss = self.loss(inputs, targets)
        (loss / (len(pairs) * self.ranks.world)).backward()
        total += loss.detach() / len(pairs)
    self.ranks.sum_(self.state.gradients)
    return total + 0 * self.state.gradients.sum()


def losses(trainer, steps):
    """Losses at some steps from the start, which two variants should share within rounding."""
    found = []
    for step in range(steps):
        loss = trainer.forward_backward(trainer.batches.loader.batch(step))
        trainer.update(0.3)
        if step + 1 in (1, 2, 5, 10, 20, steps):
            found.append(float(loss.detach()))
    return " ".join(f"{x:.5f}" for x in found)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", default="seed1095")
    parser.add_argument("--options", default="{}")
    parser.add_argument("--name", default="base")
    parser.add_argument("--old", nargs="*", default=[], choices=["heads", "muon", "gradients"])
    parser.add_argument("--table", type=Path)
    parser.add_argument("--bench-steps", type=int, default=40)
    config.add_flags(parser)
    flags = parser.parse_args()
    options = known(json.loads(flags.options))
    if "heads" in flags.old:
        attention.Attention._heads = old_heads
    if "muon" in flags.old:
        optim.Muon.compile = lambda self: None
    elif options.get("combo_kernels"):
        optim.Muon.compile = lambda self: setattr(self, "compiled", torch.compile(self.apply, dynamic=False, fullgraph=True, options={"combo_kernels": True}))
    if "gradients" in flags.old:
        training.Trainer.forward_backward = old_forward_backward
    if options:
        training.compiled = lambda loss: torch.compile(loss, dynamic=False, fullgraph=True, options={"triton.cudagraphs": True, **options})
    ranks = distributed.start()
    trainer, first_s = build(flags.preset, flags, ranks, RunLog(Path("/dev/null"), active=False), BEGAN)
    batch = trainer.config.train.batch_tokens
    curve = losses(trainer, 30)
    times = [timed(trainer, flags.bench_steps, False) for _ in range(3)]
    rates = " ".join(f"{batch / s / 1e6:.3f}" for s in times)
    print(f"== {flags.preset} {batch} {flags.name}: M tokens/s {rates}  {1000 * min(times):.2f} ms  first step after {first_s:.1f} s  losses {curve}", flush=True)
    if flags.table:
        kernel_table(trainer, 3, flags.table)


if __name__ == "__main__":
    main()
