"""`seedgram ngram …`: the commands of `python -m ngram`."""

from ngram.__main__ import run
from ngram.cli.parser import add_commands as add_flags

__all__ = ["add_flags", "run"]
