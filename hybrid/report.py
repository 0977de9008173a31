"""Tables for people: one evaluation, and beside it what general compressors make of the same text.

    python -m hybrid.report --eval runs/x/eval.json --data DIR --tokenizer M
"""

import json
import lzma
from typing import Any

import zstandard
from rich.console import Console
from rich.table import Table

from hybrid import tokenizer
from hybrid.config import OneLineParser
from hybrid.data import load_stream
from ngram.container import atomic_write, read_bytes
from ngram.errors import FileFormatError, run_cli


def show(result: dict[str, Any], scale: dict[str, float] | None = None) -> None:
    """Prints the table of one evaluation; scale: {name: BPB} of other compressors on the same text."""
    console, table = Console(highlight=False), Table()
    table.add_column("what")
    table.add_column("bits per byte", justify="right")
    for name, key in (("network", "neural_bpb"), ("n-gram cache", "ngram_bpb"), ("blended", "blended_bpb")):
        table.add_row(name, f"{result[key]:.4f}" if result[key] is not None else "-", style="bold" if key == "blended_bpb" else "")
    claim = result.get("published_rule")
    if claim:
        table.add_row("published rule over this network: NOT a probability", f"({claim['claimed_bpb']:.4f})", style="dim")
    for name, bpb in (scale or {}).items():
        table.add_row(name, f"{bpb:.4f}", style="dim")
    title = f"{result['preset']}, seed {result['seed']}: {result['tokens']:,} tokens, {result['bytes']:,} bytes, protocol {result['protocol']}"
    console.print(title, soft_wrap=True)
    console.print(table)
    sizes = f"artifact {result['artifact_bytes']:,} bytes + code {result['code_bytes']:,} = {result['total_bytes']:,}"
    console.print(f"{sizes}; {result['wall_s']:.1f} s on {result['device']} x {result['world']}", soft_wrap=True)


def write_json(path: str | None, values: Any) -> None:
    """One JSON file, atomically; nothing without a path."""
    if path:
        atomic_write(path, (json.dumps(values, indent=1) + "\n").encode())


def compressors(data: str, model: str) -> dict[str, float]:
    """{command: bits per byte} of the decoded validation text, as one piece, with no dictionary."""
    codec = tokenizer.load(model)
    text = codec.decode_bytes(load_stream(data, "val", codec.vocab_size).tolist())
    sizes = {"xz -9e": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)), "zstd -19": len(zstandard.compress(text, level=19))}
    return {name: 8 * size / len(text) for name, size in sizes.items()}


def main() -> int:
    parser = OneLineParser(prog="hybrid.report", description="Table of an evaluation beside general compressors.")
    parser.add_argument("--eval", required=True, help="JSON written by eval.py")
    parser.add_argument("--data", help="the same validation shards; leave out for no comparison")
    parser.add_argument("--tokenizer", help="their SentencePiece model")
    flags = parser.parse_args()
    if bool(flags.data) != bool(flags.tokenizer):
        parser.error("--data and --tokenizer go together")
    try:
        result = json.loads(read_bytes(flags.eval))
        show(result, compressors(flags.data, flags.tokenizer) if flags.data else None)
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{flags.eval}: not a result of eval.py ({error}); run eval.py --json again") from None
    return 0


if __name__ == "__main__":
    run_cli(main)
