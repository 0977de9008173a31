"""Command line of the compressor: `python -m hybrid` or `seedgram`.

    seedgram compress IN -o OUT --artifact A
    seedgram decompress IN -o OUT --artifact A
    seedgram score FILE --artifact A [--per-token] [--json F]
"""

import argparse
import sys

from hybrid import compress, distributed, report
from hybrid.config import OneLineParser
from ngram.container import read_bytes
from ngram.errors import run_cli
from ngram.warm_up import CODING, WarmUp


def parse(argv: list[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="seedgram", description="Compresses any file with a hybrid language model; lists what each token costs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (("compress", "IN becomes OUT, readable only with the same artifact"), ("decompress", "the bytes that compress was given")):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("source", metavar="IN")
        command.add_argument("-o", "--out", required=True, help="file to write")
    commands.choices["decompress"].add_argument("--tokens", metavar="F", help="write the decoded tokens there, little-endian uint16")
    score = commands.add_parser("score", help="bits that a file costs", description="Bits that a file costs, in all or token by token.")
    score.add_argument("source", metavar="FILE")
    score.add_argument("--per-token", action="store_true", help="one line a token: bits blended, network, n-grams, piece")
    for command in commands.choices.values():
        command.add_argument("--artifact", required=True, help="artifact.bin of a run")
        command.add_argument("--json", metavar="F", help="write the figures there")
    for name in ("compress", "score"):
        commands.choices[name].add_argument("--device", choices=("auto", "cuda", "cpu"), default="cpu", help="where the network runs [cpu]")
    return parser.parse_args(argv)


def run() -> int:
    flags = parse(sys.argv[1:])
    if flags.command == "score":
        return _score(flags)
    if flags.command == "compress":
        with WarmUp(CODING):
            result = compress.compress(flags.source, flags.out, flags.artifact, distributed.start(flags.device))
    else:
        with WarmUp(CODING):
            result = compress.decompress(flags.source, flags.out, flags.artifact, flags.tokens)
    report.write_json(flags.json, result)
    print(f"{flags.out}: {result['bytes']:,} bytes, compressed {result['file_bytes']:,}; {result['tokens_per_s']:,.0f} tokens/s")
    return 0


def _score(flags: argparse.Namespace) -> int:
    lines = compress.per_token(flags.source, flags.artifact, distributed.start(flags.device))
    if flags.per_token:
        print("   blended   network   n-grams  piece")
        for piece, blended, network, ngrams in lines:
            print(f"{blended:10.3f}{network:10.3f}{ngrams:10.3f}  {piece!r}")
    size = len(read_bytes(flags.source))
    bits = sum(line[1] for line in lines)
    print(f"{flags.source}: {bits:,.1f} bits for {len(lines):,} tokens, {size:,} bytes" + (f": {bits / size:.4f} bits per byte" if size else ""))
    report.write_json(flags.json, {"bits": bits, "tokens": len(lines), "bytes": size, "bpb": bits / size if size else None})
    return 0


def main() -> None:
    run_cli(run)


if __name__ == "__main__":
    main()
