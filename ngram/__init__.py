"""Exact n-gram models for language models under a byte budget: NumPy and numba, no torch.  docs/ngram.md shows them at work.

Names load on first use, so that `import ngram` costs nothing: exports.py says from where, __init__.pyi has their types."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    return importlib.import_module("ngram.exports").find(name)
