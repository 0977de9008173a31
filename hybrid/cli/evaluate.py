"""Command line of scoring, for eval.py and `seedgram eval`."""

import argparse

from hybrid.scoring import report
from hybrid.scoring.options import add_scoring_flags, options_of
from ngram.container import atomic_write
from ngram.terminal import OneLineParser, output


def parse(argv: list[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="eval.py", description="Scores an artifact on validation shards; `audit` and `certify` prove the score.")
    add_flags(parser)
    return parser.parse_args(argv)


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_scoring_flags(parser)
    parser.add_argument("--bits", type=output, metavar="F", help="write the bits of every target there, little-endian float64")
    parser.add_argument("--paranoid", action="store_true", help="compare digests of all state around every score (implies --cache-by-chunk)")


def run(flags: argparse.Namespace) -> int:
    from hybrid.data.shards import find_shards
    from hybrid.parallel import failures, ranks
    from hybrid.scoring import evaluate
    from hybrid.storing import artifact
    from ngram.compiled import KernelCache

    options, here = options_of(flags), ranks.start(flags.device)
    here.keep_memory()
    KernelCache.announces = here.is_first
    with failures.together(here):
        art = artifact.load(flags.artifact)
        result, scores = evaluate.evaluate(art, find_shards(flags.data, "val"), here, options)
        if here.is_first:
            report.write_json(flags.json, result)
            if flags.bits:
                atomic_write(flags.bits, scores.bits.astype("<f8").tobytes())
            report.show(result)
    here.close()
    return 0
