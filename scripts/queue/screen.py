"""Compares settings at equal training time: trains each for the same seconds of GPU, and scores the network on the validation shards.

    python scripts/queue/screen.py --data DIR --work DIR --for-seconds 50 VARIANTS [-- flags for all of them]

VARIANTS is a text file with a line `name: --flag value …` for each run, on top of --preset and the common flags.  Nothing is counted,
packed or blended: the figures are the network's bits per byte as trained and after plain rounding, so that a lease holds many runs.
Several processes prepare, compile and round beside each other, but only one trains at a time.  A run is one JSON line of
DIR/results.jsonl; a later call skips the names found there.
"""

import argparse
import fcntl
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # works from a checkout that is not installed

import numpy as np
import torch

from hybrid.data.load_stream import load_stream
from hybrid.data.shards import Loader, find_shards
from hybrid.data.token_bytes import TokenBytes, bits_per_byte
from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import count_stored
from hybrid.parallel import ranks as distributed
from hybrid.scoring import windows
from hybrid.settings import config, presets
from hybrid.storing import quantise
from hybrid.training import checkpoint
from hybrid.training.inputs import Inputs
from hybrid.training.run_log import RunLog
from hybrid.training.trainer import Trainer
from ngram.errors import run_cli
from ngram.terminal import OneLineParser

POLL_S = 0.2
COMPILE_STEPS = 3  # before a run has the GPU to itself: enough to compile everything, too few to disturb the run beside it


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """The GPU for this process, among those of this script."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def entropy_bytes(meta: list[Any], sections: dict[str, bytes]) -> int:
    """What an ideal coder without context needs for the integers, a tensor at a time; everything else as it is."""
    total, offsets = 0.0, dict.fromkeys(sections, 0)
    for name, shape, bits, _ in meta:
        count = int(np.prod(shape))
        if bits < 16:
            section = "embeddings" if name.endswith("embedding") else "matrices"
            values = np.frombuffer(sections[section], np.uint8, count, offsets[section])
            offsets[section] += count
            share = np.bincount(values, minlength=256) / count
            total -= count * float((share[share > 0] * np.log2(share[share > 0])).sum()) / 8
    return round(total) + sum(len(sections[name]) for name in ("remainders", "scales", "vectors") if name in sections)


def train_one(flags: argparse.Namespace, name: str) -> dict[str, Any]:
    """One variant, from its flags to its figures."""
    began = time.monotonic()
    fixed = {"cache.ngram_order": 0, "train.warmup_steps": COMPILE_STEPS, "train.seconds": flags.for_seconds}
    settings = config.override(presets.get(flags.preset), {**vars(flags), **fixed})
    ranks = distributed.start()
    train = settings.train
    loader = Loader(
        find_shards(flags.data, "train"),
        batch_rows=train.batch_tokens // train.seq_len,
        seq_len=train.seq_len,
        history=1,
        seed=train.seed,
        holdout_tokens=train.holdout_tokens,
        vocab_size=settings.model.vocab_size,
    )
    torch.manual_seed(train.seed)
    model = HybridLM(settings.model).to(ranks.device)
    folder = flags.work / name
    folder.mkdir(parents=True, exist_ok=True)
    log = RunLog(folder / "train.jsonl", active=True)
    trainer = Trainer(settings, Inputs(loader, model, b"", loader.holdout()), ranks, log)
    compile_s = trainer.warm_up()
    tokens = load_stream(flags.data, "val", settings.model.vocab_size)
    size = int(TokenBytes.from_model((Path(flags.data) / "tokenizer.model").read_bytes()).count(tokens).sum())

    def bpb(model: HybridLM) -> float:
        return bits_per_byte(float(windows.neural_nats(model, tokens, train.seq_len, ranks).sum()), size)

    with alone(flags.work / "gpu.lock"):
        result = trainer.run(checkpoint.Writer(folder / "checkpoint.bin"))
        plain = bpb(model)
    log.show("scored", bpb=plain)
    if not flags.keep:
        (folder / "checkpoint.bin").unlink()
    meta, sections = quantise.encode_state(model.state_dict(), settings.quant)
    state = quantise.decode_state(meta, sections)
    model.load_state_dict(state)
    return {
        "name": name,
        "bpb": plain,
        "rounded_bpb": bpb(model),
        "rounded_bytes": entropy_bytes(meta, sections),
        "parameters": count_stored(model),
        "steps": result.steps,
        "step_ms": 1000 * result.wall_s / result.steps,
        "loss_nats": result.loss_nats,
        "compile_s": compile_s,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if ranks.device.type == "cuda" else None,
        "wall_s": time.monotonic() - began,
        "flags": flags.line,
    }


def read_variants(path: Path) -> dict[str, str]:
    """{name: flags} of the lines of a file, without empty ones and comments."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return {name.strip(): rest.strip() for name, _, rest in (line.partition(":") for line in lines if line and not line.startswith("#"))}


def done(flags: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The figures so far, by name."""
    path = flags.work / "results.jsonl"
    return {one["name"]: one for one in map(json.loads, path.read_text().splitlines())} if path.exists() else {}


def queue(flags: argparse.Namespace, common: list[str]) -> int:
    """Starts a process for each variant that is missing, --jobs at a time, while another is expected to end in time."""
    began, running, failed = time.monotonic(), dict[str, "subprocess.Popen[bytes]"](), 0
    waiting = [(name, line) for name, line in read_variants(flags.variants).items() if name not in done(flags)]
    flags.work.mkdir(parents=True, exist_ok=True)
    while waiting or running:
        late = flags.budget_s and time.monotonic() - began + flags.for_seconds + flags.overhead_s > flags.budget_s
        while waiting and len(running) < flags.jobs and not late:
            name, line = waiting.pop(0)
            command = [sys.executable, __file__, "--worker", name, "--data", flags.data, "--work", str(flags.work), "--preset", flags.preset]
            command += ["--for-seconds", str(flags.for_seconds), *(["--keep"] if flags.keep else [])]
            with open(flags.work / f"{name}.log", "ab") as out:
                running[name] = subprocess.Popen([*command, *common, *shlex.split(line)], stdout=out, stderr=subprocess.STDOUT)
        if not running:
            break
        time.sleep(POLL_S)
        for name, process in list(running.items()):
            if process.poll() is not None:
                del running[name]
                failed += process.returncode != 0
                print(show(done(flags)[name]) if process.returncode == 0 else f"{name}: failed, see {flags.work / name}.log", flush=True)
    return int(bool(failed or waiting))


def show(one: dict[str, Any]) -> str:
    return (
        f"{one['name']:24} {one['bpb']:.4f}  rounded {one['rounded_bpb']:.4f} in {one['rounded_bytes'] / 1e6:6.2f} MB  {one['steps']:5} steps of "
        f"{one['step_ms']:6.2f} ms  {one['parameters'] / 1e6:.2f} M  compile {one['compile_s']:.0f} s  {one['peak_gib'] or 0:.1f} GiB  {one['wall_s']:.0f} s"
    )


def main() -> int:
    parser = OneLineParser(prog="screen.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="?", type=Path, help="file of `name: --flag value …` lines")
    parser.add_argument("--data", required=True, help="prepared folder: shards and tokenizer.model")
    parser.add_argument("--work", required=True, type=Path, help="folder of results and logs")
    parser.add_argument("--preset", default="dense9", choices=presets.names())
    parser.add_argument("--for-seconds", type=float, default=50.0, help="training time of each run; s [50]")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time [2]")
    parser.add_argument("--budget-s", type=float, default=0.0, help="start no run that would end after so long; 0: no limit; s")
    parser.add_argument("--overhead-s", type=float, default=60.0, help="expected for compiling and scoring; s [60]")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    config.add_flags(parser)
    argv, common = sys.argv[1:], list[str]()
    if "--" in argv:
        argv, common = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    flags = parser.parse_args(argv)
    if flags.worker is None:
        return queue(flags, common)
    flags.line = shlex.join(f"--{key}={value}" for key, value in vars(flags).items() if "." in key)
    record = train_one(flags, flags.worker)
    with alone(flags.work / "results.lock"), open(flags.work / "results.jsonl", "a") as out:
        out.write(json.dumps(record) + "\n")
    return 0


if __name__ == "__main__":
    run_cli(main)
