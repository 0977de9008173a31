"""Start-up: seconds of small commands with the cache of compiled kernels off, with an empty one, and with the user's, filled before.

    python scripts/bench/startup.py --artifact runs/quickstart/artifact.bin [--rounds 3] [--cold-rounds 1] [--json F]

Each round runs every command in turn, so that whatever else the machine does falls on all alike; the load is in the output.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.scoring.report import write_json
from hybrid.storing import artifact
from ngram.errors import SeedgramError, run_cli
from ngram.private_files import VARIABLE
from scripts.bench.common import make_parser, markdown

ROOT = Path(__file__).resolve().parents[2]
TEXT = b"The quick brown fox jumps over the dog\n"  # 39 bytes


@dataclass(frozen=True)
class Start:
    """One process, from before its start to after its end: wall and processor (user and system) seconds."""

    wall_s: float
    cpu_s: float


def start(command: Sequence[str], cache: str | None = None) -> Start:
    """Runs a command of the project with a folder for its kernels; "": none, None: the user's.  Raises SeedgramError if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({} if cache is None else {VARIABLE: cache})
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    wall_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SeedgramError(f"{' '.join(command)}: exit code {done.returncode} ({done.stderr.strip()[-300:]})")
    return Start(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def commands(folder: Path, artifact_path: Path) -> dict[str, list[str]]:
    """The small commands, on files made for them in `folder`."""
    text, coded, model = folder / "text", folder / "coded", folder / "model"
    text.write_bytes(TEXT)
    (folder / "tokenizer.model").write_bytes(artifact.load(artifact_path).tokenizer)
    train = ["-m", "ngram", "train", "--train", str(ROOT / "README.md"), "--tokenizer", str(folder / "tokenizer.model"), "--out", str(model)]
    with_artifact = ["--artifact", str(artifact_path.resolve())]
    compress = ["-m", "hybrid", "compress", str(text), "-o", str(coded), *with_artifact]
    for command in (train, compress):
        start(command)
    return {
        "import torch": ["-c", "import torch"],
        "seedgram compress": compress,
        "seedgram decompress": ["-m", "hybrid", "decompress", str(coded), "-o", str(folder / "back"), *with_artifact],
        "seedgram score": ["-m", "hybrid", "score", str(text), *with_artifact],
        "ngram score": ["-m", "ngram", "score", "--model", str(model), "--test", str(text)],
        "ngram score --online": ["-m", "ngram", "score", "--model", str(model), "--test", str(text), "--online"],
        "ngram warm-up": ["-m", "ngram", "warm-up"],
    }


def measure(todo: Mapping[str, Sequence[str]], rounds: int, cold_rounds: int, folder: Path) -> dict[str, dict[str, list[Start]]]:
    """{command: {"off", "first", "later": starts}}; "first" has an empty folder each time, "later" the user's after one start."""
    out: dict[str, dict[str, list[Start]]] = {name: {"off": [], "first": [], "later": []} for name in todo}
    for command in todo.values():
        start(command)
    for turn in range(max(rounds, cold_rounds)):
        for name, command in todo.items():
            if turn < cold_rounds:
                out[name]["off"].append(start(command, ""))
                out[name]["first"].append(start(command, str(folder / f"{turn} {name}")))
            if turn < rounds:
                out[name]["later"].append(start(command))
    return out


def _cell(starts: Sequence[Start]) -> str:
    walls, works = [one.wall_s for one in starts], [one.cpu_s for one in starts]
    return f"{statistics.median(walls):.2f} (min {min(walls):.2f}; processor {statistics.median(works):.2f})" if starts else "–"


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--artifact", type=Path, required=True, metavar="A", help="artifact.bin of a run")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="starts of each command with its kernels in the cache [3]")
    parser.add_argument("--cold-rounds", type=int, default=1, metavar="N", help="starts without them, about half a minute each; 0: none [1]")
    parser.add_argument("--json", metavar="F", help="write the figures there too")
    flags = parser.parse_args()
    if flags.rounds < 1 or flags.cold_rounds < 0:
        parser.error("--rounds must be at least 1, --cold-rounds at least 0")
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = measure(commands(folder, flags.artifact), flags.rounds, flags.cold_rounds, folder)
    loads, cores = (load_before, os.getloadavg()), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"seconds from start to end, median of {flags.cold_rounds} cold and {flags.rounds} later starts; ", end="")
    print(f"{cores} cores, load {loads[0][0]:.1f} … {loads[1][0]:.1f}\n")
    rows = [[command, *map(_cell, kinds.values())] for command, kinds in found.items()]
    print(markdown(["command", "cache off", "first start", "later starts"], rows))
    plain = json.loads(json.dumps(found, default=vars))
    write_json(flags.json, {"cores": cores, "load": loads, "commands": plain})
    return 0


if __name__ == "__main__":
    run_cli(main)
