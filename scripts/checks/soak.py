"""Trains, packs, reloads and scores a small model again and again in one process, and watches what is left behind.

    python scripts/checks/soak.py --data DIR --tokenizer M [--minutes 30] [--json F]

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

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.data import shards as data
from hybrid.data.load_stream import load_stream
from hybrid.data.write_shards import write_shard
from hybrid.model.hybrid_lm import HybridLM
from hybrid.parallel import ranks as distributed
from hybrid.scoring import evaluate
from hybrid.scoring.report import write_json
from hybrid.settings import config, presets
from hybrid.storing import artifact
from hybrid.training import checkpoint, pack
from hybrid.training.inputs import Inputs
from hybrid.training.run_log import RunLog
from hybrid.training.trainer import Trainer
from ngram.errors import SeedgramError, run_cli
from ngram.terminal import OneLineParser

TOLERANCE = 0.02  # of resident memory
SCORED_TOKENS = 8192
WARM_SHARE = 1 / 3  # compilers, allocators and thread pools fill up first
LIBC = ctypes.CDLL(None)
TRIM = getattr(LIBC, "malloc_trim", lambda pad: 0)  # glibc's
ARENAS_PARAMETER = -8  # M_ARENA_MAX of glibc's malloc.h
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
    wanted |= {"train.holdout_tokens": 4096, "train.warmup_steps": 1, "train.checkpoint_seconds": 0.05}
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
    inputs = Inputs(loader, HybridLM(wanted.model), tokenizer, loader.holdout())
    log = RunLog(out / "train.jsonl", active=False)
    trainer, writer = Trainer(wanted, inputs, ranks, log), checkpoint.Writer(out / "checkpoint.bin")
    trainer.run(writer)
    pack.merge_counts(trainer.ahead, ranks, log)
    pack.pack(wanted, inputs, trainer.ahead, ranks, out, log)
    scores = evaluate.evaluate(artifact.load(out / "artifact.bin"), [val], ranks)[0]
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


def use_one_arena() -> None:
    """Makes all threads allocate from one arena of glibc.  By default a new thread may open another, which keeps what its largest
    round needed: threads that come and go then add some 20 MB by and by, which no part of the program holds (LOG.md)."""
    if hasattr(LIBC, "mallopt"):
        LIBC.mallopt(ARENAS_PARAMETER, 1)


def main() -> int:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of shards")
    parser.add_argument("--tokenizer", required=True, metavar="M", help="SentencePiece model of the shards")
    parser.add_argument("--minutes", type=float, default=30.0, metavar="X", help="how long; at least 8 rounds are made [30]")
    parser.add_argument("--json", metavar="F", help="write the figures of every round there")
    flags: argparse.Namespace = parser.parse_args()
    use_one_arena()
    tokenizer, seen, scores = Path(flags.tokenizer).read_bytes(), list[Footprint](), set[float]()
    with tempfile.TemporaryDirectory() as folder:
        val = Path(folder) / "soak_val_000000.bin"
        write_shard(val, load_stream(flags.data, "val")[:SCORED_TOKENS])
        end = time.monotonic() + 60 * flags.minutes
        while time.monotonic() < end or len(seen) < FEWEST:
            scores.add(train_and_score(Path(flags.data), val, tokenizer, Path(folder)))
            seen.append(Footprint.now())
            if len(seen) % 20 == 0:
                print(f"round {len(seen)}: {seen[-1].resident / 2**20:.1f} MiB, {seen[-1].threads} threads, {seen[-1].files} files", flush=True)
    figures, wrong = verdict(seen)
    write_json(flags.json, {**figures, "rounds_seen": [vars(f) for f in seen]})
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
