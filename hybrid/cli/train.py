"""Command line of training, for train_gpt.py and `seedgram train`: flags over the challenge's environment names over a preset."""

import argparse
import json
import os
from collections.abc import Mapping
from contextlib import closing

from hybrid.parallel.device import add_device_flag
from hybrid.settings import presets
from hybrid.settings.challenge_env import challenge_settings
from hybrid.settings.config import Config, override
from hybrid.settings.config import add_flags as add_settings
from ngram.terminal import OneLineParser, UsageError, carry_out, folder, output

NEEDED = ("data", "tokenizer", "out")
EPILOG = "Defaults in brackets are those of a new configuration; --preset P --describe prints a preset's own values."


def settings_of(flags: argparse.Namespace, environment: Mapping[str, str]) -> Config:
    """What flags and environment say; places that only the environment names are filled in.  Raises UsageError or ConfigError."""
    outside = challenge_settings(environment)
    for name in NEEDED:
        setattr(flags, name, getattr(flags, name) or outside.get(name))
    given = {**outside, **vars(flags)}
    if "train.steps" in given and "train.seconds" not in given:
        given["train.seconds"] = 0.0  # a run of N steps does not look at the clock
    settings = override(presets.get(flags.preset), given)
    if flags.rank_timeout is not None and not 0 < flags.rank_timeout < 1e6:
        raise UsageError(f"--rank-timeout {flags.rank_timeout} must be above 0 and below a million seconds; see {flags.prog} --help")
    missing = [f"--{name}" for name in NEEDED if not getattr(flags, name)]
    if missing and not flags.describe:
        raise UsageError(f"{' '.join(missing)} missing; see {flags.prog} --help")
    return settings


def make_parser() -> argparse.ArgumentParser:
    about = "Trains a hybrid language model under a byte budget and packs it into one artifact."
    parser = OneLineParser(prog="train_gpt.py", description=about, epilog=EPILOG)
    add_flags(parser)
    return parser


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What a run needs first, then every setting."""
    parser.set_defaults(prog=parser.prog)
    parser.add_argument("--preset", choices=presets.names(), default="seed1095", help="system to train [seed1095]")
    parser.add_argument("--data", help="folder of shards")
    parser.add_argument("--tokenizer", help="SentencePiece model of the shards")
    parser.add_argument("--out", type=folder, help="run folder, written to")
    resume = "continue from RUN/checkpoint.bin (a finished run that kept it is only packed again); auto: or start from the beginning where there is none"
    parser.add_argument("--resume", nargs="?", const="yes", choices=("yes", "auto"), help=resume)
    parser.add_argument("--allow-overlap", action="store_true", help="train although validation documents are training documents too")
    add_device_flag(parser, purpose="where to train")
    parser.add_argument("--rank-timeout", type=float, metavar="S", help="a rank silent for so long is taken for dead; s [45]")
    parser.add_argument("--no-score", action="store_true", help="leave scoring the packed artifact to eval.py")
    parser.add_argument("--keep-checkpoint", action="store_true", help="leave RUN/checkpoint.bin, to pack again or for scripts/bench/quant.py")
    parser.add_argument("--describe", action="store_true", help="print the preset's parameter counts and settings as JSON and stop")
    parser.add_argument("--json", type=output, metavar="F", help="write what summary.json says there too")
    add_settings(parser)


def run(flags: argparse.Namespace) -> int:
    """Prints a description, or trains; the exit code says whether a signal stopped the run."""
    settings = settings_of(flags, os.environ)
    from hybrid.model.parameters import describe  # torch loads here, and not for --help
    from hybrid.parallel import failures, ranks
    from hybrid.scoring import report
    from hybrid.training.checkpoint import INTERRUPTED
    from hybrid.training.inputs import Places
    from hybrid.training.run import train
    from ngram.compiled import KernelCache

    if flags.describe:
        print(json.dumps(describe(settings), indent=1))
        return 0
    places = Places(**{name: getattr(flags, name) for name in Places.__dataclass_fields__})
    with closing(ranks.start(flags.device, flags.rank_timeout or ranks.TIMEOUT_S)) as here, failures.together(here), failures.memory_errors():
        here.keep_memory()
        KernelCache.announces = here.is_first
        summary = train(settings, places, here)
        if here.is_first:
            report.write_json(flags.json, summary)
    return INTERRUPTED if summary["interrupted"] else 0


def main() -> int:
    return carry_out(run, make_parser().parse_args())
