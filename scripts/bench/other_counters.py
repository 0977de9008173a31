"""Other people's programs that count n-grams, run as processes held to some processors: KenLM's lmplz and infini-gram's suffix array."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np

from ngram.arrays import Tokens
from ngram.errors import SeedgramError

MEMORY = "8G"  # lmplz's sort buffer


def row(method: str, tokens: int, processor_s: float, wall_s: float | None, threads: int = 1, **facts: Any) -> dict[str, Any]:
    """One line of a table."""
    numbers = {"threads": threads, "processor_s": processor_s, "wall_s": wall_s, "tokens_per_s": tokens / processor_s}
    return {"method": method, "tokens": tokens, **numbers, **facts}


def external(name: str, stream: Tokens, threads: int, groups: list[list[list[str]]], folder: Path, source: str = os.devnull) -> dict[str, Any]:
    """Runs groups of commands, those of a group side by side, on that many processors.  Raises SeedgramError with what one of them said."""
    held = sorted(os.sched_getaffinity(0))[:threads]
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    for group in groups:
        with open(source, "rb") as stdin:
            running = [
                subprocess.Popen(command, cwd=folder, stdin=stdin, stdout=-3, stderr=-1, preexec_fn=lambda: os.sched_setaffinity(0, held))
                for command in group
            ]
            said = [process.communicate()[1].decode(errors="replace").strip() for process in running]
        for process, words in zip(running, said, strict=True):
            if process.returncode:
                raise SeedgramError(f"{name}: {words[-300:]}; it was left out")
    wall_s, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return row(name, len(stream), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall_s, threads)


def lmplz(program: Path, order: int, stream: Tokens, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder, text = Path(name), Path(name, "ids")
        text.write_text(" ".join(map(str, stream[1:].tolist())) + "\n")
        command = [str(program), "-o", str(order), "--discount_fallback", "-S", MEMORY, "-T", name, "--arpa", str(folder / "arpa")]
        return external("lmplz", stream, threads, [[command]], folder, str(text))


def suffix_array(data: Path, table: Path, folder: Path, threads: int, width: int = 2) -> list[list[list[str]]]:
    """The three steps that the wheel's own `infini_gram.indexing` runs over a file of tokens of `width` bytes, as groups of commands for `external`."""
    here = Path(__file__).resolve().parent  # holds a bench of the wheel's name
    spec = PathFinder.find_spec("infini_gram", [place for place in sys.path if Path(place).resolve() != here])
    if spec is None or not spec.submodule_search_locations:
        raise SeedgramError("infini-gram is not installed; pip install infini-gram, or leave --infini-gram out")
    program = Path(spec.submodule_search_locations[0], "rust_indexing")
    parts, merged, hack = folder / "parts", folder / "merged", 100_000
    parts.mkdir()
    merged.mkdir()
    size = data.stat().st_size
    share = -(-size // threads // width) * width
    common = ["--data-file", str(data), "--ratio", str(int(np.ceil(np.log2(size) / 8))), "--token-width", str(width)]
    make = [str(program), "make-part", *common, "--parts-dir", str(parts)]
    cuts = [(i * share, min((i + 1) * share + hack, size)) for i in range(threads)]
    merge = [str(program), "merge", *common, "--parts-dir", str(parts), "--merged-dir", str(merged), "--hacksize", str(hack)]
    concat = [str(program), "concat", *common, "--merged-dir", str(merged), "--merged-file", str(table)]
    steps: list[list[list[str]]] = [[[*make, "--start-byte", str(start), "--end-byte", str(end)] for start, end in cuts]]
    return steps + [[[*command, "--num-threads", str(threads)]] for command in (merge, concat)]


def infini_gram(stream: Tokens, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        width = stream.itemsize
        stream.astype(f"<u{width}").tofile(folder / "tokenized")
        steps = suffix_array(folder / "tokenized", folder / "table", folder, threads, width)
        return external("infini-gram", stream, threads, steps, folder)
