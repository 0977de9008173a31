"""python -m ngram train|score|merge|prune|info|arpa — the n-gram model alone, from the command line.  See --help of each."""

import argparse
from pathlib import Path

from ngram.cli import OneLineParser, parse_orders
from ngram.errors import run_cli


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 62:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _add_outputs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=Path, metavar="C", help="model file to write, tokenizer inside")
    command.add_argument("--counts-out", type=Path, metavar="R", help="exact counts to write, for `merge`")
    budget = "largest model file, tokenizer included: prunes by worth until it fits; bytes [everything is kept]"
    command.add_argument("--max-bytes", type=_positive, metavar="N", help=budget)
    command.add_argument("--min-count", metavar="C1,C2,…", help="smallest raw count kept at orders 1, 2, …; the last one holds above [1]")


def build_parser() -> argparse.ArgumentParser:
    """All subcommands and their flags."""
    parser = OneLineParser(prog="python -m ngram", description="Interpolated modified Kneser-Ney models over SentencePiece tokens.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="train|score|merge|prune|info|arpa", parser_class=OneLineParser)

    train = commands.add_parser("train", help="count texts and write a model")
    train.add_argument("--train", type=Path, nargs="+", required=True, metavar="F", help="plain UTF-8 texts, one document each")
    train.add_argument(
        "--tokenizer", type=Path, required=True, metavar="M", help="SentencePiece model; its BOS (or else EOS) piece opens each document"
    )
    train.add_argument("--orders", default="2-7", metavar="LOW-HIGH", help="n-gram orders, at most 8; single tokens are always there [2-7]")
    _add_outputs(train)

    score = commands.add_parser("score", help="bits per byte of a text, as JSON")
    score.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="C",
        help="model file, or an ARPA file whose words are token ids (then with --tokenizer)",
    )
    score.add_argument("--test", type=Path, required=True, metavar="F", help="plain UTF-8 text, one document")
    online = "learn each chunk after it was scored: `mix` (best) joins orders, words, recency and matches, `kn` counts on and is many times faster"
    score.add_argument("--online", nargs="?", const="mix", choices=("mix", "kn"), help=f"{online} [mix]")
    score.add_argument(
        "--chunk-tokens", type=_positive, default=1, metavar="N", help="tokens scored before they are counted, with --online [1]"
    )
    score.add_argument("--tokenizer", type=Path, metavar="M", help="SentencePiece model, for ARPA files only")
    score.add_argument("--json", type=Path, metavar="F", help="write the JSON here too")

    merge = commands.add_parser("merge", help="add up exact counts (train --counts-out) and write a model; models themselves do not add up")
    merge.add_argument("counts", type=Path, nargs="+", metavar="R", help="counts files of one tokenizer and one top order")
    merge.add_argument("--orders", metavar="LOW-HIGH", help="n-gram orders of the model [all that were counted]")
    _add_outputs(merge)

    prune = commands.add_parser("prune", help="make a model smaller, worthiest n-grams first")
    prune.add_argument("model", type=Path, metavar="C", help="model file")
    prune.add_argument("--out", type=Path, required=True, metavar="C2", help="model file to write")
    prune.add_argument("--max-bytes", type=_positive, metavar="N", help="largest file, tokenizer included; bytes")
    prune.add_argument("--max-ngrams", type=_positive, metavar="N", help="most n-grams of all orders together")

    info = commands.add_parser("info", help="orders, n-grams, bytes and discounts of a model or counts file")
    info.add_argument("model", type=Path, metavar="C", help="model or counts file")
    info.add_argument("--json", action="store_true", help="one line of JSON")

    arpa = commands.add_parser("arpa", help="export a model as an ARPA text file, words = token ids")
    arpa.add_argument("model", type=Path, metavar="C", help="model file")
    arpa.add_argument("--out", type=Path, required=True, metavar="F", help="ARPA file to write")
    return parser


def main() -> None:
    """Parses the command line and carries it out."""
    flags = build_parser().parse_args()
    orders = parse_orders(flags.orders) if getattr(flags, "orders", None) else None
    from ngram import commands, score_text  # numba takes a second to import: not before the flags are known to be good

    if flags.command in ("train", "merge"):
        outputs = commands.Outputs(flags.out, flags.counts_out, flags.max_bytes, flags.min_count)
    if flags.command == "train":
        commands.train(flags.train, flags.tokenizer, orders or (2, 7), outputs)
    elif flags.command == "merge":
        commands.merge_counts(flags.counts, orders, outputs)
    elif flags.command == "score":
        score_text.score(flags.model, flags.tokenizer, flags.test, flags.online, flags.chunk_tokens, flags.json)
    elif flags.command == "prune":
        commands.prune_model(flags.model, flags.out, flags.max_bytes, flags.max_ngrams)
    elif flags.command == "info":
        commands.info(flags.model, flags.json)
    else:
        commands.arpa(flags.model, flags.out)


if __name__ == "__main__":
    run_cli(main)
