"""What two machines must share for their floating-point bits to be equal, as far as one can tell from outside."""

import hashlib
import importlib.metadata
import platform
from pathlib import Path

import numpy as np
import torch

from ngram.errors import SeedgramError

NAMES = {
    "c": "program code",
    "d": "device",
    "i": "instruction set",
    "l": "C library",
    "n": "numpy",
    "p": "processor",
    "r": "constriction",
    "s": "system",
    "t": "torch",
    "u": "numba",
}
LONGEST = 40  # bytes a value: the whole must fit a header of 512


class FingerprintError(SeedgramError):
    """The file was made on a kind of machine whose arithmetic may differ from this one's."""


def fingerprint(device: torch.device) -> dict[str, str]:
    """{short name: value}, see NAMES."""
    cuda = device.type == "cuda"
    values = {
        "c": code_digest(),
        "d": f"{torch.cuda.get_device_name(device)} {torch.version.cuda}" if cuda else "cpu",
        "i": torch.backends.cpu.get_cpu_capability(),
        "l": "-".join(platform.libc_ver()),
        "n": np.__version__,
        "p": _processor(),
        "r": importlib.metadata.version("constriction"),
        "s": f"{platform.system()} {platform.machine()}",
        "t": torch.__version__,
        "u": importlib.metadata.version("numba"),
    }
    return {name: value[:LONGEST] for name, value in values.items()}


def check(stored: dict[str, str], device: torch.device, where: str) -> None:
    """Raises FingerprintError that names the differences between the file `where` and this machine."""
    found = fingerprint(device)
    differences = [f"{NAMES.get(k, k)} {stored.get(k)!r} there, {found.get(k)!r} here" for k in sorted({*stored, *found}) if stored.get(k) != found.get(k)]
    if differences:
        raise FingerprintError(f"{where}: made on another kind of machine ({'; '.join(differences)}); decode it where these agree")


def code_digest() -> str:
    """First 16 hex digits of the SHA-256 over the sources of both packages."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for path in sorted([*root.glob("hybrid/*.py"), *root.glob("ngram/*.py")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """The processor's model name: libraries choose kernels by it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
