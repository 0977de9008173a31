"""A model small enough to train on the CPU within a second: as a Trainer in this process, and as `train_gpt.py` in its own."""

import os
import subprocess
from pathlib import Path
from typing import Any

import torch

import train_gpt
from hybrid.data.shards import Loader, find_shards
from hybrid.model.hybrid_lm import HybridLM
from hybrid.parallel.ranks import Ranks
from hybrid.settings.config import CacheConfig, Config, ModelConfig, TrainConfig
from hybrid.training.inputs import Inputs
from hybrid.training.run_log import RunLog
from hybrid.training.trainer import Trainer
from tests.support import loaded, tiny
from tests.support.paths import ROOT

SHAPE: dict[str, Any] = {
    "vocab_size": tiny.VOCAB,
    "layers": 2,
    "d_model": 32,
    "heads": 2,
    "kv_heads": 1,
    "mlp_mult": 2.0,
    "rope_dims": 8,
    "basis": "hadamard",
    "rank_attention": 4,
    "rank_mlp": 4,
}
STEPS: dict[str, Any] = {"batch_tokens": 64, "microbatch_tokens": 32, "seq_len": 16, "holdout_tokens": 200, "warmup_steps": 1}
ORDER = 4
WITHOUT: dict[str, Any] = {"bigram_buckets": 0, "value_embed_dim": 0, "value_embed_layers": 0, "xsa_layers": 0}  # what the preset has beyond SHAPE


def settings(*, model: dict[str, Any] | None = None, **train: Any) -> Config:
    """The small model; `model` and `train` replace fields of those two groups."""
    return Config(
        model=ModelConfig(**SHAPE | (model or {})), train=TrainConfig(**{"seconds": 0.0} | STEPS | train), cache=CacheConfig(ngram_order=ORDER)
    )


def trainer(config: Config, data: Path, folder: Path) -> Trainer:
    """A Trainer on one CPU rank over the training shards in `data`; `folder` takes its log."""
    loader = Loader(
        find_shards(data, "train"),
        batch_rows=config.train.batch_tokens // config.train.seq_len,
        seq_len=config.train.seq_len,
        history=config.cache.ngram_order - 1,
        seed=config.train.seed,
        holdout_tokens=config.train.holdout_tokens,
    )
    torch.manual_seed(config.train.seed)
    inputs = Inputs(loader, HybridLM(config.model), b"", loader.holdout())
    return Trainer(config, inputs, Ranks(0, 1, torch.device("cpu")), RunLog(folder / "log", active=False))


def command(data: Path, out: Path, *extra: str, python: str | None = None) -> list[str]:
    """The command that trains the small model on a folder with shards and tokenizer.model; `extra` comes last and wins.

    python: sys.executable for a process that begins with nothing; else it begins with torch loaded (tests/support/loaded.py)."""
    values = SHAPE | STEPS | {"ngram_order": ORDER} | WITHOUT
    shape = [word for name, value in values.items() for word in ("--" + name.replace("_", "-"), str(value))]
    places = ["--data", str(data), "--tokenizer", str(data / "tokenizer.model"), "--out", str(out)]
    return [python or loaded.python(), str(ROOT / "train_gpt.py"), "--preset", "seed1095", "--device", "cpu", "--no-score", *places, *shape, *extra]


def environment() -> dict[str, str]:
    """Of a command of this project that is not installed: one thread, so that its bits are those of every other run."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def finish(data: Path, out: Path, *extra: str, python: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Runs the command to its end."""
    return subprocess.run(command(data, out, *extra, python=python), capture_output=True, text=True, env=environment(), timeout=240)


def finish_here(data: Path, out: Path, *extra: str) -> None:
    """The same run in this process, where torch is loaded and kernels are compiled; on one thread, as it has in its own.  Fails on an error."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert tiny.exit_code(train_gpt, *command(data, out, *extra)[2:]) == 0
    finally:
        torch.set_num_threads(threads)
