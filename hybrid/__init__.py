"""Hybrid language models: frozen random maps with adapters beside an n-gram cache.  docs/library.md shows how to use it.

Names load on first use, so that `import hybrid` loads no torch: exports.py says from where, __init__.pyi has their types."""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    return importlib.import_module("hybrid.exports").find(name)
