"""Other tools get the figures of the log, every one once and under the same names."""

import argparse
import importlib
import json
import sys
import threading
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hybrid.cli import log
from hybrid.reporting import follow
from ngram.errors import SeedgramError
from ngram.terminal import OneLineParser, UsageError

RECORDS: list[dict[str, Any]] = [
    {"event": "start", "at_s": 0.0, "world": 2, "config": {"train": {"seed": 5}}},
    {"event": "step", "at_s": 1.0, "step": 20, "loss_nats": 2.5, "wall_s": 0.9, "tokens_per_s": 1000, "progress": 0.5},
    {"event": "val", "at_s": 1.5, "step": 20, "loss_nats": 2.625},
    {"event": "step", "at_s": 2.0, "step": 40, "loss_nats": 2.25, "wall_s": 1.9, "tokens_per_s": 1100, "progress": 1.0},
    {"event": "trained", "at_s": 2.0, "steps": 40, "loss_nats": 2.25, "interrupted": False},
    {"event": "held out", "at_s": 3.0, "gap_bpb": 0.125},
    {"event": "packed", "at_s": 4.0, "total": 1234567},
]
FIGURES = {
    ("step/loss_nats", 20): 2.5,
    ("step/wall_s", 20): 0.9,
    ("step/tokens_per_s", 20): 1000,
    ("val/loss_nats", 20): 2.625,
    ("step/loss_nats", 40): 2.25,
    ("step/wall_s", 40): 1.9,
    ("step/tokens_per_s", 40): 1100,
    ("trained/steps", 40): 40,
    ("trained/loss_nats", 40): 2.25,
    ("held_out/gap_bpb", 40): 0.125,
    ("packed/total", 40): 1234567,
}


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], float] = {}

    def figures(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            assert (name, step) not in self.seen
            self.seen[name, step] = value

    def close(self) -> None: ...


def write(folder: Path, records: list[dict[str, Any]]) -> None:
    with open(folder / "train.jsonl", "a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def flags(*argv: str) -> argparse.Namespace:
    parser = OneLineParser(prog="seedgram log")
    log.add_flags(parser)
    return parser.parse_args(argv)


def test_every_figure_is_given_once_with_its_step(tmp_path: Path) -> None:
    write(tmp_path, RECORDS)
    kept = Kept()
    assert follow.hand_over(follow.records(tmp_path, follow=False), [kept]) == 6
    assert kept.seen == FIGURES


def test_a_log_is_followed_until_the_run_is_packed_and_half_a_line_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path, RECORDS[:3])
    kept, third = Kept(), threading.Event()
    found = follow.records(tmp_path, follow=True, poll_s=0.01)

    def go_on() -> None:
        third.wait(30)
        with open(tmp_path / "train.jsonl", "a") as file:
            for text in (json.dumps(RECORDS[3])[:20], json.dumps(RECORDS[3])[20:] + "\n"):
                file.write(text)
                file.flush()
        write(tmp_path, RECORDS[4:])

    def told() -> Any:
        for number, record in enumerate(found):
            if number == 2:
                third.set()
            yield record

    writer = threading.Thread(target=go_on)
    writer.start()
    follow.hand_over(told(), [kept])
    writer.join()
    assert kept.seen == FIGURES


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own, of protobuf
def test_tensorboard_reads_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, RECORDS)
    assert log.run(flags(str(tmp_path), "--tensorboard", str(tmp_path / "events"))) == 0
    assert "6 records handed over" in capsys.readouterr().out
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    read = {(name, scalar.step): scalar.value for name in events.Tags()["scalars"] for scalar in events.Scalars(name)}
    assert read == pytest.approx(FIGURES)


def test_wandb_is_given_the_same_figures_and_stays_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `init` is ours either way; where wandb is not installed, so is its record of settings."""
    wandb: Any = importlib.import_module("wandb") if find_spec("wandb") else types.SimpleNamespace(Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    asked: dict[str, Any] = {}
    kept = Kept()

    class Run:
        def log(self, figures: dict[str, float], step: int) -> None:
            kept.figures(step, figures)

        def finish(self) -> None:
            asked["finished"] = True

    monkeypatch.setattr(wandb, "init", lambda **settings: asked.update(settings) or Run(), raising=False)
    write(tmp_path, RECORDS)
    assert log.run(flags(str(tmp_path), "--wandb-offline", str(tmp_path / "w"))) == 0
    assert kept.seen == FIGURES
    assert asked["mode"] == "offline" and asked["config"] == RECORDS[0]["config"] and asked["finished"] and Path(asked["dir"]).is_dir()


def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --tensorboard DIR or --wandb-offline DIR"):
        log.run(flags(str(tmp_path)))
    with pytest.raises(SeedgramError, match=r"train\.jsonl: no such file"):
        log.run(flags(str(tmp_path), "--tensorboard", str(tmp_path)))
