"""What mkdocs calls while it builds the pages (mkdocs.yml): the reference of commands is written from the parsers themselves."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.cli import train
from hybrid.cli.seedgram import COMMANDS, add_command_flags
from ngram.cli.parser import build_parser
from ngram.terminal import OneLineParser

MARK = "<!-- commands -->"


OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)[^)]*\)")  # a link to a file above the page's own folder


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Puts the reference where a page asks for it; links to files of the repository outside of docs/ become their text."""
    depth = page.file.src_uri.count("/")
    inside = OUTSIDE.sub(lambda link: link[1] if link[2].count("../") > depth else link[0], markdown)
    return inside.replace(MARK, reference()) if MARK in inside else inside


def reference() -> str:
    """Every command, as its --help shows it."""
    lines = ["## seedgram\n"]
    for name in COMMANDS:
        parser = OneLineParser(prog=f"seedgram {name}")
        add_command_flags(parser, name)
        lines += [f"### seedgram {name}\n", shown(parser)]
    lines += ["## train_gpt.py\n", "The same command, for torchrun.\n", shown(train.make_parser()), "## python -m ngram\n"]
    (commands,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, parser in commands.choices.items():
        lines += [f"### python -m ngram {name}\n", shown(parser)]
    return "\n".join(lines)


def shown(parser: argparse.ArgumentParser) -> str:
    """What --help prints, at a width that fits the page."""
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=96)
    return f"```text\n{parser.format_help().rstrip()}\n```\n"
