"""What two machines must share for their floating-point bits to be equal, as far as one can tell from outside.

Versions and names do not tell which of its code paths a library takes: the matrix library chooses by the processor, and by
environment variables that no version shows (MKL_CBWR, ATEN_CPU_CAPABILITY).  So a few fixed calculations are run as well, and
their bits are part of the fingerprint.
"""

import hashlib
import importlib.metadata
import platform
from pathlib import Path

import numpy as np
import torch

from hybrid.scoring.exact import exact
from ngram.errors import SeedgramError

NAMES = {
    "a": "arithmetic",
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
        "a": arithmetic(device),
        "c": code_digest(),
        "d": f"{torch.cuda.get_device_name(device)} {torch.version.cuda}" if cuda else "cpu",
        "i": torch.backends.cpu.get_cpu_capability(),
        "l": "-".join(platform.libc_ver()),
        "n": np.__version__,
        "p": processor_name(),
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


def arithmetic(device: torch.device) -> str:
    """First 16 hex digits of the SHA-256 of what this device makes of fixed inputs: products of a few shapes, one row and the
    coder's many, even and odd; attention; exponentials and logarithms of torch and NumPy."""
    with exact():
        products = [torch.mm(_input(m, k, device), _input(k, n, device)) for m, k, n in ((1, 512, 512), (64, 512, 512), (64, 513, 1031), (3, 65, 64))]
        heads = _input(8 * 65, 64, device).reshape(2, 4, 65, 64)
        attended = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        pointwise = [torch.log_softmax(_input(64, 1031, device) * 9, -1), torch.tanh(_input(1, 1031, device)), torch.rsqrt(_input(1, 1031, device) + 1)]
    digest = hashlib.sha256()
    for found in (*products, attended, *pointwise):
        digest.update(found.cpu().numpy().tobytes())
    numbers = np.arange(1, 1032) / 1031
    digest.update(np.log(numbers).tobytes() + np.exp(numbers).tobytes() + np.log1p(numbers.astype(np.float32)).tobytes())
    return digest.hexdigest()[:16]


def _input(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """(rows, columns) float32 between -1/2 and 1/2, each exact in any arithmetic: 20-bit fractions."""
    scattered = torch.arange(rows * columns, dtype=torch.int64) * 2654435761 % (1 << 20)
    return (scattered.to(torch.float32) / (1 << 20) - 0.5).reshape(rows, columns).to(device)


def code_digest() -> str:
    """First 16 hex digits of the SHA-256 over the sources of both packages."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[2]
    for path in code_files():
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def code_files() -> list[Path]:
    """Every Python file of both packages, at any depth: what `code_digest` reads."""
    root = Path(__file__).resolve().parents[2]
    return sorted([*root.glob("hybrid/**/*.py"), *root.glob("ngram/**/*.py")])


def processor_name() -> str:
    """The processor's model name: libraries choose kernels by it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
