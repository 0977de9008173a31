"""What a command has found, as one line of JSON."""

import json
from pathlib import Path
from typing import Any

from ngram.container import STANDARD, atomic_write


def emit_json(values: dict[str, Any], path: Path | None) -> None:
    """One line of JSON on stdout, and the same in a file when one is named."""
    line = json.dumps(values, sort_keys=True)
    if path is not None:
        atomic_write(path, line.encode() + b"\n")
    if str(path) != STANDARD:
        print(line)
