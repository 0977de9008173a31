"""Scores an artifact on validation shards; audits it; certifies its figure with a decoder.

    python eval.py --artifact A --data DIR_OR_SHARD [--stride S] [--chunk-tokens N] [--json F]
    python eval.py audit --artifact A --data D [--positions 2000] [--json F] [--png F]
    python eval.py audit --control [--data D --tokenizer M] [--json F]
    python eval.py certify --artifact A --data D --bytes N --out F [--json F]
    torchrun --standalone --nproc_per_node=2 eval.py --artifact A --data DIR

Reads nothing but the artifact and the shards.  Works score-first: every token is scored before anything learns from it.
"""

import argparse
import dataclasses
import sys

from hybrid import artifact, audit_own, audit_report, certify, control, distributed, evaluate, product_scores, report
from hybrid.adapt import adapt_settings, add_adapt_flags
from hybrid.config import OneLineParser
from hybrid.data import find_shards
from hybrid.report import write_json
from ngram.errors import run_cli
from ngram.warm_up import CODING, SCORING, WarmUp


def parser_for(command: str, needs_artifact: bool = True) -> argparse.ArgumentParser:
    """The flags that every command has."""
    parser = OneLineParser(prog=f"eval.py {command}".strip(), description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--artifact", required=needs_artifact, help="artifact.bin of a run")
    parser.add_argument("--data", required=needs_artifact, help="folder with *_val_*.bin shards, or one shard")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="where the network runs [auto]")
    parser.add_argument("--json", metavar="F", help="write the result there too")
    return parser


def add_stride_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stride", type=int, default=0, metavar="S", help="new targets a window, 0: windows side by side; tokens [0]")


def score(argv: list[str]) -> int:
    parser = parser_for("")
    add_adapt_flags(parser)
    add_stride_flag(parser)
    parser.add_argument("--chunk-tokens", type=int, default=0, metavar="N", help="targets between two gate updates, 0: as the artifact says; tokens [0]")
    parser.add_argument("--cache-by-chunk", action="store_true", help="the online cache learns once a chunk instead of after every token")
    parser.add_argument("--protocol", choices=evaluate.PROTOCOLS, default="full", help="challenge: drop the tail that fills no window [full]")
    parser.add_argument("--no-online", dest="online", action="store_false", help="trained counts only: nothing learns at evaluation")
    parser.add_argument("--no-match", dest="match", action="store_false", help="leave the match model out")
    parser.add_argument("--no-product", dest="product", action="store_false", help="leave the product of network and cache out")
    read = product_scores.READ_TOKENS
    parser.add_argument("--read-tokens", type=int, default=read, metavar="N", help=f"targets whose whole cache distributions are read at once [{read}]")
    parser.add_argument("--fixed-gate", dest="gate_learns", action="store_false", help="the gate stays as it was fitted")
    parser.add_argument("--published-rule", metavar="DIR", help="training shards: show what the published hashed rule would claim over this network")
    parser.add_argument("--paranoid", action="store_true", help="compare digests of all state around every score (implies --cache-by-chunk)")
    flags = parser.parse_args(argv)
    names = {field.name for field in dataclasses.fields(evaluate.EvalOptions)} - {"adapt", "published_rule"}
    shown = tuple(find_shards(flags.published_rule, "train")) if flags.published_rule else ()
    options = evaluate.EvalOptions(**{name: getattr(flags, name) for name in names}, adapt=adapt_settings(flags), published_rule=shown)
    ranks = distributed.start(flags.device)
    with distributed.together(ranks):
        shards = find_shards(flags.data, "val")
        with WarmUp(SCORING):
            result = evaluate.score(artifact.load(flags.artifact), shards, ranks, options)
        if ranks.is_first:
            write_json(flags.json, result)
            report.show(result)
    ranks.close()
    return 0


def run_audit(argv: list[str]) -> int:
    parser = parser_for("audit", needs_artifact=False)
    parser.add_argument("--control", action="store_true", help="audit the published hashed rules instead; succeeds only if they fail")
    parser.add_argument("--tokenizer", metavar="M", help="with --control --data: SentencePiece model of the shards")
    parser.add_argument("--positions", type=int, default=2000, metavar="N", help="distributions to sum [2000]")
    parser.add_argument("--max-tokens", type=int, default=audit_own.MAX_TOKENS, metavar="N", help="of the stream's beginning [65536]")
    parser.add_argument("--png", metavar="F", help="draw the sums there (.png or .svg)")
    add_stride_flag(parser)
    add_adapt_flags(parser)
    flags = parser.parse_args(argv)
    if flags.positions < 1 or flags.max_tokens < 2:
        parser.error("--positions must be at least 1 and --max-tokens 2")
    if flags.control:
        if bool(flags.data) != bool(flags.tokenizer):
            parser.error("--control takes --data and --tokenizer together, or neither")
        text = control.shard_text(flags.data, flags.tokenizer) if flags.data else control.embedded_text()
        rows = control.run(text, text.vocab_size, flags.positions)
        result = control.to_json(rows, text)
        control.show(rows)
        ok = bool(result["failed_as_it_must"])
        if flags.png:
            control.draw(rows, flags.png)
        print("the control fails C2 everywhere, as it must" if ok else "the control PASSED C2 somewhere: the audit is broken")
    else:
        if not (flags.artifact and flags.data):
            parser.error("--artifact and --data are missing (or --control)")
        ranks = distributed.start(flags.device)
        art, shards, adapt = artifact.load(flags.artifact), find_shards(flags.data, "val"), adapt_settings(flags)
        reports = audit_own.audit_artifact(art, shards, flags.positions, flags.max_tokens, ranks, adapt, flags.stride)
        words, result, ok = audit_own.verdict(reports)
        print(words)
        if flags.png:
            audit_report.draw(reports, flags.png)
    write_json(flags.json, result)
    return 0 if ok else 1


def run_certify(argv: list[str]) -> int:
    parser = parser_for("certify")
    parser.add_argument("--bytes", type=int, required=True, metavar="N", help="validation text to encode, from its beginning; bytes")
    parser.add_argument("--out", required=True, metavar="F", help="the coded file")
    parser.add_argument("--streams", type=int, default=0, metavar="N", help="streams side by side, 0: 64 on a CPU, 256 on CUDA [0]")
    add_stride_flag(parser)
    parser.add_argument("--no-online", dest="online", action="store_false", help="trained counts only: nothing learns")
    add_adapt_flags(parser)
    flags = parser.parse_args(argv)
    if flags.bytes < 1 or not 0 <= flags.streams <= 65536 or flags.stride < 0:
        parser.error("--bytes must be at least 1, --streams and --stride at least 0")
    options = certify.CertifyOptions(flags.bytes, flags.streams, flags.stride, flags.online, adapt=adapt_settings(flags))
    shards = find_shards(flags.data, "val")
    with WarmUp(CODING):
        result = certify.certify(flags.artifact, shards, flags.out, options, distributed.start(flags.device))
    write_json(flags.json, result)
    print(certify.text(result))
    return 0 if result["passed"] else 1


def main() -> int:
    commands = {"audit": run_audit, "certify": run_certify}
    argv = sys.argv[1:]
    return commands[argv[0]](argv[1:]) if argv and argv[0] in commands else score(argv)


if __name__ == "__main__":
    run_cli(main)
