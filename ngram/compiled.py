"""`njit` for every kernel of the project: numba's, with the machine code kept in a folder of the user, so that only a first start compiles.

Each pair of kernel and argument types has a file of its own (private_files.py), named by a digest of everything its machine code follows
from; docs/decisions.md says why numba's own cache does not serve.  An error of the cache costs a compilation, never a result.
"""

import functools
import hashlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from numba.core import caching, compiler, config, event, serialize

from ngram.private_files import Store, store_of

NOT_IN_CODE = ("NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR")  # numba's settings that change no machine code
ANNOUNCE_AFTER_S = 2.0  # of compiling; what is faster needs no word


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """numba.njit that lets go of the interpreter, divides as NumPy does and loads machine code from the cache.

    With NUMBA_DISABLE_JIT=1 it leaves plain Python."""
    if function is None:
        return functools.partial(njit, **options)
    kernel = numba.njit(nogil=True, error_model="numpy", **options)(function)
    if not config.DISABLE_JIT:  # type: ignore[attr-defined]
        kernel._cache = KernelCache(function)  # where numba's own `cache=True` puts its cache
    return kernel


@functools.cache
def sources_digest(place: Path) -> bytes:
    """SHA-256 of a Python file, or of all below a folder with their names: a kernel's code follows from callees and constants in any."""
    digest = hashlib.sha256()
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(place).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.digest()


def package_folder(file: str) -> Path:
    """The folder of the top-level package that a file belongs to, or the file itself if it belongs to none."""
    place = Path(file).resolve()
    while (place.parent / "__init__.py").exists():
        place = place.parent
    return place


@functools.cache
def machine_key() -> str:
    """What all kernels of this process share, as a folder's name: sources, versions that compile them, processor."""
    versions = (sys.version, platform.machine(), numba.__version__, llvmlite.__version__, np.__version__)
    processor = (llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features().flatten())
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_") and item[0] not in NOT_IN_CODE)
    sources = sources_digest(package_folder(__file__))
    return hashlib.sha256(sources + repr((versions, processor, settings)).encode()).hexdigest()[:32]


@functools.cache
def store() -> Store:
    return store_of("kernels", machine_key)


_CLOCK = event.TimingListener()  # hears of every compilation of numba's in this process from now on; hearing changes nothing
event.register("numba:compile", _CLOCK)


def compile_seconds() -> float:
    """How long this process has compiled kernels, a kernel's callees counted once."""
    return float(_CLOCK.duration) if _CLOCK.done else 0.0


class KernelCache(caching.NullCache):
    """One kernel's place in the store, in the form that numba's dispatcher asks for.

    numba's classes beneath its public ones differ between versions, and whatever goes wrong here is mended by compiling: hence `except Exception`."""

    announces = False  # for commands to set, on their first rank: one line says why the first start takes long

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def _name(self, signature: Any, codegen: Any) -> str:
        """Of a file, from everything that decides this machine code beside the store's folder."""
        code = self._function.__code__
        closure = tuple(cell.cell_contents for cell in self._function.__closure__ or ())
        where = (self._function.__module__, self._function.__qualname__, code.co_firstlineno)
        key = where, sources_digest(package_folder(code.co_filename)), serialize.dumps(closure), codegen.magic_tuple(), signature
        return f"{self._function.__name__}-{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled kernel for these argument types, or None."""
        target_context.refresh()  # numba's own cache does so first: registers what the machine code refers to
        try:
            content = store().load(self._name(signature, target_context.codegen()))
            return None if content is None else compiler.CompileResult._rebuild(target_context, *serialize.loads(content))
        except Exception:
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keeps a compiled kernel, unless it holds addresses of this process."""
        try:
            if result.library.has_dynamic_globals or any(not part.can_cache for part in result.lifted):
                return
            saved = store().save(self._name(signature, result.codegen), serialize.dumps(result._reduce()))
        except Exception:
            return
        if saved and KernelCache.announces and compile_seconds() > ANNOUNCE_AFTER_S:
            KernelCache.announces = False
            print(f"compiling kernels for this machine, once: later starts load them from {store().folder}", file=sys.stderr)
