"""The command line of `python -m ngram`: its flags, and the options that they become."""

import argparse
import os
from pathlib import Path

from ngram.cli import options
from ngram.terminal import OneLineParser, UsageError, output


def options_of(flags: argparse.Namespace) -> options.Options:
    """What the flags of `add_commands` say.  Raises UsageError."""
    if flags.command == "train":
        memory = options.parse_size(flags.memory) if flags.memory else None
        highest = options.parse_orders(flags.orders)
        return options.TrainOptions(flags.train, flags.tokenizer, flags.words, highest, _outputs(flags), memory, flags.work)
    if flags.command == "merge":
        order = options.parse_orders(flags.orders) if flags.orders else None
        return options.MergeOptions(flags.counts, order, _outputs(flags))
    if flags.command == "score":
        if flags.jsonl:
            return _documents(flags)
        if flags.out:
            raise UsageError("--out is for --jsonl; the figures of --test go to standard output and --json")
        return options.ScoreOptions(flags.model, flags.tokenizer, flags.test, flags.online, flags.chunk_tokens, flags.json)
    if flags.command == "prune":
        return options.PruneOptions(flags.model, flags.out, flags.max_bytes, flags.max_ngrams)
    if flags.command == "info":
        return options.InfoOptions(flags.model, flags.json)
    if flags.command == "warm-up":
        return options.WarmUpOptions()
    return options.ArpaOptions(flags.model, flags.out)


def _documents(flags: argparse.Namespace) -> options.ScoreDocumentsOptions:
    if flags.out is None or not flags.out.name or str(flags.out) == "-":
        raise UsageError("--jsonl needs --out, the file of scores: no stream, so that a killed run can go on")
    if flags.online or flags.chunk_tokens != 1:
        raise UsageError("--jsonl scores each document with the model as it is; leave --online and --chunk-tokens out")
    processes = flags.processes or os.cpu_count() or 1
    return options.ScoreDocumentsOptions(flags.model, flags.tokenizer, flags.jsonl, flags.field, flags.out, processes, flags.json)


def _outputs(flags: argparse.Namespace) -> options.Outputs:
    return options.Outputs(flags.out, flags.counts_out, flags.max_bytes, flags.min_count)


def build_parser() -> argparse.ArgumentParser:
    """That of `python -m ngram`."""
    parser = OneLineParser(prog="python -m ngram", description="Interpolated modified Kneser-Ney models over tokens or words.")
    add_commands(parser)
    return parser


def add_commands(parser: argparse.ArgumentParser) -> None:
    """All commands and their flags.  `seedgram ngram` has them, too."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="train|score|merge|prune|info|arpa|warm-up", parser_class=OneLineParser)
    _add_train(commands.add_parser("train", help="count texts and write a model"))
    _add_score(commands.add_parser("score", help="bits per byte of a text, as JSON"))
    merge_help = "add up exact counts (train --counts-out) and write a model; models themselves do not add up"
    _add_merge(commands.add_parser("merge", help=merge_help))
    _add_prune(commands.add_parser("prune", help="make a model smaller by leaving out the n-grams that save the fewest bits"))

    info = commands.add_parser("info", help="orders, n-grams, bytes and discounts of a model or counts file")
    info.add_argument("model", type=Path, metavar="C", help="model or counts file")
    info.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")

    arpa = commands.add_parser("arpa", help="export a model as an ARPA text file, which KenLM and others read")
    arpa.add_argument("model", type=Path, metavar="C", help="model file")
    arpa.add_argument("--out", type=_output, required=True, metavar="F", help="ARPA file to write")

    commands.add_parser("warm-up", help="compile all kernels now, so that no later command does; they are kept in the user's cache folder")


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("--train", type=Path, nargs="+", required=True, metavar="F", help="text files, one document each; JSON lines, tables, folders")
    tokenizer = "SentencePiece model, tokenizer.json or Hugging Face folder; its BOS piece, or else its EOS piece, opens each document"
    vocabulary = train.add_mutually_exclusive_group(required=True)
    vocabulary.add_argument("--tokenizer", type=Path, metavar="M", help=tokenizer)
    words = f"tokens are words between white space, sentences are lines; keeps the N most frequent, the rest is <unk> [{options.MAX_WORDS}]"
    vocabulary.add_argument("--words", nargs="?", type=_positive, const=options.MAX_WORDS, metavar="N", help=words)
    orders = f"n-gram orders, at most 8; single tokens are always in the model [{options.DEFAULT_ORDERS}]"
    train.add_argument("--orders", default=options.DEFAULT_ORDERS, metavar="LOW-HIGH", help=orders)
    _add_outputs(train)
    memory = "memory for counts and table, such as 4G: what does not fit goes to files, and a killed command, started again, goes on [no limit]"
    train.add_argument("--memory", metavar="BYTES", help=memory)
    train.add_argument("--work", type=Path, metavar="DIR", help="folder for these files, removed at the end, with --memory [the model's name and .work]")


def _add_score(score: argparse.ArgumentParser) -> None:
    model = "model file, or an ARPA file: of words, or of token ids (then with --tokenizer)"
    score.add_argument("--model", type=Path, required=True, metavar="C", help=model)
    what = score.add_mutually_exclusive_group(required=True)
    what.add_argument("--test", type=Path, metavar="F", help="text to score, read as by `train --train`")
    rows = "score each row apart, on all cores: JSON lines, tables or folders, packed or plain; begun again after a kill, it goes on"
    what.add_argument("--jsonl", type=Path, nargs="+", metavar="F", help=rows)
    score.add_argument("--out", type=_output, metavar="F", help="with --jsonl: a line of JSON for each row, in order")
    score.add_argument("--field", default="text", metavar="K", help="with --jsonl: key or column of the text [text]")
    score.add_argument("--processes", type=_positive, metavar="N", help="with --jsonl [one a core]")
    online = "learn from each chunk after it was scored: `mix` (best) combines orders, words, recency and matches; `kn` only counts and"
    online += " is many times faster [mix]"
    score.add_argument("--online", nargs="?", const="mix", choices=("mix", "kn"), help=online)
    chunk = "tokens scored before they are learned, with --online [1]"
    score.add_argument("--chunk-tokens", type=_positive, default=1, metavar="N", help=chunk)
    tokenizer = "SentencePiece model, tokenizer.json or Hugging Face folder, for ARPA files of token ids only"
    score.add_argument("--tokenizer", type=Path, metavar="M", help=tokenizer)
    score.add_argument("--json", type=_output, metavar="F", help="write the JSON here too")


def _add_merge(merge: argparse.ArgumentParser) -> None:
    merge.add_argument("counts", type=Path, nargs="+", metavar="R", help="counts files of one tokenizer and one top order")
    merge.add_argument("--orders", metavar="LOW-HIGH", help="n-gram orders of the model [all that were counted]")
    _add_outputs(merge)


def _add_prune(prune: argparse.ArgumentParser) -> None:
    prune.add_argument("model", type=Path, metavar="C", help="model file")
    prune.add_argument("--out", type=_output, required=True, metavar="C2", help="model file to write")
    prune.add_argument("--max-bytes", type=_positive, metavar="N", help="size limit of the file, tokenizer included, in bytes")
    prune.add_argument("--max-ngrams", type=_positive, metavar="N", help="largest number of n-grams, all orders together")


def _add_outputs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=_output, metavar="C", help="model file to write; the tokenizer is stored inside")
    command.add_argument("--counts-out", type=_output, metavar="R", help="file of exact counts to write, for `merge`")
    budget = "size limit of the model file, tokenizer included, in bytes: the least useful n-grams are left out until it fits [no limit]"
    command.add_argument("--max-bytes", type=_positive, metavar="N", help=budget)
    least = "smallest number of occurrences an n-gram needs to be kept, for orders 1, 2, …; the last one holds for all higher orders [1]"
    command.add_argument("--min-count", metavar="C1,C2,…", help=least)


def _output(name: str) -> Path:
    return Path(output(name))


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 62:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)
