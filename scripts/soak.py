"""Trains, packs, reloads and scores a small model again and again in one process, and watches what is left behind.

    python scripts/soak.py --data DIR --tokenizer M [--minutes 30] [--json F]

DIR as scripts/prepare_data.py makes it (1,024 pieces).  Exits with 1 unless resident memory is flat within 2 % (the median of the last
quarter against that of the first quarter after the warm-up third) and no thread, open file or shared-memory object was added.
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hybrid import artifact, checkpoint, config, data, distributed, evaluate, finish, presets
from hybrid.log import RunLog
from hybrid.model import HybridLM
from hybrid.train import Trainer
from ngram.errors import SeedgramError, run_cli

TOLERANCE = 0.02  # of resident memory
SCORED_TOKENS = 8192
WARM_SHARE = 1 / 3  # compilers, allocators and thread pools fill up first
TRIM = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)  # glibc
FEWEST = 8  # rounds that medians can be taken of


@dataclass(frozen=True)
class Footprint:
    """What a process holds: resident bytes, threads, open files, names in shared memory."""

    resident: int
    threads: int
    files: int
    shared: int

    @classmethod
    def now(cls) -> "Footprint":
        gc.collect()
        TRIM(0)  # what is free inside the allocator is not held by anybody; without this, rounds differ by 10 %
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        shared = len(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else 0
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), shared)


def settings() -> config.Config:
    """The quickstart preset, thinned to a few seconds a round: everything that can leak is still in it."""
    wanted = {"model.layers": 1, "train.seconds": 0.0, "train.steps": 40, "train.batch_tokens": 1024, "train.microbatch_tokens": 512}
    wanted |= {"train.holdout_tokens": 4096, "train.warmup_steps": 1, "train.checkpoint_seconds": 0.05, "train.ema_decay": 0.9}
    return config.override(presets.get("quickstart"), {**wanted, "cache.ngram_order": 5})


def train_and_score(shards: Path, val: Path, tokenizer: bytes, out: Path) -> float:
    """One round in the order of train_gpt.py; returns the blended bits per byte."""
    wanted, ranks = settings(), distributed.Ranks(0, 1, torch.device("cpu"))
    loader = data.Loader(
        data.find_shards(shards, "train"),
        batch_rows=wanted.train.batch_tokens // wanted.train.seq_len,
        seq_len=wanted.train.seq_len,
        history=wanted.cache.ngram_order - 1,
        seed=wanted.train.seed,
        holdout_tokens=wanted.train.holdout_tokens,
        vocab_size=wanted.model.vocab_size,
    )
    torch.manual_seed(wanted.train.seed)
    model, log = HybridLM(wanted.model), RunLog(out / "train.jsonl", active=False)
    trainer, writer = Trainer(wanted, loader, model, ranks, log), checkpoint.Writer(out / "checkpoint.bin")
    trainer.run(writer)
    run = finish.merge_counts(trainer.cache, ranks, log)
    finish.pack(wanted, model, run, loader, tokenizer, ranks, out, log)
    scores = evaluate.score(artifact.load(out / "artifact.bin"), [val], ranks)
    writer.path.unlink()
    log.close()
    return float(scores["blended_bpb"])


def verdict(seen: list[Footprint]) -> tuple[dict[str, object], list[str]]:
    """Figures of a soak, and what is wrong with them."""
    warm = seen[int(len(seen) * WARM_SHARE) :]
    quarter = max(1, len(warm) // 4)
    early, late = (statistics.median(f.resident for f in part) for part in (warm[:quarter], warm[-quarter:]))
    figures: dict[str, object] = {"rounds": len(seen), "resident_early": early, "resident_late": late, "growth": late / early - 1}
    wrong = [f"resident memory grew by {late / early - 1:.2%}"] if late > early * (1 + TOLERANCE) else []
    for name in ("threads", "files", "shared"):
        before, after = getattr(warm[0], name), getattr(warm[-1], name)
        figures[name] = [before, after]
        wrong += [f"{name} went from {before} to {after}"] if after > before else []
    return figures, wrong


def main() -> int:
    parser = config.OneLineParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--json", type=Path, help="figures of every round")
    flags: argparse.Namespace = parser.parse_args()
    tokenizer, seen, scores = Path(flags.tokenizer).read_bytes(), list[Footprint](), set[float]()
    with tempfile.TemporaryDirectory() as folder:
        val = Path(folder) / "soak_val_000000.bin"
        data.write_shard(val, data.load_stream(flags.data, "val")[:SCORED_TOKENS])
        end = time.monotonic() + 60 * flags.minutes
        while time.monotonic() < end or len(seen) < FEWEST:
            scores.add(train_and_score(Path(flags.data), val, tokenizer, Path(folder)))
            seen.append(Footprint.now())
            if len(seen) % 20 == 0:
                print(f"round {len(seen)}: {seen[-1].resident / 2**20:.1f} MiB, {seen[-1].threads} threads, {seen[-1].files} files", flush=True)
    figures, wrong = verdict(seen)
    if flags.json:
        flags.json.write_text(json.dumps({**figures, "rounds_seen": [vars(f) for f in seen]}) + "\n")
    print(json.dumps(figures))
    if len(scores) > 1:
        wrong.append(f"equal rounds scored {sorted(scores)}")
    left = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if left:
        wrong.append(f"threads still alive: {', '.join(left)}")
    if wrong:
        raise SeedgramError(f"soak: {'; '.join(wrong)}; look for what a round does not give back")
    print(f"soak: {len(seen)} rounds, nothing left behind")
    return 0


if __name__ == "__main__":
    run_cli(main)
