"""Command line of `seedgram sample`: a text that the blend writes."""

import argparse

from hybrid.cli.which_artifact import add_artifact, artifact_of
from hybrid.parallel.device import add_device_flag
from hybrid.scoring import report
from ngram.terminal import UsageError, output


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_artifact(parser)
    parser.add_argument("--prompt", default="", metavar="TEXT", help="how the text begins [nothing: a new document]")
    parser.add_argument(
        "--tokens", dest="most", type=int, default=200, metavar="N", help="most tokens to write; a document may end before [200]"
    )
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="below 1: likelier tokens; 0: always the likeliest [1]")
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest tokens of this probability together [1]"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the drawing: the same seed writes the same text [0]")
    add_device_flag(parser, "cpu")
    parser.add_argument("--json", type=output, metavar="F", help="write prompt, text and settings there; - for standard output")


def run(flags: argparse.Namespace) -> int:
    if not 0 <= flags.most <= 1_000_000:
        raise UsageError("--tokens must be 0 to 1,000,000; see seedgram sample --help")
    from hybrid.api.model import load  # torch loads here, and not for --help

    how = {"tokens": flags.most, "temperature": flags.temperature, "top_p": flags.top_p, "seed": flags.seed}
    text = load(artifact_of(flags), flags.device).generate(flags.prompt, **how)
    print(flags.prompt + text)
    report.write_json(flags.json, {"prompt": flags.prompt, "text": text, **how})
    return 0
