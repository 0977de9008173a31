"""What `import ngram` offers to programs, and where each name lives.  Training and scoring import the places themselves."""

import importlib
from typing import Any

HOMES = {
    "NgramModel": "ngram.library.model",
    "State": "ngram.library.scores",
    "Tokenizer": "ngram.tokenizer",
    "WordVocabulary": "ngram.words",
    "TokenIds": "ngram.vocabulary",
    "NgramCache": "ngram.counting.counter",
    "NgramTable": "ngram.table",
    "OnlineCache": "ngram.online.cache",
    "build_table": "ngram.counting.build_table",
    "merge": "ngram.counting.run",
    "SeedgramError": "ngram.errors",
}


def find(name: str) -> Any:
    """An attribute of the package `ngram`.  Raises AttributeError for a name that it does not offer."""
    if name == "__all__":
        return list(HOMES)
    if name not in HOMES:
        raise AttributeError(f"module 'ngram' has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)
