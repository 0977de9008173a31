"""Draws the README's figure of the negative control from the JSON that the control wrote.

    python eval.py audit --control --json control.json
    python scripts/draw_control.py --json control.json --out docs/control.svg
"""

import json
from typing import Any

from hybrid import control
from hybrid.config import OneLineParser
from ngram.container import read_bytes
from ngram.errors import FileFormatError, run_cli


def main() -> int:
    parser = OneLineParser(prog="draw_control.py", description="Draws the negative control.")
    parser.add_argument("--json", required=True, help="written by eval.py audit --control")
    parser.add_argument("--out", required=True, help="picture to write (.svg or .png)")
    flags = parser.parse_args()
    try:
        result: dict[str, Any] = json.loads(read_bytes(flags.json))
        rows = [control.ControlRow(**row) for row in result["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{flags.json}: not a result of the control ({error}); run eval.py audit --control --json again") from None
    control.draw(rows, flags.out)
    return 0


if __name__ == "__main__":
    run_cli(main)
