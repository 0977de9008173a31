"""What finished runs say of themselves: artifact, log, summary and score of each, held against one another.

A run folder holds artifact.bin, train.jsonl and summary.json of train_gpt.py.  The score that is claimed is that of RUN/eval.json
(`eval.py --artifact RUN/artifact.bin --data D --json RUN/eval.json`, with any options) where there is one, else summary.json's own.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.scoring.options import AdaptConfig, EvalOptions
from hybrid.settings import presets
from hybrid.settings.config import GROUPS, Config
from hybrid.storing import artifact
from ngram.container import read_bytes
from ngram.errors import FileFormatError, SeedgramError

ARTIFACT, LOG, SUMMARY, CLAIM, MACHINE = "artifact.bin", "train.jsonl", "summary.json", "eval.json", "machine.json"
# Phases of packing that read training text: the challenge counts their seconds as training, those of mere compression not (its issue #677)
READS_TRAINING = ("quantised", "gate")


@dataclass(frozen=True)
class Run:
    """One run.  header: the log's first line of its last start; phases: {phase of packing: seconds}; claim: the result of eval.py."""

    folder: Path
    settings: dict[str, Any]
    tokenizer: bytes
    size_bytes: int
    header: dict[str, Any]
    summary: dict[str, Any]
    phases: dict[str, float]
    claim: dict[str, Any]

    @property
    def seed(self) -> int:
        return int(self.settings["train"]["seed"])

    @property
    def bpb(self) -> float:
        return float(self.claim["blended_bpb"])

    @property
    def loss_nats(self) -> float:
        """Mean over the targets of the score that is claimed."""
        return self.bpb * math.log(2) * float(self.claim["bytes"]) / float(self.claim["tokens"])

    @property
    def training_s(self) -> float:
        """Seconds of training as the challenge counts them: the loop, and the phases of packing that read training text."""
        read = [name for name in READS_TRAINING if name == "gate" or self.settings["quant"]["gptq_tokens"]]
        return float(self.summary["wall_s"]) + sum(self.phases.get(name, 0.0) for name in read)

    def options(self) -> EvalOptions:
        """How the claimed score was made."""
        names = {field.name for field in dataclasses.fields(EvalOptions)} - {"adapt"}
        adapt = self.claim["adapt"]
        return EvalOptions(**{name: self.claim[name] for name in names}, adapt=AdaptConfig(**adapt) if adapt else None)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_bytes(path))
    except ValueError:
        raise FileFormatError(f"{path}: is no JSON; make it again") from None
    if not isinstance(value, dict):
        raise FileFormatError(f"{path}: holds no object; make it again")
    return value


def read_log(path: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """(the last "start" record, seconds of each phase after it) of a train.jsonl.  Raises FileFormatError."""
    try:
        records = [json.loads(line) for line in read_bytes(path).splitlines() if line.strip()]
        start = max(place for place, record in enumerate(records) if record["event"] == "start")
    except (ValueError, KeyError, TypeError):
        raise FileFormatError(f"{path}: is no log of train_gpt.py; give the folder that it wrote") from None
    return records[start], {record["event"]: float(record["seconds"]) for record in records[start:] if "seconds" in record}


def read_run(folder: Path) -> Run:
    """Reads a run and checks that its files belong together.  Raises SeedgramError naming the file and the remedy."""
    art = artifact.load(folder / ARTIFACT)
    header, phases = read_log(folder / LOG)
    summary, settings = _json(folder / SUMMARY), _plain(art.config)
    claim = _json(folder / CLAIM) if (folder / CLAIM).exists() else summary.get("scores")
    if not claim:
        raise SeedgramError(
            f"{folder}: was not scored; run eval.py --artifact {folder / ARTIFACT} --data … --json {folder / CLAIM}, with the options you submit"
        )
    run = Run(folder, settings, art.tokenizer, art.size_bytes, header, summary, phases, claim)
    try:
        told = {"seed": (claim["seed"], run.seed), "preset": (claim["preset"], settings["preset"]), "size": (claim["artifact_bytes"], art.size_bytes)}
        packed = summary["bytes"]["total"] - summary["bytes"]["code"]
        run.options(), run.loss_nats, run.training_s
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{folder}: its summary or score lacks what is needed ({error}); score it again with this version") from None
    for what, (claimed, found) in told.items():
        if claimed != found:
            raise SeedgramError(f"{folder}: its score is of another artifact ({what} {claimed}, the artifact's {found}); score it again")
    if packed != art.size_bytes or header.get("config") != art.header["config"]:
        raise SeedgramError(f"{folder}: log or summary are of another run than {ARTIFACT}; give a folder that one run wrote")
    return run


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Runs of one system with different seeds, scored alike.  Raises SeedgramError when they are not."""
    runs = [read_run(folder) for folder in folders]
    seeds = [run.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise SeedgramError(f"{folders[0].parent}: seeds {seeds}: every run needs a seed of its own; train again with --seed")
    first = runs[0]
    for run in runs[1:]:
        if _without_seed(run.settings) != _without_seed(first.settings):
            raise SeedgramError(f"{run.folder}: has other settings than {first.folder}, beyond the seed; submit runs of one system")
        if run.options() != first.options() or (run.claim["tokens"], run.claim["bytes"]) != (first.claim["tokens"], first.claim["bytes"]):
            raise SeedgramError(f"{run.folder}: was scored otherwise than {first.folder}; score all runs with the same options on the same text")
        if run.tokenizer != first.tokenizer or run.header.get("data") != first.header.get("data"):
            raise SeedgramError(f"{run.folder}: was trained on other data than {first.folder}; submit runs on the same shards")
    return runs


def _plain(config: Config) -> dict[str, Any]:
    """As a log or a header holds it: tuples are lists there."""
    plain: dict[str, Any] = json.loads(json.dumps(config.to_json()))
    return plain


def train_flags(settings: dict[str, Any]) -> list[str]:
    """The flags of train_gpt.py that say these settings: a preset, and whatever differs from it."""
    preset = settings["preset"] if settings["preset"] in presets.names() else presets.names()[0]
    base, words = _plain(presets.get(preset)), ["--preset", preset]
    for group in GROUPS:
        for name, value in settings[group].items():
            flag = name.replace("_", "-")
            if value == base[group][name]:
                continue
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    return words


def _without_seed(settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "train": {**settings["train"], "seed": None}}
