"""Command line of `seedgram submit`: from finished runs to the folder of a submission.

    seedgram submit RUN [RUN …] --data D --out DIR --name N --author A --github-id G --blurb TEXT
    seedgram submit --code F              # only the runnable archive: `python F train …` counts its own bytes as the code
"""

import argparse
import math
from pathlib import Path

from hybrid.parallel import ranks
from hybrid.parallel.device import add_device_flag
from hybrid.scoring import report
from hybrid.submitting import archive, records
from hybrid.submitting.checks import Limits
from hybrid.submitting.records import Identity
from hybrid.submitting.submit import submit
from ngram.container import atomic_write
from ngram.terminal import UsageError, folder, output, warn

NEEDED = ("data", "out", "name", "author", "github_id", "blurb")


def add_flags(parser: argparse.ArgumentParser) -> None:
    limits = Limits()
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders of one system, a seed each; the first one's artifact is shipped")
    parser.add_argument("--code", type=output, metavar="F", help="write only the runnable archive of the code there")
    parser.add_argument("--data", help="folder of shards: the ones that the runs were trained on, and those that they were scored on")
    parser.add_argument("--out", type=folder, help="folder to write; must not be there")
    parser.add_argument("--name", help="of the submission")
    parser.add_argument("--author", help="who submits")
    parser.add_argument("--github-id", metavar="G", help="the author's account there")
    parser.add_argument("--blurb", metavar="TEXT", help="the submission in one sentence")
    parser.add_argument("--cap-bytes", type=int, default=limits.cap_bytes, metavar="N", help="archive and artifact; bytes [%(default)s]")
    training = "of training, with the packing that reads training text, 0: none; s [600]"
    parser.add_argument("--train-limit", type=float, default=limits.train_s, metavar="S", help=training)
    parser.add_argument("--eval-limit", type=float, default=limits.eval_s, metavar="S", help="of evaluation, 0: none; s [600]")
    parser.add_argument("--allow-overlap", action="store_true", help="submit although sides share documents, and say so")
    audited = "of the validation stream that each audit goes over [%(default)s]"
    parser.add_argument("--audit-tokens", type=int, default=limits.audit_tokens, metavar="N", help=audited)
    add_device_flag(parser, purpose="where the proof runs")
    parser.add_argument("--json", type=output, metavar="F", help="write submission.json there, too")


def run(flags: argparse.Namespace) -> int:
    """Writes the archive or the submission, and says what it holds."""
    if flags.code:
        code = archive.archive_bytes()
        atomic_write(flags.code, code)
        print(f"{flags.code}: {len(code):,} bytes; run it with python {flags.code} train … or eval …")
        return 0
    if missing := [f"--{name.replace('_', '-')}" for name in NEEDED if not getattr(flags, name)]:
        raise UsageError(f"{' '.join(missing)} missing; see seedgram submit --help")
    if not flags.runs:
        raise UsageError("no run is named; give one or more folders that train_gpt.py wrote")
    if flags.audit_tokens < 2:
        raise UsageError("--audit-tokens must be at least 2; see seedgram submit --help")
    if flags.cap_bytes < 1 or not (0 <= flags.train_limit < math.inf and 0 <= flags.eval_limit < math.inf):
        raise UsageError("--cap-bytes must be at least 1, --train-limit and --eval-limit at least 0 and finite; see seedgram submit --help")
    who = Identity(flags.author, flags.github_id, flags.name, flags.blurb)
    limits = Limits(flags.cap_bytes, flags.train_limit, flags.eval_limit, flags.allow_overlap, flags.audit_tokens)
    found = submit([Path(run) for run in flags.runs], flags.data, Path(flags.out), who, limits, ranks.start(flags.device), warn)
    for check in found.checks:
        print(f"{check.name}: {check.found}")
    print(f"{flags.out}: {found.bpb:.4f} bits per byte, {found.books['shipped']['total']:,} bytes; alone the archive says the same")
    report.write_json(flags.json, records.submission(who, found))
    return 0
