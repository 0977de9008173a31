"""Trains, packs and scores presets one after another, so that several short machine leases add up to one table.

    python scripts/run_presets.py --data WEB --fineweb FILE.bin --work DIR [--budget-s S] [PRESET …] [-- --steps 20 …]
    python scripts/run_presets.py --table DIR/results.jsonl

Each run is train_gpt.py, then eval.py on `val` and on the FineWeb shard, all on the packed artifact.  As soon as a run says "trained",
the next one gets its GPU: packing and scoring go on beside it.  A finished run is one line of the results file; a later call skips
what the file has for this commit, and takes up a run that was cut off where its checkpoint or artifact is.  What follows `--` is
passed on to train_gpt.py.  Exit code 0: everything asked for is in the file; 1: something failed or is left over.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # works from a checkout that is not installed

import torch
from run_process import Run
from run_results import Record, append_result, events, key_of, measured, read_results, table

from hybrid import presets
from hybrid.checkpoint import RunFolder
from hybrid.config import ConfigError, OneLineParser
from ngram.errors import run_cli

POLL_S = 0.2
STOP_S = 30  # for a run to save its checkpoint after SIGTERM
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


def make_run(flags: argparse.Namespace, preset: str) -> Run:
    """Paths and commands of one run.  Raises ConfigError when its data are not there."""
    own = preset in flags.data_for  # its vocabulary, so the common tokenizer and FineWeb shard do not fit it
    data = Path(flags.data_for.get(preset, flags.data))
    model = Path(flags.tokenizer_for.get(preset) or (not own and flags.tokenizer) or data / "tokenizer.model")
    fineweb = flags.fineweb_for.get(preset) or (None if own else flags.fineweb)
    for path in (data, model, *([Path(fineweb)] if fineweb else [])):
        if not path.exists():
            raise ConfigError(f"{path}: not found, needed for {preset}; check --data, --tokenizer, --fineweb and their -for forms")
    key = {"commit": flags.commit, "preset": preset, "seed": flags.seed, "seconds": flags.seconds, "flags": flags.passed_on}
    digest = f"-{zlib.crc32(repr(flags.passed_on).encode()):08x}" if flags.passed_on else ""
    folder = flags.work / f"{preset}-seed{flags.seed}-{flags.seconds:g}s-{flags.commit[:12]}{digest}"
    device = ["--device", "cpu"] if flags.gpus == 0 else []
    train = [sys.executable, str(ROOT / "train_gpt.py"), "--preset", preset, "--data", str(data), "--tokenizer", str(model)]
    train += ["--out", str(folder), "--resume", "--no-score", "--seed", str(flags.seed), "--seconds", str(flags.seconds)]
    stages = [("train", [*train, *device, *flags.passed_on], folder / "summary.json")]
    for name, source in (("val", data), ("fineweb", fineweb)):
        if source:
            score = [sys.executable, str(ROOT / "eval.py"), "--artifact", str(folder / "artifact.bin"), "--data", str(source)]
            stages.append((name, [*score, "--json", str(folder / f"{name}.json"), *device], folder / f"{name}.json"))
    return Run(key, folder, stages)


class Queue:
    """Runs in order, one training a GPU at a time, packing beside it; every end of a run is written down at once."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self.flags, self.began, self.signals = flags, time.monotonic(), list[int]()
        known = {key_of(one): one["status"] for one in read_results(flags.results)}
        self.waiting, self.running, self.failed = list[Run](), list[Run](), 0
        for run in (make_run(flags, preset) for preset in flags.presets):
            status = known.get(key_of(run.key))
            if status == "ok" or (status == "failed" and not flags.retry_failed):
                self.say(run, f"{'already there' if status == 'ok' else 'failed before; --retry-failed tries again'}")
                self.failed += status == "failed"
            else:
                self.waiting.append(run)

    def say(self, run: Run, what: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f} s  {run.name}: {what}", flush=True)

    def run(self) -> int:
        """Until nothing is left that fits into the budget, or SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda got, _: self.signals.append(got))
        try:
            while not self.signals and not self.over_budget():
                self.fill_slots()
                if not self.running:
                    break
                time.sleep(POLL_S)
                for run in list(self.running):
                    self.step(run)
        finally:
            self.stop_all()
        for run in self.waiting:
            self.say(run, "left for the next call")
        if self.signals:
            return 128 + self.signals[0]
        return int(bool(self.failed or self.waiting))

    def over_budget(self) -> bool:
        return bool(self.flags.budget_s) and time.monotonic() - self.began >= self.flags.budget_s

    def expected_s(self, run: Run) -> float:
        """What a run will take: its training that is left, and the largest overhead measured for this preset, or for any, so far."""
        on_cpu = self.flags.gpus == 0
        seen = [
            one
            for one in read_results(self.flags.results)
            if one["status"] == "ok" and not one["resumed"] and one["device"].startswith("CPU") == on_cpu
        ]
        mine = [one for one in seen if one["preset"] == run.key["preset"]]
        overhead = max((one["wall_s"] - one["train_s"] for one in mine or seen), default=self.flags.overhead_s)
        trained_s = max((event["wall_s"] for event in events(run.folder / "train.jsonl") if event["event"] == "trained"), default=0.0)
        return max(0.0, self.flags.seconds - trained_s) + overhead

    def fill_slots(self) -> None:
        """Starts the first waiting run that can end in time on each GPU where nothing trains."""
        for slot in range(self.flags.gpus) if self.flags.gpus else [-1]:
            here = [run for run in self.running if run.slot == slot]
            if any(run.training for run in here) or len(here) > self.flags.packing:
                continue
            left = self.flags.budget_s - (time.monotonic() - self.began) if self.flags.budget_s else float("inf")
            run = next((run for run in self.waiting if self.expected_s(run) <= left), None)
            if run is not None:
                self.waiting.remove(run)
                run.beside = {other.name for other in self.running if not other.training}
                self.running.append(run)
                run.slot, run.began = slot, time.monotonic()
                run.resumed = (run.folder / "train.jsonl").exists()
                run.start()
                self.say(
                    run, f"{run.stages[run.stage][0]} on {f'GPU {slot}' if slot >= 0 else 'the CPU'}, {self.expected_s(run):.0f} s expected"
                )

    def step(self, run: Run) -> None:
        """Looks after one run: on to its next stage, or its line in the results file."""
        was_training, code = run.training, run.poll()
        if was_training and not run.training and code is None:
            self.say(run, "trained, packing")
        if run.training:
            run.beside |= {other.name for other in self.running if not other.training}
        if code is None:
            return
        name, _, product = run.stages[run.stage]
        if code or not product.exists():
            self.record(run, {"status": "failed", "stage": name, "exit": code, "last_line": run.last_line()})
        elif run.stage < len(run.stages) - 1:
            run.stage += 1
            run.start()
            self.say(run, run.stages[run.stage][0])
        else:
            self.finish(run)

    def finish(self, run: Run) -> None:
        try:
            figures = measured(run.folder, self.flags.peak_tflops)
        except (KeyError, ValueError, OSError) as error:
            self.record(run, {"status": "failed", "stage": "results", "exit": 0, "last_line": f"{type(error).__name__}: {error}"})
            return
        self.record(run, {"status": "ok", **figures})
        artifact = run.folder / "artifact.bin"
        if run.key["preset"] in self.flags.keep:
            self.flags.keep_in.mkdir(parents=True, exist_ok=True)
            shutil.move(artifact, self.flags.keep_in / f"{run.name}.bin")
        artifact.unlink(missing_ok=True)

    def record(self, run: Run, figures: Record) -> None:
        """One line into the results file, and one on screen."""
        self.running.remove(run)
        self.failed += figures["status"] == "failed"
        more = {
            "wall_s": time.monotonic() - run.began,
            "resumed": run.resumed,
            "beside": sorted(run.beside),
            "peak_host_bytes": run.peak_host_bytes,
        }
        append_result(self.flags.results, {**run.key, **figures, **more})
        val = figures.get("val", {})
        self.say(
            run, f"ok, blended {val['blended_bpb']:.4f} BPB on val" if val else f"failed in {figures['stage']}: {figures['last_line']}"
        )

    def stop_all(self) -> None:
        """Ends what still runs: SIGTERM, on which training saves its checkpoint, then SIGKILL."""
        for run in self.running:
            run.stop(signal.SIGTERM)
        end = time.monotonic() + STOP_S
        for run in self.running:
            try:
                run.process.wait(max(0.0, end - time.monotonic()))  # type: ignore[union-attr]
            except subprocess.TimeoutExpired:
                run.stop(signal.SIGKILL)
                run.process.wait()  # type: ignore[union-attr]
            self.say(run, f"stopped in {run.stages[run.stage][0]}; the next call takes it up")
        self.waiting = [*self.running, *self.waiting]
        self.running = []


def pair(text: str) -> tuple[str, str]:
    """PRESET=PATH of a flag."""
    preset, _, path = text.partition("=")
    if preset not in presets.names() or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not PRESET=PATH of a known preset")
    return preset, path


def parse(argv: list[str]) -> argparse.Namespace:
    """Flags; what follows `--` goes to train_gpt.py as it is."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = OneLineParser(prog="run_presets.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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


def main() -> int:
    flags = parse(sys.argv[1:])
    if flags.table:
        if not flags.table.exists():
            raise ConfigError(f"{flags.table}: no such results file; check the path")
        print(table(read_results(flags.table)))
        return 0
    lock = RunFolder(flags.work)
    code = Queue(flags).run()
    lock.close()
    return code


if __name__ == "__main__":
    run_cli(main)
