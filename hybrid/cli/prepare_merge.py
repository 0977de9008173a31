"""Command line of `seedgram prepare merge`: the parts that `seedgram prepare --part I/N` made become one folder.

    seedgram prepare merge PART_1 … PART_N --out DIR
"""

import argparse
import os
import time
from pathlib import Path

from hybrid.cli.prepare import show, shown
from hybrid.data import prepared
from hybrid.data.assemble import assemble
from hybrid.data.prepare import check_out
from hybrid.data.shards import DataError
from ngram.terminal import folder


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parts", nargs="+", metavar="PART", help="folders of all parts, in any order")
    parser.add_argument("--out", type=folder, required=True, metavar="DIR", help="folder for shards, tokenizer.model and manifest.json")


def run(flags: argparse.Namespace) -> int:
    """Joins the parts, and prints what `seedgram prepare` prints; the parts stay as they are."""
    check_out(flags.out)
    if missing := [part for part in flags.parts if not os.path.isdir(part)]:
        raise DataError(f"{missing[0]}: there is no such folder, so it holds no complete part; run seedgram prepare --part for it")
    began, out = time.monotonic(), Path(flags.out)
    prepared.refuse_foreign(out)
    show(flags.out, shown(lambda report: assemble([Path(part) for part in flags.parts], out, report)), time.monotonic() - began)
    return 0
