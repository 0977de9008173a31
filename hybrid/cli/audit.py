"""Command line of `seedgram audit`, which `eval.py audit` starts as well.

    seedgram audit --artifact A --data D [the options of eval.py] [--ranks N] [--positions 256] [--thorough] [--json F] [--png F]
    seedgram audit --control [--data D --tokenizer M] [--json F]
    seedgram audit --published-rule TRAIN_DIR --artifact A --data D [the options of eval.py] [--json F]
"""

import argparse

from hybrid.auditing import control, printed_run
from hybrid.auditing import report as audit_report
from hybrid.cli.printing_ranks import add_ranks_flag, ranks_of
from hybrid.data.overlap import check_manifest
from hybrid.data.shards import find_shards
from hybrid.extras import need
from hybrid.parallel import failures, ranks
from hybrid.scoring import evaluate, report
from hybrid.scoring.options import add_scoring_flags, options_of
from hybrid.storing import artifact
from ngram.blending.warm_up import SCORING, WarmUp
from ngram.terminal import UsageError, output


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_scoring_flags(parser, max_tokens=printed_run.MAX_TOKENS, needed=False)
    parser.add_argument("--thorough", action="store_true", help="the whole stream, and the network again at 4,096 positions; takes as long as it takes")
    parser.add_argument("--control", action="store_true", help="audit the published hashed rules instead; succeeds only if they fail")
    parser.add_argument("--published-rule", metavar="DIR", help="training shards: say what the published hashed rule would claim over this network")
    parser.add_argument("--tokenizer", metavar="M", help="with --control --data: SentencePiece model of the shards")
    words = "at which the network is computed again [256]; with --control: distributions to sum [2000]"
    parser.add_argument("--positions", type=int, default=0, metavar="N", help=words)
    add_ranks_flag(parser)
    parser.add_argument("--png", type=output, metavar="F", help="draw the sums of all distributions there (.png or .svg)")


def run(flags: argparse.Namespace) -> int:
    """0 if the audit comes out as it must, otherwise 1."""
    if flags.positions < 0:
        raise UsageError("--positions must be at least 1; see seedgram audit --help")
    need(*["matplotlib"] if flags.png else [])
    if flags.control:
        if bool(flags.data) != bool(flags.tokenizer):
            raise UsageError("--control takes --data and --tokenizer together, or neither; see seedgram audit --help")
        return _control(flags)
    if not (flags.artifact and flags.data):
        raise UsageError("--artifact and --data are missing (or --control); see seedgram audit --help")
    return _published_rule(flags) if flags.published_rule else _printed_run(flags)


def _printed_run(flags: argparse.Namespace) -> int:
    positions = flags.positions or (printed_run.THOROUGH_POSITIONS if flags.thorough else printed_run.POSITIONS)
    if flags.thorough and flags.max_tokens == printed_run.MAX_TOKENS:
        flags.max_tokens = 0
    check_manifest(find_shards(flags.data, "val"), allowed=flags.allow_overlap)
    printing_ranks, here = ranks_of(flags), ranks.start(flags.device)
    with WarmUp(SCORING):
        found = printed_run.audit_artifact(flags.artifact, flags.data, options_of(flags), positions, here, printing_ranks)
    print(found.text())
    if flags.png:
        audit_report.draw({found.name: found}, flags.png)
    report.write_json(flags.json, found.to_json())
    return 0 if found.passed else 1


def _control(flags: argparse.Namespace) -> int:
    text = control.shard_text(flags.data, flags.tokenizer) if flags.data else control.embedded_text()
    rows = control.run(text, text.vocab_size, flags.positions or control.POSITIONS)
    result = control.to_json(rows, text)
    control.show(rows)
    if flags.png:
        control.draw(rows, flags.png)
    report.write_json(flags.json, result)
    failed = bool(result["failed_as_it_must"])
    print("the control fails C2 everywhere, as it must" if failed else "the control PASSED C2 somewhere: the audit is broken")
    return 0 if failed else 1


def _published_rule(flags: argparse.Namespace) -> int:
    """The table of eval.py, and under it what the published rule would claim over the same network."""
    options, here = options_of(flags), ranks.start(flags.device)
    with failures.together(here):
        with WarmUp(SCORING):
            art, shards = artifact.load(flags.artifact), find_shards(flags.data, "val")
            result, scores = evaluate.evaluate(art, shards, here, options)
        vocab_size = art.config.model.vocab_size
        tokens = evaluate.load_tokens(shards, vocab_size, art.config.train.seq_len, options.protocol, options.max_tokens)
        train = find_shards(flags.published_rule, "train")
        claim = control.published_claim(tokens, scores.nll_nats, train, vocab_size, result["bytes"])
        if here.is_first:
            report.write_json(flags.json, {**result, "published_rule": claim})
            report.show(result, {"published rule over this network: NOT a probability": claim["claimed_bpb"]})
    here.close()
    return 0
