"""The artifact of a command that is about nothing else: named by itself, or with --artifact as the other commands take it."""

import argparse

from ngram.terminal import UsageError


def add_artifact(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", nargs="?", metavar="A", help="artifact.bin of a run")
    parser.add_argument("--artifact", dest="named_artifact", metavar="A", help="the same")


def artifact_of(flags: argparse.Namespace) -> str:
    """Its path.  Raises UsageError unless it is named once."""
    given = [path for path in (flags.artifact, flags.named_artifact) if path is not None]
    if len(given) != 1:
        raise UsageError(f"name {'one' if given else 'an'} artifact, artifact.bin of a run; see --help")
    return str(given[0])
