"""Mutation fuzzer of everything that reads files.  Checksums are repaired, so that mutants reach the parsers behind them.

    python tests/support/fuzz.py [--inputs 100000] [--parsers artifact codec …] [--seed 0] [--json F]

A mutant must be read, or refused with a SeedgramError, within LIMIT_S of processor time and ROOM bytes of new address space.
Input i of a parser is a function of (parser, seed, i): a report can be repeated with --first i --inputs 1.  The command runs the
inputs in forked processes, so that a crash of a library is counted, too; tests/test_fuzz.py runs a sample in its own process.
How a mutant is made is in tests/support/mutants.py, what is attacked in tests/support/parsers.py.
"""

import argparse
import ctypes
import json
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ngram.errors import SeedgramError, run_cli
from ngram.terminal import OneLineParser
from tests.support.parsers import Parser, build

LIMIT_S = 1.0  # of processor time: the machine may be busy with other things
ROOM = 256 << 20  # of address space; all seeds are files of at most 200 kB, whose honest need is below 128 MiB
BATCH = 500  # inputs a forked process


def complaint(parser: Parser, data: bytes, path: Path, limit_s: float = LIMIT_S) -> str | None:
    """What is wrong with how the parser took these bytes; None when it read or refused them as it should."""
    path.write_bytes(data)
    begin = time.process_time()
    try:
        parser.read(path)
    except SeedgramError as error:
        if "\n" in str(error).strip() or len(str(error)) > 2000:
            return f"a message of several lines: {error!r}"
    except MemoryError:
        return "more than ROOM bytes: " + traceback.format_exc(limit=-3)
    except BaseException:
        return traceback.format_exc(limit=-4)
    spent = time.process_time() - begin
    return f"{spent:.2f} s" if spent > limit_s else None


@contextmanager
def limited_memory(room: int = ROOM) -> Iterator[None]:
    """Inside, allocations fail that need `room` bytes of address space more than there is now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def attack(name: str, parser: Parser, seed: int, numbers: range, folder: Path) -> list[tuple[int, str]]:
    """(input, complaint) of every input that was not taken as it should be."""
    found = []
    read_seed(name, parser, folder)
    for number in numbers:
        with limited_memory(), warnings.catch_warnings():
            warnings.simplefilter("error")
            words = complaint(parser, parser.mutant(random.Random(f"{name}/{seed}/{number}")), folder / name)
        if words is not None:
            found.append((number, words))
    return found


def read_seed(name: str, parser: Parser, folder: Path) -> None:
    """Reads the valid file once: what is compiled by that must not count as slow later."""
    path = folder / f"seed-{name}"
    path.write_bytes(parser.seed)
    parser.read(path)


def isolated(name: str, parser: Parser, seed: int, numbers: range, folder: Path) -> list[tuple[int, str]]:
    """`attack` in a forked process; a crash becomes a complaint about the input at work, and the rest goes on."""
    found: list[tuple[int, str]] = []
    at = numbers.start
    while at < numbers.stop:
        report = folder / f"{name}.report"
        child = os.fork()
        if not child:
            try:
                for number in range(at, numbers.stop):
                    with report.open("a") as file:
                        file.write(f"{number}\n")
                    for _, words in attack(name, parser, seed, range(number, number + 1), folder):
                        with report.open("a") as file:
                            file.write(json.dumps([number, words]) + "\n")
                os._exit(0)
            except BaseException:
                os._exit(99)
        _, status = os.waitpid(child, 0)
        lines = report.read_text().splitlines()
        report.unlink()
        found += [tuple(json.loads(line)) for line in lines if line.startswith("[")]
        last = max(int(line) for line in lines if not line.startswith("["))
        if status:
            found.append((last, f"the process died with status {status}"))
        at = last + 1
    return found


def main() -> int:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, metavar="N", help="inputs a parser [100000]")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first input [0]")
    parser.add_argument("--parsers", nargs="*", default=[], metavar="NAME", help="which parsers [all]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="what all inputs follow from, with their parser and number [0]")
    parser.add_argument("--json", type=Path, metavar="F", help="write the results there too")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX: a thread's own arena would take address space that no input asked for
    results: dict[str, Any] = {}
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a file a mutant: disks would take most of the time
    with tempfile.TemporaryDirectory(dir=memory) as place:
        folder = Path(place)
        parsers = build(folder)
        for name in flags.parsers or parsers:
            read_seed(name, parsers[name], folder)
            begin, found = time.monotonic(), []
            for start in range(flags.first, flags.first + flags.inputs, BATCH):
                found += isolated(name, parsers[name], flags.seed, range(start, min(start + BATCH, flags.first + flags.inputs)), folder)
            kinds = {words.strip().splitlines()[-1][:200]: number for number, words in found}
            results[name] = {"inputs": flags.inputs, "complaints": len(found), "seconds": round(time.monotonic() - begin, 1), "kinds": kinds}
            print(f"{name}: {json.dumps(results[name])}", flush=True)
            if flags.inputs == 1 and found:
                print(found[0][1])
    if flags.json:
        flags.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(result["complaints"] for result in results.values()))


if __name__ == "__main__":
    run_cli(main)
