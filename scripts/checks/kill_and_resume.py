"""Kills a CPU run with SIGKILL at random moments, resumes it each time, and compares its artifact with an undisturbed run's.

    python scripts/checks/kill_and_resume.py --data DIR --tokenizer M [--kills 20] [--steps 1500] [--seed 0]

DIR as scripts/prepare_data.py makes it (1,024 pieces).  Moments fall into start-up, anywhere in the training, and packing.
Prints one line a kill; exits with 1 unless the two artifacts are the same, byte for byte.
"""

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # works from a checkout that is not installed

from hybrid.training import checkpoint
from ngram.errors import run_cli
from ngram.terminal import OneLineParser


def command(flags: argparse.Namespace, out: Path, *extra: str) -> list[str]:
    """A run of the quickstart preset, thinned to a minute: everything that can be lost is still in it."""
    run = [sys.executable, str(ROOT / "train_gpt.py"), "--preset", "quickstart", "--device", "cpu", "--data", flags.data, "--tokenizer", flags.tokenizer]
    shape = ["--layers", "1", "--batch-tokens", "1024", "--microbatch-tokens", "1024", "--checkpoint-seconds", "0.2"]
    return [*run, "--out", str(out), "--no-score", "--steps", str(flags.steps), *shape, *extra]


def checkpoint_step(out: Path) -> int | None:
    """The step a resume would start from; None without a checkpoint."""
    path = out / "checkpoint.bin"
    return int(checkpoint.load(path)["step"]) if path.exists() else None


def main() -> int:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of shards")
    parser.add_argument("--tokenizer", required=True, metavar="M", help="SentencePiece model of the shards")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="how often the run is killed [20]")
    parser.add_argument("--steps", type=int, default=1500, metavar="N", help="of the run [1500]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments [0]")
    flags = parser.parse_args()
    moments = random.Random(flags.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        begin = time.monotonic()
        subprocess.run(command(flags, whole), check=True, stderr=subprocess.DEVNULL)
        span = time.monotonic() - begin
        print(f"undisturbed run: {span:.1f} s", flush=True)
        for kill in range(flags.kills):
            process = subprocess.Popen(command(flags, killed, "--resume=auto"), stderr=subprocess.DEVNULL)
            delay = 2 + moments.uniform(0, 2.5) * span / flags.kills  # kills come at start-up, all along the training, and while packing
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                process.kill()
            process.wait()
            print(
                f"kill {kill + 1}: after {delay:.1f} s, exit {process.returncode}, checkpoint at step {checkpoint_step(killed)}", flush=True
            )
        subprocess.run(command(flags, killed, "--resume=auto"), check=True, stderr=subprocess.DEVNULL)
        digests = [hashlib.sha256((run / "artifact.bin").read_bytes()).hexdigest() for run in (whole, killed)]
    print(f"undisturbed {digests[0]}\nkilled      {digests[1]}\n{'the same bytes' if digests[0] == digests[1] else 'DIFFERENT'}")
    return int(digests[0] != digests[1])


if __name__ == "__main__":
    run_cli(main)
