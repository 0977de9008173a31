"""Hybrid language models: frozen random maps with adapters beside an n-gram cache.  docs/library.md shows how to use it.

Names load on first use, so that `import hybrid` loads no torch; __init__.pyi has their types."""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load": "hybrid.api.model", "Model": "hybrid.api.model", "Score": "hybrid.api.text_score",
    "EvalOptions": "hybrid.scoring.options", "train": "hybrid.api.training",
    "audit_scorer": "hybrid.auditing.audit", "SeedgramError": "ngram.errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hybrid' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        raise importlib.import_module("hybrid.extras").explained(error) from None
