"""python -m ngram train|score|merge|prune|info|arpa|warm-up — the n-gram model alone, from the command line.  See --help of each."""

import argparse

from ngram.cli.parser import build_parser, options_of
from ngram.errors import run_cli
from ngram.terminal import carry_out


def main() -> int:
    """Parses the command line and carries it out."""
    return carry_out(run, build_parser().parse_args())


def run(flags: argparse.Namespace) -> int:
    asked = options_of(flags)
    from ngram.cli import commands  # numba loads here, and not for --help

    commands.carry_out(asked)
    return 0


if __name__ == "__main__":
    run_cli(main)
