"""Kills a run once with SIGKILL, resumes it, and lays its loss curve beside an undisturbed run's: for GPUs, whose bits vary.

    python scripts/checks/resume_curve.py --data DIR --tokenizer M [--preset seed1095] [--steps 100] [-- more flags of train_gpt.py]

The kill comes at the first step past the middle for which a checkpoint is on disk.  Prints both curves and exits with 1 unless
the resumed one starts from a checkpoint and its losses stay as near to the other's as they were before the kill (or within 1 %).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # works from a checkout that is not installed

from hybrid.training.batches import QUEUE_STEPS
from ngram.errors import SeedgramError, run_cli
from ngram.terminal import OneLineParser

PATIENCE_S = 600  # for a run to get somewhere
LOG_EVERY = 5  # steps


def start(flags: argparse.Namespace, out: Path, *extra: str) -> subprocess.Popen[bytes]:
    run = [sys.executable, str(ROOT / "train_gpt.py"), "--preset", flags.preset, "--data", flags.data, "--tokenizer", flags.tokenizer]
    shape = ["--out", str(out), "--steps", str(flags.steps), "--log-every", str(LOG_EVERY), "--checkpoint-seconds", "0.5", "--no-score"]
    return subprocess.Popen([*run, *shape, "--ngram-order", "0", *flags.more, *extra], stderr=subprocess.DEVNULL)


def events(out: Path) -> list[dict[str, Any]]:
    log = out / "train.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def wait_for(process: subprocess.Popen[bytes], condition: Any) -> None:
    """Polls until the condition holds; stops everything when the process ends before or nothing comes."""
    begin = time.monotonic()
    while not condition():
        if process.poll() is not None or time.monotonic() - begin > PATIENCE_S:
            process.kill()
            raise SeedgramError(f"the run ended or stood still (exit code {process.poll()}); run it alone to see why")
        time.sleep(0.05)


def curve(out: Path) -> dict[int, float]:
    """{step: mean loss of the log window in nats}, the resumed run's where both logged a step."""
    return {e["step"]: e["loss_nats"] for e in events(out) if e["event"] == "step"}


def main() -> int:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of shards")
    parser.add_argument("--tokenizer", required=True, metavar="M", help="SentencePiece model of the shards")
    parser.add_argument("--preset", default="seed1095", help="of the run [seed1095]")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="of the run [100]")
    parser.add_argument("more", nargs="*", help="after --: more flags of train_gpt.py")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        trained = [lambda run=run: any(e["event"] == "trained" for e in events(run)) for run in (whole, killed)]
        first = start(flags, whole)
        wait_for(first, trained[0])
        first.kill()
        process = start(flags, killed)
        wait_for(process, lambda: max(curve(killed), default=0) > flags.steps // 2 and (killed / "checkpoint.bin").exists())
        process.kill()
        process.wait()
        before = max(curve(killed))
        process = start(flags, killed, "--resume=auto")
        wait_for(process, trained[1])
        process.kill()
        resumed = [e["step"] for e in events(killed) if e["event"] == "resume"]
        left, right = curve(whole), curve(killed)
    for step in sorted(set(left) & set(right)):
        print(f"step {step:>6}  undisturbed {left[step]:.4f}  killed and resumed {right[step]:.4f}")
    apart = {step: abs(left[step] - right[step]) for step in set(left) & set(right)}
    start_step = resumed[0] if resumed else 0
    noise = max((d for step, d in apart.items() if step <= start_step), default=0.0)
    # windows that lie wholly behind it, though losses reach the log late
    after = [d / left[step] for step, d in apart.items() if step - LOG_EVERY - QUEUE_STEPS >= start_step]
    worst = max(after, default=float("inf"))
    goes_on = start_step > 0 and worst <= max(0.01, 2 * noise / left[max(left)])
    print(f"killed at step {before} or later, resumed at step {start_step}; after it at most {100 * worst:.2f} % apart, before it {noise:.4f} nats")
    print("the curve continues" if goes_on else "the curve does NOT continue")
    return int(not goes_on)


if __name__ == "__main__":
    run_cli(main)
