"""Command line of `seedgram log`.

    seedgram log RUN --tensorboard DIR [--follow]
    seedgram log RUN --wandb-offline DIR [--follow]
"""

import argparse
from itertools import chain
from pathlib import Path

from hybrid.reporting import follow
from ngram.terminal import UsageError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Every flag of the command."""
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--tensorboard", metavar="DIR", help="write TensorBoard's event files there")
    parser.add_argument("--wandb-offline", metavar="DIR", help="write a run of Weights & Biases there; nothing is sent until you call wandb sync")
    parser.add_argument("--follow", action="store_true", help="go on while the run trains, until it is packed or Ctrl-C")


def run(flags: argparse.Namespace) -> int:
    """Hands the log over; with --follow until the run is packed."""
    if not (flags.tensorboard or flags.wandb_offline):
        raise UsageError("nowhere to hand the log to: give --tensorboard DIR or --wandb-offline DIR; see seedgram log --help")
    folder = Path(flags.run)
    found = follow.records(folder, follow=flags.follow)
    first = next(found, {})
    sinks: list[follow.Sink] = []
    try:
        if flags.tensorboard:
            sinks.append(follow.TensorBoard(flags.tensorboard, first.get("config", {})))
        if flags.wandb_offline:
            sinks.append(follow.WandbOffline(flags.wandb_offline, first.get("config", {}), folder.resolve().name))
        given = follow.hand_over(chain([first] if first else [], found), sinks)
    finally:
        for sink in sinks:
            sink.close()
    print(f"{folder}: {given:,} records handed over")
    return 0
