"""What a run leaves on disk, read for a report: the log's curves and clock, the artifact's sections, and the JSON files beside them.

    RUN/train.jsonl     written by training: curves, seconds of every phase
    RUN/artifact.bin    settings and sections with their sizes
    RUN/summary.json    written by training; its scores stand in where there is no eval.json
    RUN/eval.json       of `seedgram eval --json`
    RUN/audit.json      of `seedgram audit --json`
    RUN/ablation.json   of scripts/bench/ablation.py --json

Only artifact.bin has to be there; a report says what is missing.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.storing.artifact import MAGIC, VERSION
from ngram import container
from ngram.container import read_bytes
from ngram.errors import FileFormatError

LOG, ARTIFACT = "train.jsonl", "artifact.bin"
BESIDE = ("summary", "eval", "audit", "ablation")
PHASES = ("merged", "quantised", "compressed", "held out", "table", "cache", "gate", "reloaded", "scored")  # events with their seconds
CURVES = ("step", "val")
MOST_POINTS = 400  # of a curve: more than a screen can show


@dataclass(frozen=True)
class RunFolder:
    """One run, as it lies on disk.

    start: the log's first record (commit, device, versions), {} without a log.  steps, vals: records of training and validation loss
    in the order of steps.  clock: seconds of each phase of training.  sections: bytes of each section of the artifact.
    config: the artifact's settings.  scores: the result of an evaluation, None where there is none.  beside: the JSON files that are there."""

    path: Path
    start: dict[str, Any]
    steps: list[dict[str, Any]]
    vals: list[dict[str, Any]]
    events: dict[str, dict[str, Any]]
    clock: dict[str, float]
    sections: dict[str, int]
    config: dict[str, Any]
    beside: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def artifact(self) -> Path:
        return self.path / ARTIFACT

    @property
    def scores(self) -> dict[str, Any] | None:
        found = self.beside.get("eval") or self.beside.get("summary", {}).get("scores")
        return found if isinstance(found, dict) and "blended_bpb" in found else None


def read_run(path: Path) -> RunFolder:
    """Raises SeedgramError naming the file that is missing or cannot be read."""
    config, sections = artifact_sections(path / ARTIFACT)
    records = list(read_log(path / LOG)) if (path / LOG).exists() else []
    latest = of_last_run(records)
    events = {record["event"]: record for record in latest}
    beside = {name: _read_json(path / f"{name}.json") for name in BESIDE if (path / f"{name}.json").exists()}
    return RunFolder(
        path,
        next((record for record in latest if record["event"] == "start"), {}),
        [record for record in latest if record["event"] == "step"],
        [record for record in latest if record["event"] == "val"],
        events,
        clock_of(events),
        sections,
        config,
        beside,
    )


def artifact_sections(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """(settings, {section: bytes}) of an artifact; "header" is what the file has beside its sections."""
    data = read_bytes(path)
    header, packed = container.unpack(data, MAGIC, VERSION, str(path))
    sizes = {name: len(section) for name, section in packed.items()}
    if not isinstance(header.get("config"), dict):
        raise FileFormatError(f"{path}: no settings in its header; pack it again")
    return header["config"], {**sizes, "header": len(data) - sum(sizes.values())}


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a log, one a line.  A last line that was cut off, as by a full disk, is left out; raises FileFormatError for any other."""
    lines = read_bytes(path).decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record.get("event"), str):
                raise ValueError("no event")
        except (ValueError, AttributeError):
            following = lines[number].strip() if number < len(lines) else '{"event": "start"'
            if following.startswith('{"event": "start"'):
                continue
            raise FileFormatError(f"{path}: line {number} is no record of a training run; give the folder of a run") from None
        yield record


def of_last_run(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of the run that the folder's artifact is from: a folder that was trained into again has several runs in one log.

    A resumed run begins with a start record as well, and then says from which step it goes on: what an interrupted run had
    logged behind that step was trained again and is left out."""
    parts: list[list[dict[str, Any]]] = []
    for record in records:
        if record["event"] == "start" or not parts:
            parts.append([])
        parts[-1].append(record)
    out = list[dict[str, Any]]()
    for part in parts:
        resumed = next((record.get("step", 0) for record in part if record["event"] == "resume"), None)
        if resumed is not None:
            out = [old for old in out if old["event"] not in CURVES or old.get("step", 0) <= resumed] + part[1:]
        elif not out or any(record["event"] != "start" for record in part):  # one that ended before its first record left the files alone
            out = part
    return out


def clock_of(events: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of each phase of training, in the order in which they come."""
    trained = events.get("trained", {})
    found = {"warm-up": trained.get("warmup_s"), "training": trained.get("wall_s")}
    found |= {name: events[name].get("seconds") for name in PHASES if name in events}
    return {name: float(seconds) for name, seconds in found.items() if isinstance(seconds, (int, float)) and math.isfinite(seconds)}


def thinned(points: list[dict[str, Any]], most: int = MOST_POINTS) -> list[dict[str, Any]]:
    """At most `most` of the points, evenly apart, the last one among them."""
    step = max(1, math.ceil(len(points) / most))
    return points[::-step][::-1]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError):
        raise FileFormatError(f"{path}: no JSON; make it again, or remove it") from None
