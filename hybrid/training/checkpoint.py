"""Checkpoints: everything a killed run needs to end in the same bits, in one atomic file.  No pickle.

Counts are not stored: counted again on resume, at millions of tokens a second, they give the same table bit for bit.
"""

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ngram.container import atomic_write, pack, read_bytes, unpack
from ngram.errors import FileFormatError, SeedgramError
from ngram.threads import Worker

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

INTERRUPTED = 75  # exit code of a run that a signal has stopped, to be continued (sysexits.h: EX_TEMPFAIL)
MAGIC = b"SGCKPT\0\0"
VERSION = 4  # SECURITY.md


def snapshot(tree: Any) -> tuple[list[torch.Tensor], str]:
    """Copies of a tree's tensors on the host, taken now, and the tree of dicts, lists and numbers as JSON, where {"tensor": i} is the i-th."""
    tensors: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> dict[str, int]:
        tensors.append(tensor.detach().to("cpu", copy=True))
        return {"tensor": len(tensors) - 1}

    return tensors, json.dumps(tree, default=keep)


def save(path: Path, tensors: Sequence[torch.Tensor], skeleton: str) -> None:
    """Writes a snapshot atomically: the previous checkpoint stays whole until the new one is on disk.

    Raises SeedgramError, before anything is written, if a tensor holds NaN or infinite values."""
    if not all(bool(torch.isfinite(t).all()) for t in tensors):
        raise SeedgramError(f"{path}: not written, weights or optimisers hold NaN or infinite values; lower --matrix-lr, then --resume")
    sections = {str(i): t.reshape(-1).view(torch.uint8).numpy().tobytes() for i, t in enumerate(tensors)}
    table = [[str(t.dtype).removeprefix("torch."), list(t.shape)] for t in tensors]
    atomic_write(path, pack(MAGIC, VERSION, {"tree": skeleton, "tensors": table}, sections))


def load(path: Path) -> Any:
    """The tree that was saved, tensors on the CPU.  Raises FileFormatError naming the file."""
    header, sections = unpack(read_bytes(path), MAGIC, VERSION, str(path))
    try:
        tensors = []
        for (dtype, shape), section in zip(header["tensors"], sections.values(), strict=True):
            tensors.append(torch.tensor(np.frombuffer(section, np.uint8)).view(getattr(torch, dtype)).reshape(shape))
        return json.loads(header["tree"], object_hook=lambda part: tensors[part["tensor"]] if part.keys() == {"tensor"} else part)
    except (LookupError, ValueError, TypeError, RuntimeError, AttributeError, OverflowError, RecursionError) as error:
        raise FileFormatError(f"{path}: malformed checkpoint ({str(error).splitlines()[0]}); delete it and start again") from None


class Writer(Worker):
    """Writes snapshots to `path` on a background thread, one at a time; the next call raises what the last write raised."""

    def __init__(self, path: Path) -> None:
        super().__init__("checkpoint", 1)
        self.path = path

    def write(self, tensors: Sequence[torch.Tensor], skeleton: str) -> None:
        self.wait()
        self.submit(partial(save, self.path, tensors, skeleton))


def check_resume(path: Path, resume: str | None) -> None:
    """Raises SeedgramError for a --resume with nothing to continue from, which would train from the beginning without a word.

    resume: "yes", "auto" (start from the beginning where there is no checkpoint), or None."""
    if resume == "yes" and not path.exists():
        finished = path.with_name("summary.json").exists()
        left = f": a run has finished here, and {path.with_name('artifact.bin')} is what eval.py scores" if finished else ""
        how = "leave --resume out to train from the beginning, or give --resume=auto to do so where there is none"
        raise SeedgramError(f"{path}: no checkpoint to --resume from{left}; {how}")


class RunFolder:
    """A run's folder, held by one process at a time through a lock that dies with the process."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a")
        except OSError as error:
            raise SeedgramError(f"{self.path}: cannot use as run folder: {error.strerror}; choose another --out") from None
        try:
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise SeedgramError(f"{self.path}: another run is using this folder; wait for it or choose another --out") from None
        for litter in [*self.path.glob(".checkpoint.bin.*"), *self.path.glob(".artifact.bin.*")]:
            litter.unlink(missing_ok=True)  # what a killed run had not finished writing

    def close(self) -> None:
        self._lock.close()
