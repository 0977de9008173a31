"""Scores an artifact on validation shards; audits it; certifies its figure with a decoder.

    python eval.py --artifact A --data DIR_OR_SHARD [--stride S] [--chunk-tokens N] [--json F]
    torchrun --standalone --nproc_per_node=2 eval.py --artifact A --data DIR

Reads nothing but the artifact and the shards.  Works score-first: every token is scored before anything learns from it.
"""

import argparse
import json
import sys

from hybrid import artifact, distributed, evaluate, report
from hybrid.config import OneLineParser
from hybrid.data import find_shards
from ngram.container import atomic_write
from ngram.errors import run_cli


def parse(argv: list[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="eval.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--artifact", required=True, help="artifact.bin of a run")
    parser.add_argument("--data", required=True, help="folder with *_val_*.bin shards, or one shard")
    parser.add_argument("--stride", type=int, default=0, metavar="S", help="new targets a window, 0: side by side; tokens [0]")
    parser.add_argument("--chunk-tokens", type=int, default=0, metavar="N", help="targets between two gate updates, 0: as the artifact says; tokens [0]")
    parser.add_argument("--cache-by-chunk", action="store_true", help="the online cache learns once a chunk instead of after every token")
    parser.add_argument("--protocol", choices=evaluate.PROTOCOLS, default="full", help="challenge: drop the tail that fills no window [full]")
    parser.add_argument("--no-online", dest="online", action="store_false", help="trained counts only: nothing learns at evaluation")
    parser.add_argument("--paranoid", action="store_true", help="compare digests of all state around every score (implies --cache-by-chunk)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="where the network runs [auto]")
    parser.add_argument("--json", metavar="F", help="write the result there too")
    return parser.parse_args(argv)


def main() -> int:
    flags = parse(sys.argv[1:])
    ranks = distributed.start(flags.device)
    options = evaluate.EvalOptions(flags.stride, flags.chunk_tokens, flags.cache_by_chunk, flags.protocol, flags.online, flags.paranoid)
    result = evaluate.score(artifact.load(flags.artifact), find_shards(flags.data, "val"), ranks, options)
    if ranks.is_first:
        if flags.json:
            atomic_write(flags.json, (json.dumps(result, indent=1) + "\n").encode())
        report.show(result)
    ranks.close()
    return 0


if __name__ == "__main__":
    run_cli(main)
