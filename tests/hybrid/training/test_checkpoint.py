"""Checkpoints: exact, atomic, without pickle; one run a folder."""

import itertools
from pathlib import Path

import pytest
import torch

from hybrid.training import checkpoint
from ngram.errors import FileFormatError, SeedgramError
from tests.support.training import settings, trainer


def tree() -> dict[str, object]:
    return {
        "step": 3,
        "wall_s": 1.25,
        "flags": [True, None, "x"],
        "parameters": [torch.arange(6.0).reshape(2, 3), torch.tensor(2.5), torch.empty(0, 4)],
        "optimisers": [
            {
                "state": {"w": {"m": torch.ones(3, dtype=torch.bfloat16), "step": 4}, "v": {}},
                "param_groups": [{"lr": 0.1, "betas": [0.9, 0.95]}],
            }
        ],
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def test_a_tree_comes_back_exactly(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", *checkpoint.snapshot(tree()))
    assert same(checkpoint.load(tmp_path / "c"), tree())


def test_a_snapshot_does_not_move_with_the_weights(tmp_path: Path) -> None:
    weight = torch.zeros(3)
    tensors, skeleton = checkpoint.snapshot({"w": weight})
    weight += 1
    checkpoint.save(tmp_path / "c", tensors, skeleton)
    assert torch.equal(checkpoint.load(tmp_path / "c")["w"], torch.zeros(3))


def test_an_altered_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", *checkpoint.snapshot(tree()))
    data = bytearray((tmp_path / "c").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "c").write_bytes(data)
    with pytest.raises(FileFormatError, match="digest"):
        checkpoint.load(tmp_path / "c")


def test_a_checkpoint_of_another_model_or_other_data_is_refused_in_one_line(tiny_data: Path, tmp_path: Path) -> None:
    """Whatever is wrong with a well-formed checkpoint, resuming says so instead of failing inside."""
    run = trainer(settings(steps=2), tiny_data, tmp_path)
    state = run.state.to_tree()
    changes: list[dict[str, object]] = [{"parameters": state["parameters"][1:]}, {"parameters": 7}, {"optimisers": []}, {"step": None}]
    changes += [{"step": float("inf")}, {"data": ["0"]}, {"world": 3}, {"config": {**state["config"], "preset": "other"}}]
    changes += [{"parameters": [torch.ones(2, 3), *state["parameters"][1:]]}]
    for change in changes:
        checkpoint.save(tmp_path / "c", *checkpoint.snapshot({**state, **change}))
        with pytest.raises(SeedgramError, match="--resume"):
            trainer(settings(steps=2), tiny_data, tmp_path).restore(checkpoint.load(tmp_path / "c"))
    for missing in state:
        with pytest.raises(SeedgramError):
            trainer(settings(steps=2), tiny_data, tmp_path).restore({k: v for k, v in state.items() if k != missing})
    trainer(settings(steps=2), tiny_data, tmp_path).restore(state)


def test_the_writer_reports_its_failure_on_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    writer = checkpoint.Writer(tmp_path / "file" / "checkpoint")
    writer.write(*checkpoint.snapshot({"w": torch.zeros(1)}))
    with pytest.raises(SeedgramError, match="cannot write"):
        writer.wait()
    writer.write(*checkpoint.snapshot({"w": torch.zeros(1)}))
    with pytest.raises(SeedgramError, match="cannot write"):  # the loop asks every step, however far off the next checkpoint is
        any(writer.idle() for _ in itertools.repeat(None))


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    first = checkpoint.RunFolder(tmp_path / "run")
    with pytest.raises(SeedgramError, match="another run"):
        checkpoint.RunFolder(tmp_path / "run")
    first.close()
    checkpoint.RunFolder(tmp_path / "run").close()
