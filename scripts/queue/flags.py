"""The command line of scripts/queue/run_presets.py."""

import argparse
import subprocess
from pathlib import Path

import torch

from hybrid.settings import presets
from hybrid.settings.config import ConfigError
from ngram.terminal import OneLineParser

ROOT = Path(__file__).resolve().parents[2]
OVERHEAD_S = 330.0  # start, packing and scoring of a run before one was measured: seed1095 on one H100 took 47 + 187 + 50


def commit_of(given: str | None) -> str:
    """The commit that results are filed under: the flag, or git's, marked when tracked files differ from it."""
    if given:
        return given
    git = ["git", "-C", str(ROOT)]
    try:
        top, head = subprocess.run(
            [*git, "rev-parse", "--show-toplevel", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.split()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError, ValueError):
        top, head, changed = "", "", ""
    if not top or Path(top).resolve() != ROOT:  # an exported tree inside some other checkout has no commit of its own
        raise ConfigError(f"{ROOT}: no git checkout, so results have no commit to be filed under; give --commit")
    return head + ("-dirty" if changed else "")


def pair(text: str) -> tuple[str, str]:
    """PRESET=PATH of a flag."""
    preset, _, path = text.partition("=")
    if preset not in presets.names() or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not PRESET=PATH of a known preset")
    return preset, path


def make_parser(doc: str | None) -> OneLineParser:
    parser = OneLineParser(prog="run_presets.py", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="in this order [all but quickstart]")
    parser.add_argument("--until", choices=presets.names(), help="the last preset of the order to run")
    parser.add_argument("--table", type=Path, metavar="RESULTS", help="print the table of a results file and stop")
    parser.add_argument("--data", help="folder of shards: trains on train, scores val")
    parser.add_argument("--tokenizer", metavar="M", help="SentencePiece model of the shards [DATA/tokenizer.model]")
    parser.add_argument("--fineweb", metavar="FILE", help="a shard to score out of domain")
    for name in ("data", "tokenizer", "fineweb"):
        parser.add_argument(
            f"--{name}-for", type=pair, action="append", default=[], metavar="PRESET=PATH", help=f"another --{name} for one preset"
        )
    parser.add_argument("--work", type=Path, help="folder for runs and logs")
    parser.add_argument("--results", type=Path, help="results file [WORK/results.jsonl]")
    parser.add_argument("--commit", help="what results are filed under [git's; needed in a tree without git]")
    parser.add_argument("--seconds", type=float, default=110.0, help="training time of each run; s [110]")
    parser.add_argument("--seed", type=int, default=1337, help="of each run [1337]")
    parser.add_argument(
        "--budget-s", type=float, default=0.0, help="start nothing that cannot end in this time, stop all at its end; 0: no limit; s [0]"
    )
    parser.add_argument(
        "--overhead-s", type=float, default=OVERHEAD_S, help=f"of a run beside its training, until one is measured; s [{OVERHEAD_S:g}]"
    )
    parser.add_argument("--gpus", type=int, default=torch.cuda.device_count(), help="GPUs to use, one training each; 0: the CPU [all]")
    parser.add_argument("--packing", type=int, help="runs of a GPU that may pack while another trains [2, on the CPU 0]")
    parser.add_argument("--keep", nargs="+", default=[], metavar="PRESET", help="keep the artifacts of these")
    parser.add_argument("--keep-in", type=Path, metavar="DIR", help="[WORK/kept]")
    parser.add_argument("--retry-failed", action="store_true", help="run again what failed at this commit")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="dense bf16 peak of the device, for the utilisation [989]")
    return parser


def parse(argv: list[str], doc: str | None) -> argparse.Namespace:
    """Flags, checked and completed; what follows `--` goes to train_gpt.py as it is.  Raises UsageError or ConfigError."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = make_parser(doc)
    flags = parser.parse_args(argv[:cut])
    flags.passed_on = argv[cut + 1 :]
    if flags.table:
        return flags
    if not (flags.data and flags.work):
        parser.error("--data and --work are missing (or --table RESULTS)")
    flags.presets = flags.presets or [name for name in presets.names() if name != "quickstart"]
    if unknown := [name for name in (*flags.presets, *flags.keep) if name not in presets.names()]:
        parser.error(f"preset {unknown[0]!r} is unknown; choose from {', '.join(presets.names())}")
    if flags.until and flags.until not in flags.presets:
        parser.error(f"--until {flags.until} is not among the presets to run")
    if flags.until:
        flags.presets = flags.presets[: flags.presets.index(flags.until) + 1]
    for name in ("data", "tokenizer", "fineweb"):
        setattr(flags, f"{name}_for", dict(getattr(flags, f"{name}_for")))
    flags.results = flags.results or flags.work / "results.jsonl"
    flags.keep_in = flags.keep_in or flags.work / "kept"
    flags.packing = flags.packing if flags.packing is not None else (2 if flags.gpus else 0)
    flags.commit = commit_of(flags.commit)
    return flags
