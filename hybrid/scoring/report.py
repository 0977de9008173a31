"""The table of one evaluation for people, and its JSON."""

import json
from pathlib import Path
from typing import Any

from ngram.container import atomic_write


def show(result: dict[str, Any], scale: dict[str, float] | None = None) -> None:
    """Prints the table of one evaluation; scale: {name: BPB} of other compressors on the same text."""
    from rich.console import Console
    from rich.table import Table

    console, table = Console(highlight=False), Table()
    table.add_column("what")
    table.add_column("bits per byte", justify="right")
    for name, key in (("network", "neural_bpb"), ("n-gram cache", "ngram_bpb"), ("blended", "blended_bpb")):
        table.add_row(name, f"{result[key]:.4f}" if result[key] is not None else "-", style="bold" if key == "blended_bpb" else "")
    for name, bpb in (scale or {}).items():
        table.add_row(name, f"{bpb:.4f}", style="dim")
    title = f"{result['preset']}, seed {result['seed']}: {result['tokens']:,} tokens, {result['bytes']:,} bytes, protocol {result['protocol']}"
    if bytes_are := result.get("bytes_are"):
        title += f"; {bytes_are}"
    console.print(title, soft_wrap=True)
    console.print(table)
    sizes = f"artifact {result['artifact_bytes']:,} bytes + code {result['code_bytes']:,} = {result['total_bytes']:,}"
    console.print(f"{sizes}; {result['wall_s']:.1f} s on {result['device']} x {result['world']}", soft_wrap=True)


def write_json(path: str | Path | None, values: Any) -> None:
    """One JSON file, atomically; nothing without a path."""
    if path:
        atomic_write(path, (json.dumps(values, indent=1) + "\n").encode())
