"""Command line of `seedgram certify`, which `eval.py certify` starts as well.

    seedgram certify --artifact A --data D --bytes N --out F [the options of eval.py] [--ranks N] [--json F]
"""

import argparse

from hybrid.cli.printing_ranks import add_ranks_flag, ranks_of
from hybrid.scoring import report
from hybrid.scoring.options import add_scoring_flags, options_of
from ngram.terminal import UsageError, output


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_scoring_flags(parser)
    parser.add_argument("--bytes", type=int, required=True, metavar="N", help="validation text to encode, from its beginning; bytes")
    parser.add_argument("--order-bytes", type=int, default=-1, metavar="N", help="of its beginning, in eval.py's order [65536 on CUDA, 4096 on a CPU]")
    parser.add_argument("--out", type=output, required=True, metavar="F", help="the coded file, if it is proven; F.order is the one in eval.py's order")
    add_ranks_flag(parser)
    parser.add_argument("--streams", type=int, default=0, metavar="N", help="streams side by side, 0: 64 on a CPU, 256 on CUDA [0]")


def run(flags: argparse.Namespace) -> int:
    """0 if the score is certified, otherwise 1."""
    if flags.bytes < 1 or not 0 <= flags.streams <= 65536 or flags.order_bytes < -1:
        raise UsageError("--bytes must be at least 1, --streams and --order-bytes at least 0; see seedgram certify --help")
    from hybrid.coding import certify  # torch loads here, and not for --help
    from hybrid.data.overlap import check_manifest
    from hybrid.data.shards import find_shards
    from hybrid.parallel import ranks
    from ngram.blending.warm_up import WarmUp
    from ngram.blending.warm_up_columns import CODING

    wanted = certify.CertifyOptions(flags.bytes, flags.order_bytes, flags.streams, options_of(flags), ranks_of(flags))
    check_manifest(find_shards(flags.data, "val"), allowed=flags.allow_overlap)
    with WarmUp(CODING):
        result = certify.certify(flags.artifact, flags.data, flags.out, wanted, ranks.start(flags.device))
    report.write_json(flags.json, result)
    print(certify.text(result))
    return 0 if result["passed"] else 1
