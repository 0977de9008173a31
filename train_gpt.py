"""Trains a hybrid language model under a byte budget and packs it into one artifact.

    python train_gpt.py --preset seed1095 --data DIR --tokenizer M --out RUN [--seconds S | --steps N] [--resume]
    torchrun --standalone --nproc_per_node=2 train_gpt.py …
    python train_gpt.py --preset seed1095 --describe

Reads DIR/*train*.bin and DIR/*val*.bin; writes RUN/artifact.bin, RUN/train.jsonl, RUN/summary.json.  Every setting is a flag.
"""

import argparse
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from hybrid import artifact, checkpoint, codecs, config, distributed, environment, evaluate, finish, presets, tokenizer
from hybrid.data import Loader, find_shards, load_stream
from hybrid.log import RunLog
from hybrid.model import HybridLM
from hybrid.train import Trainer
from ngram.container import atomic_write
from ngram.errors import run_cli
from ngram.table import U16


def parse() -> tuple[argparse.Namespace, config.Config]:
    """Flags over the challenge's environment names over the preset."""
    parser = config.OneLineParser(prog="train_gpt.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=presets.names(), default="seed1095", help="system to train [seed1095]")
    parser.add_argument("--data", help="folder of shards")
    parser.add_argument("--tokenizer", help="SentencePiece model of the shards")
    parser.add_argument("--out", help="run folder, written to")
    parser.add_argument("--resume", action="store_true", help="continue from RUN/checkpoint.bin; a finished run is only packed again")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="where to train [auto]")
    parser.add_argument(
        "--rank-timeout", type=float, default=distributed.TIMEOUT_S, metavar="S", help="a rank silent for so long is taken for dead; s [45]"
    )
    parser.add_argument("--no-score", action="store_true", help="leave scoring the packed artifact to eval.py")
    parser.add_argument("--keep-checkpoint", action="store_true", help="leave RUN/checkpoint.bin, to pack again or for scripts/bench_quant.py")
    parser.add_argument("--describe", action="store_true", help="print the preset's parameter counts as JSON and stop")
    config.add_flags(parser)
    flags = parser.parse_args()
    outside = environment.challenge_settings(os.environ)
    for name in ("data", "tokenizer", "out"):
        setattr(flags, name, getattr(flags, name) or outside.get(name))
    given = {**outside, **vars(flags)}
    if "train.steps" in given and "train.seconds" not in given:
        given["train.seconds"] = 0.0  # a run of N steps does not look at the clock
    settings = config.override(presets.get(flags.preset), given)
    if not flags.rank_timeout > 0:
        parser.error(f"--rank-timeout {flags.rank_timeout} must be above 0")
    missing = [f"--{name}" for name in ("data", "tokenizer", "out") if not getattr(flags, name)]
    if missing and not flags.describe:
        parser.error(f"{' '.join(missing)} missing")
    return flags, settings


def prepare(flags: argparse.Namespace, settings: config.Config, ranks: distributed.Ranks) -> tuple[Loader, HybridLM, bytes, U16]:
    """Everything that can be wrong with the input is found here, before the first step."""
    codecs.check_codecs(settings.quant)
    pieces = tokenizer.load(flags.tokenizer)
    if pieces.vocab_size != settings.model.vocab_size:
        raise config.ConfigError(
            f"{flags.tokenizer}: {pieces.vocab_size} pieces, the model has {settings.model.vocab_size}; set --vocab-size"
        )
    val_tokens = load_stream(flags.data, "val", settings.model.vocab_size)
    loader = Loader(
        find_shards(flags.data, "train"),
        batch_rows=settings.train.batch_tokens // settings.train.seq_len,
        seq_len=settings.train.seq_len,
        history=max(settings.cache.ngram_order - 1, 1),
        rank=ranks.rank,
        world=ranks.world,
        seed=settings.train.seed,
        holdout_tokens=settings.train.holdout_tokens,
        vocab_size=settings.model.vocab_size,
    )
    torch.manual_seed(settings.train.seed)
    return loader, HybridLM(settings.model).to(ranks.device), pieces.model, val_tokens


def main() -> int:
    flags, settings = parse()
    if flags.describe:
        print(json.dumps(presets.describe(settings), indent=1))
        return 0
    ranks = distributed.start(flags.device, flags.rank_timeout)
    with distributed.together(ranks), distributed.memory_errors():
        run(flags, settings, ranks)
    ranks.close()
    return 0


def run(flags: argparse.Namespace, settings: config.Config, ranks: distributed.Ranks) -> None:
    """From data to a scored artifact, or to a checkpoint when interrupted."""
    loader, model, model_bytes, val_tokens = prepare(flags, settings, ranks)
    folder = checkpoint.RunFolder(flags.out) if ranks.is_first else None
    ranks.barrier()
    out = Path(flags.out)
    with closing(RunLog(out / "train.jsonl", active=ranks.is_first)) as log:
        log.header(settings, ranks.device, ranks.world)
        writer = checkpoint.Writer(out / "checkpoint.bin")
        if not flags.resume and ranks.is_first:
            writer.path.unlink(missing_ok=True)
        ranks.barrier()
        trainer = Trainer(settings, loader, model, ranks, log, val_tokens)
        result = trainer.run(writer)
        if not result.interrupted:
            counts = finish.merge_counts(trainer.cache, ranks, log)
            summary: dict[str, Any] = {"preset": settings.preset, "seed": settings.train.seed, "world": ranks.world, **vars(result)}
            if ranks.is_first:
                summary["bytes"] = finish.pack(settings, model, counts, loader, model_bytes, ranks, out, log)
            ranks.barrier()
            if not flags.no_score:
                summary["scores"] = evaluate.score(artifact.load(out / "artifact.bin"), find_shards(flags.data, "val"), ranks)
            if ranks.is_first:
                atomic_write(out / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
                if not flags.keep_checkpoint:
                    writer.path.unlink(missing_ok=True)
                log.show("packed", **{k: v for k, v in summary["bytes"].items() if k in ("ngram", "code", "total")})
    if folder is not None:
        folder.close()


if __name__ == "__main__":
    run_cli(main)
