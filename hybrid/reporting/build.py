"""From run folders to the figures of a report, as JSON: what the page, the terminal and programs show is this and nothing else."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hybrid import __version__
from hybrid.parallel.ranks import Ranks
from hybrid.reporting import groups, passages
from hybrid.reporting.run_folder import RunFolder, read_run, thinned
from hybrid.reporting.stretch import BLEND, read_stretch, rows_at
from hybrid.scoring.options import EvalOptions
from hybrid.storing import artifact
from ngram.errors import FileFormatError

MOST_DOCUMENTS = 1000  # that are listed; more are thinned
SCORES = ("neural_bpb", "ngram_bpb", "blended_bpb", "tokens", "bytes", "bytes_are", "artifact_bytes", "code_bytes", "total_bytes", "wall_s", "device")


@dataclass(frozen=True)
class Wanted:
    """options: of scoring the stretch, max_tokens its length.  calibrated: positions whose distributions are summed up for calibration."""

    options: EvalOptions
    calibrated: int


def build(runs: list[Path], data: list[str], wanted: Wanted, ranks: Ranks) -> dict[str, Any]:
    """The report on some runs.  data: validation shards, one folder for all runs or one a run; none: nothing is scored here.

    Raises FileFormatError or DataError naming what cannot be read."""
    folders = data if len(data) > 1 else data * len(runs)
    out = [_run(read_run(run), folders[place] if folders else None, wanted, ranks) for place, run in enumerate(runs)]
    names = [run["name"] for run in out]
    for place, run in enumerate(out):
        if names.count(run["name"]) > 1:
            run["name"] = f"{run['name']} ({place + 1})"
    return {"seedgram": __version__, "runs": out, "compared": compared(out)}


def _run(run: RunFolder, data: str | None, wanted: Wanted, ranks: Ranks) -> dict[str, Any]:
    scores, train = run.scores, run.config.get("train", {})
    found: dict[str, Any] = {
        "name": run.name,
        "preset": run.config.get("preset"),
        "seed": train.get("seed"),
        "commit": run.start.get("commit"),
        "device": run.start.get("device"),
        "world": run.start.get("world"),
        "trained": {key: value for key, value in run.events.get("trained", {}).items() if key not in ("event", "at_s")},
        "held_out": {key: value for key, value in run.events.get("held out", {}).items() if key.endswith("bpb")},
        "sections": run.sections,
        "clock": {"training": run.clock, "evaluation": _seconds(scores)},
        "scores": {key: scores[key] for key in SCORES if key in scores} if scores else None,
        "audit": _audit(run),
        "ablation": _ablation(run),
        "stretch": None,
    }
    if data is not None:
        found["stretch"] = stretch_json(run, data, wanted, ranks)
    ratio = _tokens_a_byte(found)
    found["curves"] = {"training": _curve(run.steps, ratio), "validation": _curve(run.vals, ratio, _clock_of_steps(run))}
    found["missing"] = _missing(found, run, data)
    return found


def stretch_json(run: RunFolder, data: str, wanted: Wanted, ranks: Ranks) -> dict[str, Any]:
    """Everything that is taken from the scores of a stretch."""
    art = artifact.load(run.artifact)
    stretch, rows = read_stretch(art, data, wanted.options, ranks, wanted.calibrated)
    chosen = passages.choose(stretch)
    shown = rows_at(art, stretch.tokens, wanted.options, ranks, passages.positions(chosen))
    documents = groups.by_document(stretch)
    whole = groups.group(stretch, slice(0, len(stretch.size_bytes)))
    return {
        "options": asdict(wanted.options),
        "bytes_are": stretch.bytes_are,
        **whole,
        "documents": len(documents),
        "by_order": groups.by_order(stretch),
        "by_position": groups.by_position(stretch),
        "by_document": thinned(sorted(documents, key=lambda document: document["gain"]), MOST_DOCUMENTS),
        "gate": groups.by_feature(stretch),
        "mean_weights": {name: float(weight_n.mean()) for name, weight_n in stretch.weights.items()},
        "calibration": groups.calibration(stretch.tokens, rows),
        "passages": passages.to_json(stretch, chosen, shown),
    }


def _seconds(scores: dict[str, Any] | None) -> dict[str, float]:
    """The work of an evaluation by part, and under "wall" what it took: parts go on side by side."""
    if not scores:
        return {}
    return {**scores.get("seconds", {}), "wall": scores["wall_s"]}


def _tokens_a_byte(found: dict[str, Any]) -> float | None:
    """Of validation text: turns a loss in nats a token into bits per byte."""
    for source in (found["scores"], found["stretch"]):
        if source and source["bytes"]:
            return float(source["tokens"]) / float(source["bytes"])
    return None


def _curve(records: list[dict[str, Any]], tokens_a_byte: float | None, clock: dict[int, float] | None = None) -> list[dict[str, Any]]:
    """[{"step", "wall_s", "loss_nats", "bpb"}]: bpb None where no text was scored, loss None where it was no number."""
    out = []
    for record in thinned(records):
        loss, step = record.get("loss_nats"), int(record.get("step", 0))
        loss = float(loss) if isinstance(loss, (int, float)) and math.isfinite(loss) else None
        bpb = loss / math.log(2) * tokens_a_byte if loss is not None and tokens_a_byte else None
        wall_s = record.get("wall_s", (clock or {}).get(step))
        out.append({"step": step, "wall_s": wall_s, "loss_nats": loss, "bpb": bpb, "tokens_per_s": record.get("tokens_per_s")})
    return out


def _clock_of_steps(run: RunFolder) -> dict[int, float]:
    """{step: seconds}, between logged steps by interpolation, for records that say their step alone."""
    steps, seconds = ([record[key] for record in run.steps] for key in ("step", "wall_s"))
    asked = [int(record["step"]) for record in run.vals]
    return dict(zip(asked, np.interp(asked, steps, seconds).tolist(), strict=True)) if steps and asked else {}


def _audit(run: RunFolder) -> dict[str, Any] | None:
    found = run.beside.get("audit")
    if found is None:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("verdicts"), dict):
        raise FileFormatError(f"{run.path / 'audit.json'}: not a result of seedgram audit --json; make it again, or remove it")
    return {key: found.get(key) for key in ("name", "passed", "positions", "verdicts", "z", "histogram")}


def _ablation(run: RunFolder) -> list[dict[str, Any]]:
    """[{"text", "part", "bpb", "change", "tokens_per_s"}]: each part with all above it."""
    out = []
    try:
        for text, rows in run.beside.get("ablation", {}).items():
            before: float | None = None
            for part, row in rows.items():
                change = None if before is None else float(row["bpb"]) - before
                out.append({"text": text, "part": part, "bpb": row["bpb"], "change": change, "tokens_per_s": row["tokens_per_s"]})
                before = row["bpb"]
    except (AttributeError, KeyError, TypeError):
        raise FileFormatError(f"{run.path / 'ablation.json'}: not a result of ablation.py --json; make it again, or remove it") from None
    return out


def _missing(found: dict[str, Any], run: RunFolder, data: str | None) -> list[str]:
    """What the report lacks, and what would bring it."""
    asked = f"--artifact {run.artifact} --data {data or 'DIR'} --json {run.path}"
    brings = {
        "curves and clock": (run.steps, "train.jsonl, which training writes, is not in the folder"),
        "score of the whole text": (found["scores"], f"seedgram eval {asked}/eval.json"),
        "audit": (found["audit"], f"seedgram audit {asked}/audit.json"),
        "ablation": (found["ablation"], f"scripts/bench/ablation.py --artifact {run.artifact} --data NAME={data or 'DIR'} --json {run.path}/ablation.json"),
        "everything by token": (found["stretch"], "seedgram report --data DIR"),
    }
    return [f"{what}: {how}" for what, (there, how) in brings.items() if not there]


def compared(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row of figures a run; the stretch's where there is one, "bpb" {"network", "n-grams", "blended"} of the whole text where it was scored."""
    rows = []
    for run in runs:
        scores, stretch, trained = run["scores"] or {}, run["stretch"] or {}, run["trained"]
        of_stretch = stretch.get("bpb", {})
        size = scores.get("total_bytes") or None
        rows.append(
            {
                "name": run["name"],
                **{key: run[key] for key in ("preset", "seed", "device")},
                "steps": trained.get("steps"),
                "train_s": trained.get("wall_s"),
                "train_tokens_per_s": trained.get("tokens_per_s"),
                "artifact_bytes": sum(run["sections"].values()),
                "total_bytes": size,
                "neural_bpb": scores.get("neural_bpb"),
                "ngram_bpb": scores.get("ngram_bpb"),
                "blended_bpb": scores.get("blended_bpb"),
                "stretch_bpb": of_stretch.get(BLEND),
                "stretch_bytes": stretch.get("bytes"),
            }
        )
    return rows
