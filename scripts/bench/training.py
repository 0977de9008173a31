"""Training speed, in one run: tokens/s, model FLOPs utilisation, peak memory, time to first step, with and without counting.

    python scripts/bench/training.py --data DIR --presets seed1095 dense9 [--bench-steps 100] [--peak-tflops 989] [--profile FILE]

Time to first step: from the process's start for the first preset, from its own for others; once more with the compiler's files on disk
it is a second start.  Each preset is built, compiled and warmed up, then timed for --bench-steps steps twice in turn with the cache on and off (on, off,
on, off), so that drift of the machine shows.  --profile writes the kernels of three steps, the most expensive first.
"""

import argparse
import sys
import time
from pathlib import Path

BEGAN = time.monotonic()  # the first preset's time to its first step takes the imports in

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.data.shards import Loader, find_shards
from hybrid.model.hybrid_lm import HybridLM
from hybrid.parallel import ranks as distributed
from hybrid.settings import config, presets
from hybrid.training.inputs import Inputs
from hybrid.training.run_log import RunLog
from hybrid.training.trainer import Trainer, compiler_cache, synchronize
from ngram.errors import run_cli
from scripts.bench.common import make_parser
from scripts.queue.run_results import flops_per_token


def build(name: str, flags: argparse.Namespace, ranks: distributed.Ranks, log: RunLog, begin: float) -> tuple[Trainer, float]:
    """A warm trainer and its time to the first step in seconds after `begin`."""
    settings = config.override(presets.get(name), {**vars(flags), "train.holdout_tokens": 0})
    loader = Loader(
        find_shards(flags.data, "train"),
        batch_rows=settings.train.batch_tokens // settings.train.seq_len,
        seq_len=settings.train.seq_len,
        history=max(1, settings.cache.ngram_order - 1),
        rank=ranks.rank,
        world=ranks.world,
        seed=settings.train.seed,
    )
    torch.manual_seed(settings.train.seed)
    model = HybridLM(settings.model).to(ranks.device)
    trainer = Trainer(settings, Inputs(loader, model, b"", loader.holdout()), ranks, log)
    with compiler_cache():
        trainer.warm_up()
    return trainer, time.monotonic() - begin


def timed(trainer: Trainer, steps: int, counting: bool) -> tuple[float, int]:
    """Seconds a step over `steps` steps, and how many steps waited to be counted at most.  Counting takes every batch, as in a first epoch."""
    deepest = 0
    synchronize(trainer.ranks.device)
    begin = time.monotonic()
    for step in range(steps):
        rows = trainer.batches.loader.batch(step)
        if counting and trainer.ahead is not None:
            trainer.ahead.cache.submit(rows)
            deepest = max(deepest, trainer.ahead.cache.queued())
        trainer.forward_backward(rows)
        trainer.update(0.5)
    synchronize(trainer.ranks.device)
    elapsed = (time.monotonic() - begin) / steps
    if trainer.ahead is not None:
        trainer.ahead.cache.drain()
    return elapsed, deepest


def profile(trainer: Trainer, path: Path) -> None:
    """Writes a table of kernels over three steps."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if trainer.ranks.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as trace:
        timed(trainer, 3, False)
    order = "self_cuda_time_total" if trainer.ranks.device.type == "cuda" else "self_cpu_time_total"
    path.write_text(trace.key_averages().table(sort_by=order, row_limit=60, max_name_column_width=110))


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of training shards")
    parser.add_argument("--presets", nargs="+", default=["seed1095", "dense9"], metavar="P", help="one after the other [seed1095 dense9]")
    parser.add_argument("--bench-steps", type=int, default=100, help="steps a timing")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bf16 peak of the device, for the utilisation")
    parser.add_argument("--profile", type=Path, help="write the kernel tables of three steps to FILE.preset")
    config.add_flags(parser)
    flags = parser.parse_args()
    ranks = distributed.start()
    log = RunLog(Path("/dev/null"), active=False)
    begin = BEGAN
    for name in flags.presets:
        torch._dynamo.reset()
        if ranks.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        trainer, first_s = build(name, flags, ranks, log, begin)
        turns = [timed(trainer, flags.bench_steps, counting) for counting in (True, False, True, False)]
        on, off, deepest = [s for s, _ in turns[::2]], [s for s, _ in turns[1::2]], max(waited for _, waited in turns)
        settings = trainer.config
        flops = flops_per_token(trainer.model, settings) * settings.train.batch_tokens
        memory = torch.cuda.max_memory_allocated() / 2**30 if ranks.device.type == "cuda" else float("nan")
        if ranks.is_first:
            rates = " ".join(f"{settings.train.batch_tokens / s / 1e6:.3f}" for s in (*on, *off))
            cost = 100 * (min(on) / min(off) - 1)
            utilisation = 100 * flops / ranks.world / min(on) / flags.peak_tflops / 1e12
            waited = f"counting costs {cost:+.2f} %, {deepest} steps waited at most"
            print(f"{name:14} M tokens/s, counting twice, then not: {rates}  step {1000 * min(on):.2f} ms, {waited}", flush=True)
            print(f"{'':14} utilisation {utilisation:.1f} %  peak {memory:.2f} GiB  first step after {first_s:.1f} s", flush=True)
        if flags.profile and ranks.is_first:
            profile(trainer, flags.profile.with_name(f"{flags.profile.name}.{name}"))
        del trainer
        begin = time.monotonic()
    ranks.close()
    return 0


if __name__ == "__main__":
    run_cli(main)
