"""--ranks of `seedgram audit` and `seedgram certify`: how many processes print the figure that is proven."""

import argparse
import os

from ngram.terminal import UsageError


def add_ranks_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="processes that eval.py is run with, by torchrun [1]")


def ranks_of(flags: argparse.Namespace) -> int:
    """What that flag says.  Raises UsageError where this process is itself one of several."""
    if flags.ranks < 1:
        raise UsageError("--ranks must be at least 1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a proof is one process, and starts those that it examines: leave torchrun away and give --ranks N")
    return int(flags.ranks)
