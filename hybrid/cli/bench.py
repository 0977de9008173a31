"""Command line of `seedgram bench`: a fingerprint of this machine's speed, so that two people can compare runs.

    seedgram bench [--device cuda|cpu] [--json RUN/machine.json]
"""

import argparse
from pathlib import Path

from hybrid.parallel import ranks
from hybrid.parallel.device import add_device_flag
from hybrid.submitting import machine
from ngram.json_line import emit_json
from ngram.terminal import UsageError, output


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_device_flag(parser, purpose="what to measure")
    parser.add_argument("--rounds", type=int, default=machine.ROUNDS, metavar="N", help="of each workload; the median is reported [%(default)s]")
    parser.add_argument("--json", type=output, metavar="F", help="write it there, too; `seedgram submit` looks for machine.json in the run's folder")


def run(flags: argparse.Namespace) -> int:
    if flags.rounds < 1:
        raise UsageError("--rounds must be at least 1; see seedgram bench --help")
    emit_json(machine.measure(ranks.start(flags.device).device, flags.rounds), Path(flags.json) if flags.json else None)
    return 0
