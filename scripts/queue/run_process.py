"""One run of scripts/queue/run_presets.py as processes: train_gpt.py, then eval.py, each with its log, taken up where it was cut off."""

import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from scripts.queue.run_results import Record, events

ROOT = Path(__file__).resolve().parents[2]
NICE = 10  # of packing, so that it gives way to the training beside it


@dataclass
class Run:
    """One preset on its way through train, val and fineweb.

    slot: the GPU that it trains on, -1: CPU.  beside: runs that packed on the same machine while this one trained."""

    key: Record
    folder: Path
    stages: list[tuple[str, list[str], Path]]  # (name, command, the file that says it is done)
    slot: int = -1
    process: "subprocess.Popen[bytes] | None" = None
    stage: int = 0
    began: float = 0.0
    trained_before: int = 0  # "trained" lines in the log from before this start
    training: bool = True
    resumed: bool = False
    peak_host_bytes: int = 0
    beside: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.folder.name

    def count_trained(self) -> int:
        return sum(event["event"] == "trained" for event in events(self.folder / "train.jsonl"))

    def start(self) -> None:
        """Starts the next stage that is not done yet; packing when there is only that left to do."""
        artifact = self.folder / "artifact.bin"
        while self.stages[self.stage][2].exists() and artifact.exists() and self.stage < len(self.stages) - 1:
            self.stage += 1
        name, command, _ = self.stages[self.stage]
        self.training = name == "train"
        if self.training:  # what was scored before is about another artifact
            for _, _, product in self.stages:
                product.unlink(missing_ok=True)
        self.trained_before = self.count_trained()
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        if self.slot >= 0:
            environment["CUDA_VISIBLE_DEVICES"] = visible_device(self.slot)
        with open(self.folder / f"{name}.log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, process_group=0, preexec_fn=end_with_parent
            )
        if not self.training:
            self.give_way()

    def poll(self) -> int | None:
        """The stage's exit code, None while it runs; notes the end of training and the largest host memory."""
        assert self.process is not None
        if self.training and self.count_trained() > self.trained_before:
            self.training = False
            self.give_way()
        self.peak_host_bytes = max(self.peak_host_bytes, host_bytes(self.process.pid))
        return self.process.poll()

    def give_way(self) -> None:
        """Lets a run that trains on a GPU go first; on a CPU nothing trains beside."""
        if self.slot >= 0 and self.process is not None:
            give_way(self.process.pid)

    def last_line(self) -> str:
        """The last line that the stage wrote, for the record of a failure."""
        text = (self.folder / f"{self.stages[self.stage][0]}.log").read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else "no output"

    def stop(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)


def end_with_parent() -> None:
    """In the child: SIGTERM when the queue dies, even of SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG


def visible_device(slot: int) -> str:
    """The slot-th GPU of those that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[slot].strip() if given else str(slot)


def give_way(pid: int) -> None:
    """Lowers the priority of all threads of a process."""
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), NICE)
    except OSError:
        pass  # it has ended, or the system has no /proc


def host_bytes(pid: int) -> int:
    """The largest resident memory a process has had so far; 0 where the system does not say."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 0
