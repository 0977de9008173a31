"""Command line of `seedgram decompress`."""

import argparse

from hybrid.cli.compress import add_common_flags, told
from hybrid.coding import compress
from ngram.terminal import output


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_common_flags(parser)
    parser.add_argument("--tokens", type=output, metavar="F", help="write the decoded tokens there, little-endian uint16")


def run(flags: argparse.Namespace) -> int:
    return told(flags, compress.decompress(flags.source, flags.out, flags.artifact, flags.tokens))
