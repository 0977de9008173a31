"""Run folders as train_gpt.py leaves them, small enough for tests of submissions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import train_gpt
from tests.support import tiny
from tests.support.training import command


def make_run(data: Path, out: Path, *, seed: int, steps: int = 3) -> Path:
    """A run of the small model, scored by train_gpt.py itself; returns its folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        words = [word for word in command(data, out, "--steps", str(steps), "--seed", str(seed))[2:] if word != "--no-score"]
        assert tiny.exit_code(train_gpt, *words) == 0
    finally:
        torch.set_num_threads(threads)
    return out


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrites a JSON file after `change` has altered its object."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
