"""A run's log handed to the tools people watch training with: TensorBoard, Weights & Biases.

Training itself writes one log, train.jsonl, and knows none of these tools: they would be counted as code, and a slow disk or a broken
service could hold it up.  This reads the log beside it, or after it, on this machine or another, and hands over the same figures.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from hybrid.extras import missing
from hybrid.reporting.run_folder import LOG, of_last_run, read_log
from ngram.errors import SeedgramError

POLL_S = 1.0
LAST = "packed"  # the event after which a log says no more
CLOCKS = {"event", "at_s", "step", "progress"}  # where a figure stands, not figures


class Sink(Protocol):
    """Takes figures.  config: the run's settings; figures: {name: number} at a step."""

    def figures(self, step: int, figures: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def records(folder: Path, *, follow: bool, poll_s: float = POLL_S) -> Iterator[dict[str, Any]]:
    """The records of the folder's last run; with `follow` also those that come, until the run is packed.

    Raises SeedgramError where there is no log."""
    path = folder / LOG
    if not path.exists():
        raise SeedgramError(f"{path}: no such file; give the folder of a run that has begun")
    known = list(read_log(path))
    yield from of_last_run(known)
    if not follow or (known and known[-1]["event"] == LAST):
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        begun, seen = "", 0
        while True:
            begun += file.readline()
            if not begun.endswith("\n"):
                time.sleep(poll_s)
                continue
            seen, line, begun = seen + 1, begun, ""
            if seen <= len(known):
                continue
            record = json.loads(line)
            yield record
            if record["event"] == LAST:
                return


def hand_over(found: Iterator[dict[str, Any]], sinks: Sequence[Sink]) -> int:
    """Gives every figure of the records to the sinks: "step/loss_nats", "val/loss_nats", "trained/wall_s", …; how many records had some."""
    step = given = 0
    for record in found:
        step = int(record.get("step", record.get("steps", step)))
        figures = {
            f"{record['event'].replace(' ', '_')}/{name}": float(value)
            for name, value in record.items()
            if name not in CLOCKS and isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        if figures and record["event"] != "start":
            given += 1
            for sink in sinks:
                sink.figures(step, figures)
    return given


class TensorBoard:
    """Event files in a folder, by the tensorboard package; look at them with `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: str, config: dict[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing("tensorboard") from None
        self._writer = SummaryWriter(folder)
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=1)}\n```")

    def figures(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbOffline:
    """A Weights & Biases run on disk, which nothing leaves until its owner calls `wandb sync`."""

    def __init__(self, folder: str, config: dict[str, Any], name: str) -> None:
        try:
            import wandb
        except ImportError:
            raise missing("wandb") from None
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(mode="offline", dir=folder, project="seedgram", name=name, config=config, settings=wandb.Settings(silent=True))

    def figures(self, step: int, figures: dict[str, float]) -> None:
        self._run.log(figures, step=step)

    def close(self) -> None:
        self._run.finish()
