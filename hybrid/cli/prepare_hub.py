"""Command line of `seedgram prepare hub`: shards from the texts of any data set on the Hugging Face hub.

    seedgram prepare hub OWNER/NAME [--subset S] [--split train] [--val-split validation] [--field text] [--limit-bytes N] --out DIR
"""

import argparse
import dataclasses
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from hybrid.cli.fetching import progress
from hybrid.cli.prepare import add_settings, config_of, show, shown
from hybrid.data import hub_text, prepared
from hybrid.data.hub_text import TextSource
from hybrid.data.manifest import read_manifest
from hybrid.data.prepare import PrepareConfig, prepare, settings_of
from hybrid.data.shards import DataError
from ngram.documents import input_files

COPIED = ".hub"  # in the folder of the shards, while they are not there


def add_flags(parser: argparse.ArgumentParser) -> None:
    default = TextSource("")
    parser.add_argument("dataset", metavar="OWNER/NAME", help="data set on the hub")
    parser.add_argument("--split", default=default.split, help="which of its splits becomes the text [%(default)s]")
    held_out = "which of its splits becomes the validation text, else --val-fraction of the text is held out"
    parser.add_argument("--val-split", default="", metavar="SPLIT", help=held_out)
    parser.add_argument("--subset", default=default.subset, help="which of its subsets, where it has several")
    parser.add_argument("--files", default=default.files, metavar="PATTERN", help="its own files of these names, such as 'en/*.json.gz', instead of a split")
    parser.add_argument("--revision", default=default.revision, help="branch, tag or commit there [%(default)s]")
    parser.add_argument("--limit-documents", type=int, default=default.limit_documents, metavar="N", help="read no more documents of a split, 0: all [0]")
    parser.add_argument("--limit-bytes", type=int, default=default.limit_bytes, metavar="N", help="stop at so much text of a split, 0: never; bytes [0]")
    add_settings(parser)


def run(flags: argparse.Namespace) -> int:
    """Copies the texts, prepares them, and prints one line a split; a second call goes on where a first one was cut off."""
    began, out = time.monotonic(), Path(flags.out)
    sources = _sources(flags)
    places = {split: out / COPIED / folder for split, folder in (("train", ""), ("val", "val")) if split in sources}
    config = config_of(flags, inputs=(str(places["train"] / hub_text.COPY),), kind="jsonl", field="text")
    config.check()
    wanted = _wanted(sources, config)
    manifest = read_manifest(out)
    if manifest.get("source") == wanted and prepared.is_whole(out, manifest):
        manifest["skipped"] = True
    else:
        prepared.refuse_foreign(out)
        commits = _copy(sources, places)
        if "val" in sources:
            config = dataclasses.replace(config, val=(str(places["val"] / hub_text.COPY),))
        manifest = {**shown(lambda report: prepare(config, report)), "source": wanted, "commits": commits}
        manifest.pop("skipped", None)
        prepared.write_manifest(out, manifest)
        shutil.rmtree(out / COPIED, ignore_errors=True)
    show(config.out, manifest, time.monotonic() - began)
    return 0


def _sources(flags: argparse.Namespace) -> dict[str, TextSource]:
    """{"train": what --split names, "val": what --val-split names, if anything}."""
    source = TextSource(**{field.name: getattr(flags, field.name) for field in dataclasses.fields(TextSource)})
    source.check()
    if not flags.val_split:
        return {"train": source}
    if flags.val or flags.files or flags.val_split == flags.split:
        raise DataError(f"--val-split {flags.val_split}: goes with neither --val nor --files, and is another split than --split {flags.split}")
    return {"train": source, "val": dataclasses.replace(source, split=flags.val_split)}


def _copy(sources: dict[str, TextSource], places: dict[str, Path]) -> dict[str, str]:
    """Copies the texts of each source; returns the commits that they are of.  Every split is looked for before any is read."""
    with progress(sys.stderr) as report:
        found = {split: hub_text.select(source) for split, source in sources.items()}
        for split, (there, remotes) in found.items():
            places[split].mkdir(parents=True, exist_ok=True)
            hub_text.copy(sources[split], there, remotes, places[split], report)
    return {split: there.commit for split, (there, _) in found.items()}


def _wanted(sources: dict[str, TextSource], config: PrepareConfig) -> dict[str, Any]:
    """What the folder's contents follow from, as the manifest keeps it: the sources, and the settings with digests of the files they name."""
    for path in config.val:
        if not os.path.isfile(path) and not os.path.isdir(path):
            raise DataError(f"--val {path}: is no file or folder; beside a data set of the hub, --val reads nothing else")
    with input_files(config.val, config.kind, names=config.names) as val:
        settings = settings_of(config, [], val)
    return {"hub": {split: dataclasses.asdict(source) for split, source in sources.items()}, "prepare": settings}
