"""`hybrid.train`: what train_gpt.py does, from Python."""

import dataclasses
import os
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

from hybrid.api.model import Model
from hybrid.parallel import failures, ranks
from hybrid.settings import presets
from hybrid.settings.config import GROUPS, Config, ConfigError, override
from hybrid.training.inputs import Places
from hybrid.training.run import train as train_run
from ngram.errors import SeedgramError


def train(
    preset: str,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    allow_overlap: bool = False,
    **settings: Any,
) -> Model:
    """Trains a preset on a folder of shards, packs it, and returns it as it was reloaded from OUT/artifact.bin.

    data: a folder that `seedgram prepare` has made.  tokenizer: its SentencePiece model, by default DATA/tokenizer.model.  out: the run's
    folder, which also gets train.jsonl and summary.json (figures, sizes, speeds).  settings: those of `seedgram train --help`, by the names
    of their flags with _ for -: seconds=60, layers=4.  allow_overlap: train
    although validation documents are training documents too.  One process; several ranks are torchrun's business.
    Raises SeedgramError, naming file or setting; also where a signal stopped the run, which resume=True then goes on with."""
    chosen = override(presets.get(preset), dotted(settings))
    given = Path(tokenizer) if tokenizer is not None else Path(data) / "tokenizer.model"
    places = Places(os.fspath(data), os.fspath(given), os.fspath(out), resume="yes" if resume else None, allow_overlap=allow_overlap, no_score=True)
    if threading.current_thread() is not threading.main_thread():
        raise SeedgramError("hybrid.train listens for Ctrl-C and SIGTERM, which Python tells the main thread alone; call it there")
    with closing(ranks.start(device)) as here, failures.memory_errors():
        if here.world > 1:
            raise SeedgramError("hybrid.train is for one process; start several with torchrun train_gpt.py")
        summary = train_run(chosen, places, here)
    if summary["interrupted"]:
        raise SeedgramError(
            f"{out}: stopped by a signal after step {summary['steps']:,}; its checkpoint holds all of it, go on with resume=True"
        )
    return Model(Path(out) / "artifact.bin", device)


def dotted(settings: dict[str, Any]) -> dict[str, Any]:
    """{"seconds": 60} → {"train.seconds": 60.0}; as in the command line, steps without seconds do not look at the clock.

    Raises ConfigError for a name that no setting has."""
    homes = {field.name: (group, field.default) for group in GROUPS for field in dataclasses.fields(getattr(Config(), group))}
    unknown = sorted(set(settings) - set(homes))
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: no such setting; see seedgram train --help, with _ for -")
    if "steps" in settings:
        settings = {"seconds": 0.0, **settings}
    typed = {}
    for name, value in settings.items():
        group, default = homes[name]
        if type(default) is float and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise ConfigError(f"{name}: expected {type(default).__name__}, found {value!r}")
        typed[f"{group}.{name}"] = value
    return typed
