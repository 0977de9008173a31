"""`seedgram completion bash|zsh|tcsh`: a script by which a shell completes commands, flags, choices and file names.

    seedgram completion bash >~/.local/share/bash-completion/completions/seedgram
"""

import argparse
from pathlib import Path

from hybrid.cli import seedgram
from ngram.terminal import OneLineParser, output

SHELLS = ("bash", "zsh", "tcsh")
FILES = frozenset("artifact data tokenizer out source inputs val published_rule json".split())  # flags whose values are places


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="whose script to print, on standard output")


def whole_parser() -> argparse.ArgumentParser:
    """One parser with the flags of every command: loads all of their modules."""
    parser = OneLineParser(prog="seedgram")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, command in seedgram.COMMANDS.items():
        seedgram.add_command_flags(commands.add_parser(name, help=command.help), name)
    return parser


def mark_files(parser: argparse.ArgumentParser, kind: object) -> None:
    """Tells the library which values are names of files."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                mark_files(command, kind)
        elif action.type in (Path, output) or action.dest in FILES:
            action.complete = kind  # type: ignore[attr-defined]


def run(flags: argparse.Namespace) -> int:
    import shtab  # of the extra `completion`

    parser = whole_parser()
    mark_files(parser, shtab.FILE)
    print(shtab.complete(parser, flags.shell))
    return 0
