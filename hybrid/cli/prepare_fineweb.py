"""Command line of `seedgram prepare fineweb`: the challenge's published shards, with their tokenizer, from the Hugging Face hub.

    seedgram prepare fineweb --variant sp1024 --train-shards 10 --out data/sp1024
"""

import argparse
import sys
import time
from typing import Any

from hybrid.cli.fetching import progress
from hybrid.data import fineweb
from hybrid.data.fineweb import FinewebConfig
from ngram.terminal import folder, warn


def add_flags(parser: argparse.ArgumentParser) -> None:
    default = FinewebConfig("")
    parser.add_argument("--out", type=folder, required=True, help="folder of the shards; a second call goes on where a first one was cut off")
    parser.add_argument("--variant", default=default.variant, help="tokenizer family, such as sp1024 or sp8192 [%(default)s]")
    parser.add_argument("--train-shards", type=int, default=default.train_shards, metavar="N", help="of 100,000,000 tokens, from the first on [%(default)s]")
    parser.add_argument("--dataset", default=default.dataset, metavar="OWNER/NAME", help="where it is published [%(default)s]")
    parser.add_argument("--root", default=default.root, metavar="DIR", help="folder of manifest.json there [%(default)s]")
    parser.add_argument("--revision", default=default.revision, help="branch, tag or commit there [%(default)s]")


def run(flags: argparse.Namespace) -> int:
    """Fetches, with the rate and the time left on a terminal, and prints one line a split."""
    config = FinewebConfig(flags.out, flags.variant, flags.train_shards, flags.dataset, flags.root, flags.revision)
    began = time.monotonic()
    with progress(sys.stderr) as report:
        manifest = fineweb.fetch(config, report)
    show(config, manifest, time.monotonic() - began)
    return 0


def show(config: FinewebConfig, manifest: dict[str, Any], wall_s: float) -> None:
    for split, figures in manifest["splits"].items():
        told = f"{figures['documents']:>9,} documents  {figures['tokens']:>13,} tokens  {figures['bytes']:>13,} bytes as the challenge counts them"
        print(f"{split:5}  {told}")
    if manifest["overlap"]:
        warn(f"{config.out}: {manifest['overlap']:,} validation documents are training documents too, as published; figures will be too good")
    print(f"{config.out}: {'already there' if manifest.get('skipped') else 'written'}, {config.dataset} at {manifest['commit'][:12]}, {wall_s:.1f} s")
