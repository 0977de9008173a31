"""Command line of `seedgram report`.

    seedgram report RUN [RUN2 …] --data DIR -o report.html [--text] [the options of seedgram eval]
"""

import argparse
from pathlib import Path

from hybrid.parallel.device import add_device_flag
from hybrid.scoring.options import add_option_flags, options_of
from ngram.container import atomic_write
from ngram.terminal import UsageError, output

MAX_TOKENS = 65536  # of the validation stream, from its beginning
CALIBRATED = 512  # positions of it whose whole distributions are taken


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Every flag of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder; eval.json, audit.json and ablation.json in it are shown, too")
    parser.add_argument("-o", "--out", type=output, metavar="F", help="write the page there, one HTML file that needs no network")
    parser.add_argument("--text", action="store_true", help="print the short version")
    parser.add_argument("--json", type=output, metavar="F", help="write the figures there")
    data = "validation shards, for everything that is told by token; once for all runs, or once a run in their order"
    parser.add_argument("--data", action="append", default=[], metavar="DIR", help=data)
    add_device_flag(parser)
    words = "whose whole distributions are held against what came; positions [%(default)s]"
    parser.add_argument("--calibrated", type=int, default=CALIBRATED, metavar="N", help=words)
    add_option_flags(parser)
    parser.set_defaults(max_tokens=MAX_TOKENS)


def run(flags: argparse.Namespace) -> int:
    """Reads the runs, scores the stretch of each, writes and prints what was asked for."""
    from hybrid.parallel import ranks
    from hybrid.reporting import build, page, text
    from hybrid.scoring import report as scores
    from ngram.blending.warm_up import SCORING, WarmUp

    if not (flags.out or flags.text or flags.json):
        raise UsageError("nothing to write: give -o report.html, --text or --json; see seedgram report --help")
    if len(flags.data) not in (0, 1, len(flags.runs)):
        raise UsageError(f"--data is there {len(flags.data)} times for {len(flags.runs)} runs: give it once, or once a run")
    if flags.calibrated < 0:
        raise UsageError("--calibrated must not be negative; see seedgram report --help")
    if flags.out:
        page.check_packages()
    wanted = build.Wanted(options_of(flags), flags.calibrated)
    with WarmUp(SCORING if flags.data else []):
        report = build.build([Path(name) for name in flags.runs], flags.data, wanted, ranks.start(flags.device))
    scores.write_json(flags.json, report)
    if flags.out:
        atomic_write(flags.out, page.render(report))
    if flags.text:
        text.show(report)
    return 0
