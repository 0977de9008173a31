"""Trains, packs and scores presets one after another, so that several short sessions on a machine add up to one table.

    python scripts/queue/run_presets.py --data WEB --fineweb FILE.bin --work DIR [--budget-s S] [PRESET …] [-- --steps 20 …]
    python scripts/queue/run_presets.py --table DIR/results.jsonl

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

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # works from a checkout that is not installed

from hybrid.settings.config import ConfigError
from hybrid.training.checkpoint import RunFolder
from ngram.errors import run_cli
from scripts.queue.flags import parse
from scripts.queue.run_process import Run
from scripts.queue.run_results import Record, append_result, events, key_of, measured, read_results, table

POLL_S = 0.2
STOP_S = 30  # for a run to save its checkpoint after SIGTERM


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
    train += ["--out", str(folder), "--resume=auto", "--no-score", "--seed", str(flags.seed), "--seconds", str(flags.seconds)]
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


def main() -> int:
    flags = parse(sys.argv[1:], __doc__)
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
