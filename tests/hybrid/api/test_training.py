"""`hybrid.train` is train_gpt.py from Python."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import hybrid
import train_gpt
from hybrid.parallel import failures
from hybrid.settings.config import ConfigError
from hybrid.training.trainer import Trainer
from tests.support import tiny

SMALL: dict[str, Any] = {
    "layers": 2, "d_model": 32, "heads": 2, "kv_heads": 1, "rope_dims": 4, "seq_len": 32, "batch_tokens": 256, "microbatch_tokens": 256,
    "steps": 3, "warmup_steps": 0, "rank_attention": 2, "rank_mlp": 2, "basis": "hadamard", "vocab_size": tiny.VOCAB, "holdout_tokens": 128,
}  # fmt: skip


def test_a_run_from_python_is_the_run_of_the_command(tmp_path: Path) -> None:
    tiny.write_data(tmp_path)
    model = hybrid.train("seed1095", tmp_path, tmp_path / "run", device="cpu", **SMALL)
    assert model.config.train.steps == 3 and model.config.train.seconds == 0
    assert 0 < model.bits_per_byte("the cache") < 20
    words = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    places = ["--data", tmp_path, "--tokenizer", tmp_path / "tokenizer.model", "--out", tmp_path / "other"]
    assert tiny.exit_code(train_gpt, "--preset", "seed1095", "--device", "cpu", "--no-score", *places, *words) == 0
    assert (tmp_path / "other/artifact.bin").read_bytes() == (tmp_path / "run/artifact.bin").read_bytes()


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"speed": 3}, "speed: no such setting"),
        ({"layers": 2.5}, "layers: expected int, found 2.5"),
        ({"layers": 0}, "layers"),
        ({"seconds": "9"}, "seconds: expected float"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        hybrid.train("seed1095", tmp_path, tmp_path / "run", **settings)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(hybrid.SeedgramError, match="tokenizer.model"):
        hybrid.train("seed1095", tmp_path, tmp_path / "run", device="cpu")


def test_a_run_that_fails_leaves_the_caller_s_signals_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: object, writer: object) -> None:
        with failures.terminated():
            raise hybrid.SeedgramError("broken")

    tiny.write_data(tmp_path)
    monkeypatch.setattr(Trainer, "run", failing)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(hybrid.SeedgramError, match="broken"):
        hybrid.train("seed1095", tmp_path, tmp_path / "run", device="cpu", **SMALL)
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_is_told_to_leave_it_to_the_main_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(hybrid.SeedgramError, match="main thread"):
        pool.submit(hybrid.train, "seed1095", tmp_path, tmp_path / "run").result()
