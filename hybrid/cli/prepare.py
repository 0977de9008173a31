"""Command line of prepare_data: documents in, a folder of shards out."""

import argparse
import dataclasses
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hybrid.data.assemble import Report
from hybrid.data.manifest import CHALLENGE, LOSSY
from hybrid.data.prepare import PrepareConfig, prepare
from hybrid.data.splitting import OVERLAP
from hybrid.scoring.report import write_json
from ngram.documents import KINDS, KNOWN
from ngram.terminal import OneLineParser, carry_out, folder, output, warn

FEW_TOKENS = 2048  # of validation text: below, bits per byte move by tenths with the choice of the text
SHOWN_UNREAD = 5  # names of files that were not read, on screen


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Every flag of the command."""
    parser.epilog = "`seedgram prepare fineweb` and `seedgram prepare hub` fetch public data; a folder of such a name is ./fineweb."
    parser.add_argument("inputs", nargs="*", help=f"files ({KNOWN}), folders of them, pipes, - for standard input")
    parser.add_argument("--embedded", action="store_true", help="the documentation inside CPython and NumPy instead of files")
    kinds = sorted(set(KINDS.values()))
    parser.add_argument("--kind", choices=kinds, default=PrepareConfig.kind, help="what pipes and standard input hold [%(default)s]")
    parted = "encode only the I-th of N parts, into a folder of its own; `seedgram prepare merge` joins them"
    parser.add_argument("--part", type=part, default=(1, 1), metavar="I/N", help=parted)
    parser.add_argument("--json", type=output, metavar="F", help="write what manifest.json says there too; - for standard output")
    add_settings(parser)


def part(text: str) -> tuple[int, int]:
    """I/N of --part."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/8")
    return int(found[1]), int(found[2])


def add_settings(parser: argparse.ArgumentParser) -> None:
    """What every source of documents has in common; every default is PrepareConfig's."""
    default = PrepareConfig(out="")
    parser.add_argument("--out", type=folder, required=True, metavar="DIR", help="folder for shards, tokenizer.model and manifest.json")
    parser.add_argument("--tokenizer", metavar="M", help="SentencePiece model, tokenizer.json or Hugging Face folder to use; else a lossless BPE is trained")
    parser.add_argument(
        "--vocab-size", type=int, default=default.vocab_size, metavar="N", help="pieces of a trained tokenizer [%(default)s]"
    )
    parser.add_argument("--val", action="append", default=[], metavar="FILE", help="validation text; may be given again")
    share = "share of documents held out without --val [%(default)s]"
    parser.add_argument("--val-fraction", type=float, default=default.val_fraction, metavar="X", help=share)
    parser.add_argument("--seed", type=int, default=default.seed, metavar="N", help="seed of the order of training documents [%(default)s]")
    parser.add_argument("--name", default=default.name, help="first part of the shards' names [%(default)s]")
    parser.add_argument("--field", default=default.field, help="key or column that holds the text [%(default)s]")
    any_name = "read files of other names too (.log, .py, .md, none at all), each as plain text; in folders those that hold text"
    parser.add_argument("--any-name", action="store_true", help=any_name)
    parser.add_argument("--keep-duplicates", action="store_true", help="count a document as often as it is there; else once")
    overlap = "validation documents that are training documents too: an error, left out of training, or kept in both [%(default)s]"
    parser.add_argument("--overlap", choices=OVERLAP, default=default.overlap, help=overlap)
    challenge = (
        "encode through the tokenizer's own normaliser as the challenge's export does: loses what that loses, and counts bytes its way"
    )
    parser.add_argument("--challenge-encoding", action="store_true", help=challenge)
    loss = "with a tokenizer without byte pieces: leave out what it has no piece for, and say how much"
    parser.add_argument("--allow-loss", action="store_true", help=loss)


def run(flags: argparse.Namespace) -> int:
    """Prepares, shows progress on a terminal, and prints one line a split."""
    began = time.monotonic()
    number, parts = flags.part
    config = config_of(flags, inputs=tuple(flags.inputs), part=number, parts=parts)
    made = shown(lambda report: prepare(config, report))
    if parts > 1:
        told = f"{made['documents']:,} documents, {made['tokens']:,} tokens"
        print(f"{config.out}: part {number} of {parts}, {told}, {time.monotonic() - began:.1f} s; join all parts with seedgram prepare merge")
    else:
        show(config.out, made, time.monotonic() - began)
    write_json(flags.json, made)
    return 0


def config_of(flags: argparse.Namespace, **values: Any) -> PrepareConfig:
    """What the flags of `add_settings` say, with `values` for the rest."""
    given = {field.name: getattr(flags, field.name) for field in dataclasses.fields(PrepareConfig) if hasattr(flags, field.name)}
    return PrepareConfig(**given | {"val": tuple(flags.val)} | values)


def shown(work: Callable[[Report], dict[str, Any]]) -> dict[str, Any]:
    """What `work` returns; what it reports is a bar on a terminal meanwhile."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[what] = bar.add_task(what, total=total or None)
            bar.update(tasks[what], completed=done)

        return work(report)


def show(out: str, manifest: dict[str, Any], wall_s: float) -> None:
    """One aligned line a split, what was left out, and on standard error what a reader of a figure has to know."""
    if "corpus_sha256" in manifest:
        print(f"embedded corpus   sha256 {manifest['corpus_sha256']}")
    counted = " as the challenge counts them" if manifest["encoding"] == CHALLENGE else ""
    for split, figures in manifest["splits"].items():
        print(f"{split:5}  {figures['documents']:>9,} documents  {figures['tokens']:>13,} tokens  {figures['bytes']:>13,} bytes{counted}")
    for what, said in {
        "duplicates": "documents that were there before" + (", kept" if manifest["settings"]["keep_duplicates"] else ", left out"),
        "null": "rows without a text, left out",
        "empty": "empty documents, left out",
    }.items():
        if manifest["left_out"][what]:
            print(f"{manifest['left_out'][what]:>16,} {said}")
    if unread := manifest["files_not_read"]:
        more = ", …" if manifest["left_out"]["files"] > SHOWN_UNREAD else ""
        print(f"{manifest['left_out']['files']:>16,} files not read: {', '.join(unread[:SHOWN_UNREAD])}{more}")
    if manifest["overlap"]:
        what = "left out of training" if manifest["settings"]["overlap"] == "drop" else "trained on all the same: validation figures will be too good"
        warn(f"{out}: {manifest['overlap']:,} validation documents are training documents too, {what}")
    settings, val = manifest["settings"], manifest["splits"].get("val")
    if val and val["tokens"] < FEW_TOKENS and not settings["val"] and not settings["embedded"]:
        print(f"{val['tokens']:>16,} tokens to validate on are few, figures will be rough; --val-fraction holds out more, --val takes other text")
    if manifest["encoding"] == LOSSY:
        sizes = [sum(figures[key] for figures in manifest["splits"].values()) for key in ("bytes", "original_bytes")]
        warn(
            f"{out}: the tokenizer has no byte pieces and lost {1 - sizes[0] / sizes[1]:.2%} of {sizes[1]:,} bytes; figures are about the rest"
        )
    if manifest.get("replaced"):
        warn(f"{out}: held what was prepared from other text or with other settings; that is gone")
    print(f"{out}: {'already there' if manifest.get('skipped') else 'written'}, {wall_s:.1f} s")


def main(description: str | None = __doc__) -> int:
    """The command as a program of its own."""
    parser = OneLineParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    return carry_out(run, parser.parse_args())
