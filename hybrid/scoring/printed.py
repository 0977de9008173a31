"""What eval.py prints: the command itself, run in a process of its own, so that no line between artifact and figure is left out.

The audit and the certificate hold their own figures against this one.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybrid.scoring.options import EvalOptions
from ngram.arrays import F64
from ngram.errors import SeedgramError
from ngram.terminal import stage

ROOT = Path(__file__).resolve().parents[2]
LAST_DIGIT = 1e-4  # of the figure in eval.py's table
TIMEOUT_S = 7200
SAME_FIGURE = 1e-9  # relative difference of two sums of the same bits


@dataclass(frozen=True)
class Printed:
    """bpb, tokens, size_bytes, artifact_bytes as read from the printed table; result: its JSON; bits (N-1,) float64 of every target."""

    bpb: float
    tokens: int
    size_bytes: int
    artifact_bytes: int
    result: dict[str, Any]
    bits: F64

    def fault(self, tokens: int, size_bytes: int, artifact_bytes: int) -> str:
        """Why the printed figure is not that of these bits over `tokens` targets that say `size_bytes` bytes, or the artifact's size is not
        its own; "" where all is as printed."""
        if self.result["artifact_bytes"] != artifact_bytes or self.artifact_bytes != artifact_bytes:
            return f"eval.py prints an artifact of {self.artifact_bytes:,} bytes, the file has {artifact_bytes:,}"
        if (self.tokens, self.size_bytes) != (tokens, size_bytes):
            return f"eval.py prints {self.tokens:,} tokens and {self.size_bytes:,} bytes, the text has {tokens:,} and {size_bytes:,}"
        if self.bits.shape != (tokens,) or not np.isfinite(self.bits).all():
            return f"eval.py gives bits of {self.bits.size:,} targets, the text has {tokens:,}; or some are not finite"
        bpb, told = float(self.bits.sum()) / size_bytes, float(self.result["blended_bpb"])
        if not abs(told - bpb) <= SAME_FIGURE * bpb:
            return f"eval.py says {told!r} bits per byte, its bits over the text's bytes are {bpb!r}"
        if not abs(self.bpb - bpb) <= 0.51 * LAST_DIGIT:
            return f"eval.py prints {self.bpb} bits per byte, its bits over the text's bytes are {bpb:.6f}"
        return ""


def printed_figure(text: str) -> tuple[float, int, int, int]:
    """(bits per byte, tokens, bytes, bytes of the artifact) that the table of scoring/report.py states.  Raises ValueError where it states none."""
    counts, figure = re.search(r": ([\d,]+) tokens, ([\d,]+) bytes", text), re.search(r"blended\D*([\d.]+)", text)
    network = re.search(r"network\D*([\d.]+)", text)
    artifact = re.search(r"artifact ([\d,]+) bytes", text)
    if counts is None or network is None or artifact is None:
        raise ValueError("no table of eval.py")
    tokens, size, stored = (int(number.replace(",", "")) for number in (*counts.groups(), artifact.group(1)))
    return float((figure or network).group(1)), tokens, size, stored


def flags_of(options: EvalOptions) -> list[str]:
    """The command line that says these options."""
    numbers = ("stride", "chunk_tokens", "read_tokens", "max_tokens", "protocol")
    words = [word for name in numbers for word in (f"--{name.replace('_', '-')}", str(getattr(options, name)))]
    switches = {"cache_by_chunk": True, "exact": True, "paranoid": True, "allow_overlap": True, "online": False, "match": False, "product": False}
    words += [("--" if on else "--no-") + name.replace("_", "-") for name, on in switches.items() if getattr(options, name) is on]
    words += [] if options.gate_learns else ["--fixed-gate"]
    if options.adapt is not None:
        chosen = {name.replace("_tokens", ""): value for name, value in asdict(options.adapt).items()}
        words += ["--ttt", *(word for name, value in chosen.items() for word in (f"--ttt-{name}", str(value)))]
    return words


def run_eval(
    artifact: str | os.PathLike[str], data: str | os.PathLike[str], options: EvalOptions, device: torch.device, ranks: int = 1
) -> Printed:
    """Runs eval.py, in so many processes, and reads what it says.  Raises SeedgramError with its reason where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        result, bits = Path(folder) / "result", Path(folder) / "bits"
        script = ROOT / "eval.py"  # an installed package has the same as a command
        start, own = ([str(script)], {}) if script.exists() else (["-m", "hybrid", "eval"], {"PYTHONSAFEPATH": "1"})
        several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
        command = [sys.executable, *several, *start, "--artifact", str(artifact), "--data", str(data), "--device", device.type]
        command += [*flags_of(options), "--json", str(result), "--bits", str(bits)]
        with stage(f"eval.py over {options.max_tokens:,} tokens" if options.max_tokens else "eval.py"):
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env={**os.environ, **own})
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            reason = ([line for line in lines if re.match(r"\w+Error: ", line)] or lines)[-1]  # torchrun says more behind it
            raise SeedgramError(f"eval.py failed with code {done.returncode}: {reason}")
        try:
            return Printed(*printed_figure(done.stdout), json.loads(result.read_text()), np.fromfile(bits, dtype="<f8"))
        except (ValueError, KeyError) as error:
            raise SeedgramError(f"eval.py's output cannot be read ({error}); report this") from None
