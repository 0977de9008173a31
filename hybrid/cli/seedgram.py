"""The one command `seedgram`: a table of commands, each a module that is imported only when its command runs.

A module of the table has `add_flags(parser)`, which says what the command takes, and `run(flags)`, which does it and returns the exit
code.  A flag `--json F` writes the figures as JSON; where a flag names "-" for an output, standard output holds that and nothing else.
"""

import argparse
import difflib
import importlib
import sys
from types import ModuleType
from typing import NamedTuple

from hybrid import __version__
from hybrid.extras import explained
from ngram.terminal import OneLineParser, UsageError, carry_out


class Command(NamedTuple):
    """module: where its flags and its work are; help: one line, in the imperative."""

    module: str
    help: str


GROUPS: dict[str, dict[str, Command]] = {
    "make a model": {
        "prepare": Command("hybrid.cli.prepare", "turn text, JSON, tables or folders into shards, with a lossless tokenizer"),
        "check-data": Command("hybrid.cli.check_data", "find validation text that is training text too, and bytes that a tokenizer counts wrongly"),
        "train": Command("hybrid.cli.train", "train a model under a byte budget, count what it reads, and pack both into one artifact"),
    },
    "score a text and prove the score": {
        "eval": Command("hybrid.cli.evaluate", "score an artifact on validation text, in bits per byte"),
        "audit": Command("hybrid.cli.audit", "hold the figure that eval prints against the whole distributions behind it"),
        "certify": Command("hybrid.cli.certify", "code validation text into a real file, and decode it in a process that has only artifact and file"),
        "submit": Command("hybrid.cli.submit", "check finished runs, prove that they stand alone, and write the folder of a submission"),
    },
    "see what a run learned": {
        "report": Command("hybrid.cli.report", "show what runs learned, where their bytes and seconds went and what each token costs"),
        "log": Command("hybrid.cli.log", "hand a run's training log to TensorBoard or Weights & Biases, after the run or while it trains"),
    },
    "use an artifact": {
        "inspect": Command("hybrid.cli.inspect", "show what an artifact holds: sections, bytes, n-grams, seeds, settings"),
        "sample": Command("hybrid.cli.sample", "write a text with the blend, which learns what it writes"),
        "score": Command("hybrid.cli.score", "say how many bits a file costs, in all or token by token"),
        "compress": Command("hybrid.cli.compress", "compress any file; the result is readable with the same artifact only"),
        "decompress": Command("hybrid.cli.decompress", "give back the bytes that compress was given"),
    },
    "other tools": {
        "bench": Command("hybrid.cli.bench", "measure this machine: matrix product, memory copy, attention, training step; as JSON"),
        "ngram": Command("hybrid.cli.ngram_alone", "train and use n-gram models alone, without torch: the commands of `python -m ngram`"),
        "completion": Command("hybrid.cli.completion", "print a script by which a shell completes these commands and their flags"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
SOURCES = {  # of two words: a folder or file of such a name is meant by ./fineweb
    "prepare fineweb": Command("hybrid.cli.prepare_fineweb", "fetch the challenge's published shards, tokenizer and validation text from the Hugging Face hub"),
    "prepare merge": Command("hybrid.cli.prepare_merge", "join the parts that `prepare --part I/N` made into the folder that one machine would write"),
    "prepare hub": Command("hybrid.cli.prepare_hub", "turn the texts of a data set on the Hugging Face hub into shards, streamed"),
}

EXIT_CODES = {
    0: "done; of audit and certify: the proof holds",
    1: "a proof or a check failed, as the last line says (or, with a traceback, a fault in the program)",
    2: "bad input or a missing resource; one line on standard error says what, where, and what to do",
    75: "training was stopped by a signal, and its checkpoint holds all of it: go on with --resume",
    130: "ended by Ctrl-C",
}


def module_of(name: str) -> ModuleType:
    """Loads the module of a command."""
    return importlib.import_module((COMMANDS | SOURCES)[name].module)


def add_command_flags(parser: argparse.ArgumentParser, name: str) -> None:
    """Everything that a command takes, and its description."""
    text = (COMMANDS | SOURCES)[name].help
    parser.description = text[0].upper() + text[1:] + "."
    module_of(name).add_flags(parser)


def top_parser() -> argparse.ArgumentParser:
    """What stands before a command; its --help lists the commands and the exit codes."""
    width = max(map(len, COMMANDS))
    lines = ["Hybrid language models under a byte budget, and proofs of their scores.", ""]
    for title, group in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:{width}}  {command.help}" for name, command in group.items()), ""]
    codes = ["exit codes:", *(f"  {code:>{width}}  {means}" for code, means in EXIT_CODES.items())]
    closing = "`seedgram COMMAND --help` shows what a command takes.  Documentation: docs/commands.md."
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(
        prog="seedgram", usage="seedgram COMMAND …", description="\n".join(lines[:-1]), epilog="\n".join([*codes, "", closing]), formatter_class=raw
    )
    parser.add_argument("--version", action="version", version=f"seedgram {__version__}")
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    """The command's flags; `_run` among them is what carries them out: no flag is called so.  Raises UsageError."""
    if not argv or argv[0].startswith("-"):
        top_parser().parse_args(argv)
        raise UsageError("a command is missing; see seedgram --help")
    name, *rest = argv
    if (both := " ".join(argv[:2])) in SOURCES:
        name, rest = both, argv[2:]
    elif name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        raise UsageError(f"{name!r} is no command{f', did you mean {near[0]}?' if near else ''}; see seedgram --help")
    parser = OneLineParser(prog=f"seedgram {name}")
    add_command_flags(parser, name)
    flags = parser.parse_args(rest)
    flags._run = module_of(name).run
    return flags


def main() -> int:
    try:
        flags = parse(sys.argv[1:])
        from ngram.compiled import KernelCache  # numba loads here, and not for --help

        KernelCache.announces = True
        return carry_out(flags._run, flags)
    except ModuleNotFoundError as error:
        raise explained(error) from None
