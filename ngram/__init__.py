"""Exact n-gram models for language models under a byte budget: NumPy and numba, no torch.

Names load on first use, so that `import ngram` costs nothing.  docs/ngram.md shows them at work; __init__.pyi tells type checkers."""

import importlib
from typing import Any

_HOMES = {
    "NgramModel": "ngram.library.model", "State": "ngram.library.scores", "SeedgramError": "ngram.errors",
    "Tokenizer": "ngram.tokenizer", "WordVocabulary": "ngram.words", "TokenIds": "ngram.vocabulary",
    "NgramCache": "ngram.counting.counter", "NgramTable": "ngram.table", "OnlineCache": "ngram.online.cache",
    "build_table": "ngram.counting.build_table", "merge": "ngram.counting.run",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ngram' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
