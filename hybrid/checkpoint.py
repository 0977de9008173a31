"""Checkpoints: everything a killed run needs to end in the same bits, in one atomic file.  No pickle.

The file is a container (ngram/container.py): JSON header with the settings and numbers, one section per tensor.  Counts
are not stored: they are a function of the loader's position and are counted again on resume, at millions of tokens a
second, which is smaller, needs no trust and gives the same table bit for bit.
"""

import fcntl
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ngram.container import atomic_write, pack, read_bytes, unpack
from ngram.errors import FileFormatError, SeedgramError

MAGIC = b"SGCKPT\0\0"
VERSION = 2  # 2: digests of the training shards
_DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
}


def flatten(tree: Any, prefix: str = "") -> tuple[dict[str, torch.Tensor], Any]:
    """Splits nested dicts and lists into {path: tensor} and a JSON skeleton in which "@path" stands for the tensor."""
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}, "@" + prefix
    if isinstance(tree, Mapping):
        items = {str(k): flatten(v, f"{prefix}/{k}") for k, v in tree.items()}
        skeleton: Any = {"keys": [[type(k).__name__, k] for k in tree], "values": [s for _, s in items.values()]}
        return {p: t for tensors, _ in items.values() for p, t in tensors.items()}, skeleton
    if isinstance(tree, (list, tuple)):
        parts = [flatten(v, f"{prefix}/{i}") for i, v in enumerate(tree)]
        return {p: t for tensors, _ in parts for p, t in tensors.items()}, [s for _, s in parts]
    if tree is None or isinstance(tree, (int, float, str, bool)):
        return {}, {"value": tree}
    raise TypeError(f"{prefix}: a {type(tree).__name__} cannot go into a checkpoint")


def unflatten(skeleton: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of `flatten`; tuples come back as lists."""
    if isinstance(skeleton, str):
        return tensors[skeleton[1:]]
    if isinstance(skeleton, list):
        return [unflatten(s, tensors) for s in skeleton]
    if "value" in skeleton:
        return skeleton["value"]
    keys = [int(k) if kind == "int" else k for kind, k in skeleton["keys"]]
    return {k: unflatten(s, tensors) for k, s in zip(keys, skeleton["values"], strict=True)}


def snapshot(tree: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """A copy of every tensor on the host, taken now; the slow writing may follow later on another thread."""
    tensors, skeleton = flatten(tree)
    return {path: tensor.detach().to("cpu", copy=True) for path, tensor in tensors.items()}, skeleton


def save(path: Path, tensors: Mapping[str, torch.Tensor], skeleton: Any) -> None:
    """Writes a snapshot atomically: the previous checkpoint stays whole until the new one is on disk.

    Raises SeedgramError, before anything is written, for a tensor that holds values that are no numbers."""
    for name, t in tensors.items():
        if t.is_floating_point() and not bool(torch.isfinite(t).all()):
            raise SeedgramError(f"{path}: not written, {name} holds values that are no numbers; lower --matrix-lr, then --resume")
    sections = {
        name: t.contiguous().view(torch.uint8).numpy().tobytes() if t.dim() else t.reshape(1).view(torch.uint8).numpy().tobytes()
        for name, t in tensors.items()
    }
    table = {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors.items()}
    atomic_write(path, pack(MAGIC, VERSION, {"skeleton": skeleton, "tensors": table}, sections))


def load(path: Path) -> Any:
    """The tree that was saved, tensors on the CPU.  Raises FileFormatError naming the file."""
    header, sections = unpack(read_bytes(path), MAGIC, VERSION, str(path))
    try:
        tensors = {}
        for name, (dtype, shape) in header["tensors"].items():
            data = torch.frombuffer(bytearray(sections[name]), dtype=torch.uint8) if sections[name] else torch.empty(0, dtype=torch.uint8)
            tensors[name] = data.view(_DTYPES[dtype]).reshape(shape).clone()
        return unflatten(header["skeleton"], tensors)
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, OverflowError, RecursionError) as error:
        raise FileFormatError(f"{path}: malformed checkpoint ({str(error).splitlines()[0]}); delete it and start again") from None


class Writer:
    """Writes snapshots on a background thread, one at a time; a failure surfaces on the next call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, tensors: Mapping[str, torch.Tensor], skeleton: Any) -> None:
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(tensors, skeleton), name="checkpoint")
        self._thread.start()

    def _write(self, tensors: Mapping[str, torch.Tensor], skeleton: Any) -> None:
        try:
            save(self.path, tensors, skeleton)
        except BaseException as error:
            self._error = error

    def ready(self) -> bool:
        """Whether nothing is being written; raises what the last write raised, once it is over."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self.wait()
        return True

    def wait(self) -> None:
        """Returns when nothing is being written; raises what the last write raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error


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
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise SeedgramError(f"{self.path}: another run is using this folder; wait for it or choose another --out") from None
        for litter in [*self.path.glob(".checkpoint.bin.*"), *self.path.glob(".artifact.bin.*")]:
            litter.unlink(missing_ok=True)  # what a killed run had not finished writing

    def close(self) -> None:
        self._lock.close()
