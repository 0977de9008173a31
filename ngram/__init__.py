"""Exact n-gram models for language models under a byte budget: NumPy and numba, no torch.

Names load on first use, so that `import ngram` costs nothing."""

import importlib
from typing import Any

_HOMES = {
    "NgramCache": "ngram.cache",
    "NgramTable": "ngram.table",
    "OnlineCache": "ngram.online",
    "build_table": "ngram.runs",
    "merge": "ngram.runs",
    "SeedgramError": "ngram.errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ngram' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
