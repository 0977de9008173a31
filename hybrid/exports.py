"""What `import hybrid` offers to programs, and where each name lives.  Training and scoring import the places themselves."""

import importlib
from typing import Any

from hybrid.extras import explained

HOMES = {
    "load": "hybrid.api.model",
    "Model": "hybrid.api.model",
    "Score": "hybrid.api.text_score",
    "EvalOptions": "hybrid.scoring.options",
    "train": "hybrid.api.training",
    "audit_scorer": "hybrid.auditing.audit",
    "SeedgramError": "ngram.errors",
}


def find(name: str) -> Any:
    """An attribute of the package `hybrid`.  Raises AttributeError for a name that it does not offer, MissingPackageError for one that
    wants a package which is not installed."""
    if name == "__all__":
        return list(HOMES)
    if name not in HOMES:
        raise AttributeError(f"module 'hybrid' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(HOMES[name]), name)
    except ModuleNotFoundError as error:
        raise explained(error) from None
