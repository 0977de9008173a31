"""Draws the README's figure of the negative control from the JSON that the control wrote.

    python eval.py audit --control --json control.json
    python scripts/bench/draw_control.py --json control.json --out docs/control.svg
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.auditing import control
from ngram.container import read_bytes
from ngram.errors import FileFormatError, run_cli
from scripts.bench.common import make_parser


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--json", required=True, metavar="F", help="written by eval.py audit --control")
    parser.add_argument("--out", required=True, metavar="F", help="picture to write (.svg or .png)")
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
