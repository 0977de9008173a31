"""Command line of `seedgram compress` and `seedgram decompress`."""

import argparse
import sys
from typing import Any

from hybrid.coding import compress
from hybrid.loading import loading
from hybrid.parallel.device import add_device_flag
from hybrid.scoring import report
from ngram.container import STANDARD
from ngram.terminal import output


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_common_flags(parser)
    portable = "n-grams and match model alone, in whole numbers: larger, and any machine can decode it"
    parser.add_argument("--portable", action="store_true", help=portable)
    add_device_flag(parser, "cpu")


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """What compress and decompress both have."""
    parser.add_argument("source", metavar="IN", help="file to read; - for standard input")
    parser.add_argument("-o", "--out", type=output, required=True, help="file to write; - for standard output")
    parser.add_argument("--artifact", required=True, help="artifact.bin of a run")
    parser.add_argument("--json", type=output, metavar="F", help="write the figures there; - for standard output")


def run(flags: argparse.Namespace) -> int:
    with loading():
        from hybrid.parallel import ranks  # torch loads here, and not for --help
    return told(flags, compress.compress(flags.source, flags.out, flags.artifact, ranks.start(flags.device), anywhere=flags.portable))


def told(flags: argparse.Namespace, result: dict[str, Any]) -> int:
    """Writes and prints the figures."""
    report.write_json(flags.json, result)
    said = sys.stderr if flags.out == STANDARD else sys.stdout
    print(f"{flags.out}: {result['bytes']:,} bytes, compressed {result['file_bytes']:,}; {result['tokens_per_s']:,.0f} tokens/s", file=said)
    return 0
