#!/usr/bin/env python3
"""Makes training and validation shards from text.

python scripts/prepare_data.py --embedded --out data/docs
python scripts/prepare_data.py book.txt --vocab-size 1024 --out data/book
python scripts/prepare_data.py train.jsonl.xz --val val.jsonl.xz --tokenizer fineweb_1024_bpe.model --out data/web
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from hybrid.config import OneLineParser
from hybrid.prepare import PrepareConfig, prepare
from ngram.errors import run_cli


def parse() -> PrepareConfig:
    """The settings from the command line; every default is PrepareConfig's."""
    default = PrepareConfig(out="")
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", help=".txt or .jsonl, plain or .xz .zst .gz, or folders of them")
    parser.add_argument("--embedded", action="store_true", help="the documentation inside CPython and NumPy instead of files")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for shards, tokenizer.model and manifest.json")
    parser.add_argument("--tokenizer", metavar="M", help="SentencePiece model to use; else a lossless BPE is trained")
    parser.add_argument(
        "--vocab-size", type=int, default=default.vocab_size, metavar="N", help="pieces of a trained tokenizer [%(default)s]"
    )
    parser.add_argument("--val", action="append", default=[], metavar="FILE", help="validation text; may be given again")
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=default.val_fraction,
        metavar="X",
        help="share of documents held out without --val [%(default)s]",
    )
    parser.add_argument("--seed", type=int, default=default.seed, metavar="N", help="seed of the order of training documents [%(default)s]")
    parser.add_argument("--name", default=default.name, help="first part of the shards' names [%(default)s]")
    parser.add_argument("--field", default=default.field, help="JSON key that holds the text [%(default)s]")
    values = vars(parser.parse_args())
    return PrepareConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def main() -> int:
    """Prepares and prints one line a split."""
    config, started = parse(), time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[what] = bar.add_task(what, total=total or None)
            bar.update(tasks[what], completed=done)

        manifest = prepare(config, report)
    print_summary(config, manifest, time.monotonic() - started)
    return 0


def print_summary(config: PrepareConfig, manifest: dict[str, Any], wall_s: float) -> None:
    """One aligned line a split, and the corpus hash where there is one."""
    if "corpus_sha256" in manifest:
        print(f"embedded corpus   sha256 {manifest['corpus_sha256']}")
    for split, figures in manifest["splits"].items():
        print(f"{split:5}  {figures['documents']:>9,} documents  {figures['tokens']:>13,} tokens  {figures['bytes']:>13,} bytes")
    print(f"{config.out}: {'already there' if manifest.get('skipped') else 'written'}, {wall_s:.1f} s")


if __name__ == "__main__":
    run_cli(main)
