"""Counting beside its peers: tokens a second into exact counts, and on to a table that can be queried.

    python scripts/bench/counting.py --shard text_train_000000.bin --vocab 1024 [--tokens 10000000] [--lmplz BIN] [--infini-gram] \\
        [--json F] [--plot F.svg]

Two tables, orders 2 to 7.  Microsteps of 65,536 tokens, as a training loop hands them over:

    ours           NgramCache.update, one step after the other, until all are one run
    np.unique      sorts the steps' 4-grams as 64-bit numbers: one order only, and nothing is added up over the steps
    hashed         what pull request #1095 does, in NumPy: a hash of context and token an order, np.add.at into 2^22 counts of 16 bits
    increments     the machine's limit for any counting in tables: random 16-bit increments in 64 MB, six a token

Whole corpora, from the stream to something that answers queries:

    ours           NgramCache.count_stream, then the Kneser-Ney table of all orders
    lmplz          KenLM's estimator, order 7, words as token ids on one line, written as ARPA (--lmplz: the program)
    infini-gram    the suffix array of the wheel `infini-gram` (pip install infini-gram), which counts any n-gram by two searches

np.unique and the like run on one thread; ours, lmplz and infini-gram are processes, held to one processor or given all, ours also to the numbers
of --threads.  Tokens a second are those of a processor, taken over processor seconds, which other work disturbs least; the seconds of the clock
stand beside them, and tell whether more threads help.  Everything is compiled before the clock starts.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from ngram.arrays import U16, Array
from ngram.compiled import njit
from ngram.container import atomic_write
from ngram.counting.build_table import build_table
from ngram.counting.counter import NgramCache
from ngram.errors import SeedgramError, run_cli
from ngram.threads import COUNT
from scripts.bench.common import fastest_s, make_parser, markdown

ORDER, BOS, STEP_TOKENS, ROW_TOKENS = 7, 1, 65_536, 1024
HASH_BITS = 22  # buckets an order, as pull request #1095 has them
INCREMENT_TABLE = 1 << 25  # 16-bit counts: 64 MB
HEADER_BYTES = 1024  # of a token shard: 256 int32
Figures = list[dict[str, Any]]


def read_shard(path: Path, tokens: int, vocab_size: int) -> U16:
    """The first tokens of a shard (-1: all).  Raises SeedgramError when it is not there or of another vocabulary."""
    try:
        stream = np.fromfile(path, np.uint16, tokens, offset=HEADER_BYTES)
    except OSError as error:
        raise SeedgramError(f"{path}: cannot read: {error.strerror}; give a token shard with --shard") from None
    if len(stream) < STEP_TOKENS + ORDER or int(stream.max()) >= vocab_size:
        raise SeedgramError(
            f"{path}: {len(stream)} tokens up to {stream.max(initial=0)}; give {STEP_TOKENS + ORDER} or more, and their --vocab"
        )
    return stream


def steps_of(stream: U16, most: int) -> list[U16]:
    """Up to `most` microsteps: (64, history + 1,024) rows."""
    history = ORDER - 1
    count = min(most, (len(stream) - history) // STEP_TOKENS)
    starts = np.arange(STEP_TOKENS // ROW_TOKENS)[:, None] * ROW_TOKENS + np.arange(history + ROW_TOKENS)
    return [stream[step * STEP_TOKENS + starts] for step in range(count)]


def hashed_counts(rows: U16, tables: Array) -> None:
    """The published way, in NumPy: for each order, hash (context, token) and add 1 in its bucket."""
    for order, table in zip(range(2, ORDER + 1), tables, strict=True):
        mixed = np.zeros((len(rows), ROW_TOKENS), np.uint64)
        for back in range(order - 1, -1, -1):
            mixed = (mixed ^ rows[:, ORDER - 1 - back : ORDER - 1 - back + ROW_TOKENS]) * np.uint64(0x9E3779B97F4A7C15)
        np.add.at(table, (mixed >> np.uint64(64 - HASH_BITS)).reshape(-1), 1)


def unique_keys(rows: U16) -> int:
    """Number of different 4-grams of one step, as 64-bit keys."""
    key = np.zeros((len(rows), ROW_TOKENS), np.uint64)
    for back in range(4):
        key |= rows[:, ORDER - 1 - back : ORDER - 1 - back + ROW_TOKENS].astype(np.uint64) << np.uint64(16 * back)
    return len(np.unique(key, return_counts=True)[0])


@njit
def increments(places: Array, table: Array) -> None:
    """table[place] += 1 for each place."""
    for place in places:
        table[place] += 1


def count_steps(steps: list[U16], vocab_size: int) -> None:
    cache = NgramCache(vocab_size, ORDER, BOS)
    for rows in steps:
        cache.update(rows)
    cache.run()


def row(method: str, tokens: int, processor_s: float, wall_s: float | None, threads: int = 1, **facts: Any) -> dict[str, Any]:
    """One line of a table."""
    numbers = {"threads": threads, "processor_s": processor_s, "wall_s": wall_s, "tokens_per_s": tokens / processor_s}
    return {"method": method, "tokens": tokens, **numbers, **facts}


def microsteps(stream: U16, vocab_size: int, most: int) -> Figures:
    steps = steps_of(stream, most)
    tokens = len(steps) * STEP_TOKENS
    tables = np.zeros((ORDER - 1, 1 << HASH_BITS), np.uint16)
    places = np.random.default_rng(0).integers(0, INCREMENT_TABLE, STEP_TOKENS * (ORDER - 1))
    counts = np.zeros(INCREMENT_TABLE, np.uint16)

    def each_step(count: Callable[[U16], object]) -> Callable[[], None]:
        def task() -> None:
            for rows in steps[:8]:
                count(rows)

        return task

    few = min(8, len(steps)) * STEP_TOKENS
    spent = {
        "ours": (fastest_s(lambda: count_steps(steps, vocab_size), 2), tokens),
        "np.unique": (fastest_s(each_step(unique_keys)), few),
        "hashed": (fastest_s(each_step(lambda rows: hashed_counts(rows, tables)), 2), few),
        "increments": (fastest_s(each_step(lambda _: increments(places, counts))), few),
    }
    return [row(name, count, processor_s, None) for name, (processor_s, count) in spent.items()]


def ours(stream: U16, vocab_size: int) -> Figures:
    """Counts and builds, the faster of two; also the largest growth of resident memory while first counting, a distinct n-gram."""
    before, rows = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, list[Figures]()
    for _ in range(2):
        cache, clock = NgramCache(vocab_size, ORDER, BOS), [(time.process_time(), time.perf_counter())]
        cache.count_stream(stream)
        run = cache.run()
        clock.append((time.process_time(), time.perf_counter()))
        if not rows:
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        del cache
        table = build_table(run, vocab_size, BOS)
        clock.append((time.process_time(), time.perf_counter()))
        facts: dict[str, Any] = {"ngrams": sum(table.sizes()), "counting_bytes_a_ngram": grown * 1024 / sum(table.sizes())}
        spent = [[end - begin for begin, end in zip(clock[0], times, strict=True)] for times in clock[1:]]
        del run, table
        names = "ours, into one run", "ours, table"
        rows.append([row(name, len(stream), processor_s, wall_s, COUNT, **facts) for name, (processor_s, wall_s) in zip(names, spent, strict=True)])
    return min(rows, key=lambda found: found[1]["wall_s"])


def ours_on(flags: argparse.Namespace, threads: int) -> Figures:
    """The same in a process of its own, held to so many processors."""
    held = sorted(os.sched_getaffinity(0))[:threads]
    command = [sys.executable, __file__, "--shard", str(flags.shard), "--vocab", str(flags.vocab), "--tokens", str(flags.tokens), "--ours"]
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, held))
    if done.returncode:
        raise SeedgramError(f"ours on {threads} threads: the process ended with {done.returncode}; its reason is above")
    found: Figures = json.loads(done.stdout)
    return found


def external(name: str, stream: U16, threads: int, groups: list[list[list[str]]], folder: Path, source: str = os.devnull) -> dict[str, Any]:
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
                raise SeedgramError(f"{name}: {words[-300:]}; leave it out to measure the others")
    wall_s, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return row(name, len(stream), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall_s, threads)


def lmplz(program: Path, stream: U16, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder, text = Path(name), Path(name, "ids")
        text.write_text(" ".join(map(str, stream[1:].tolist())) + "\n")
        command = [str(program), "-o", str(ORDER), "--discount_fallback", "-S", "4G", "-T", name, "--arpa", str(folder / "arpa")]
        return external("lmplz", stream, threads, [[command]], folder, str(text))


def suffix_array(data: Path, table: Path, folder: Path, threads: int) -> list[list[list[str]]]:
    """The three steps that the wheel's own `infini_gram.indexing` runs over a file of 16-bit tokens, as groups of commands for `external`."""
    here = Path(__file__).resolve().parent  # holds a bench of the wheel's name
    spec = PathFinder.find_spec("infini_gram", [place for place in sys.path if Path(place).resolve() != here])
    if spec is None or not spec.submodule_search_locations:
        raise SeedgramError("infini-gram is not installed; pip install infini-gram, or leave --infini-gram out")
    program = Path(spec.submodule_search_locations[0], "rust_indexing")
    parts, merged, hack = folder / "parts", folder / "merged", 100_000
    parts.mkdir()
    merged.mkdir()
    size = data.stat().st_size
    share = -(-size // threads // 2) * 2
    common = ["--data-file", str(data), "--ratio", str(int(np.ceil(np.log2(size) / 8))), "--token-width", "2"]
    make = [str(program), "make-part", *common, "--parts-dir", str(parts)]
    cuts = [(i * share, min((i + 1) * share + hack, size)) for i in range(threads)]
    merge = [str(program), "merge", *common, "--parts-dir", str(parts), "--merged-dir", str(merged), "--hacksize", str(hack)]
    concat = [str(program), "concat", *common, "--merged-dir", str(merged), "--merged-file", str(table)]
    steps: list[list[list[str]]] = [[[*make, "--start-byte", str(start), "--end-byte", str(end)] for start, end in cuts]]
    return steps + [[[*command, "--num-threads", str(threads)]] for command in (merge, concat)]


def infini_gram(stream: U16, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stream.astype("<u2").tofile(folder / "tokenized")
        steps = suffix_array(folder / "tokenized", folder / "table", folder, threads)
        return external("infini-gram", stream, threads, steps, folder)


def draw(microstep: Figures, corpus: Figures, path: Path) -> None:
    """Bars of tokens a second."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    for axes, rows, title in zip(figure.subplots(1, 2), (microstep, corpus), ("65,536-token steps", "whole corpus"), strict=True):
        axes.barh([f"{line['method']} ({line['threads']})" for line in rows], [line["tokens_per_s"] / 1e6 for line in rows])
        axes.invert_yaxis()
        axes.set(title=title, xlabel="million tokens a second", xscale="log")
    figure.savefig(path)


def show(rows: Figures) -> None:
    cells = []
    for line in rows:
        wall = "" if line["wall_s"] is None else f"{line['wall_s']:.2f}"
        speed = f"{line['tokens_per_s'] / 1e6:.2f}"
        cells.append([line["method"], str(line["threads"]), f"{line['tokens']:,}", f"{line['processor_s']:.2f}", wall, speed])
    print(markdown(["method", "processors", "tokens", "processor s", "wall s", "million tokens/s"], cells), flush=True)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--shard", type=Path, required=True, metavar="FILE", help="token shard to count")
    parser.add_argument("--vocab", type=int, required=True, metavar="V", help="size of its vocabulary")
    parser.add_argument("--tokens", type=int, default=-1, metavar="N", help="of the shard to count; -1: all [-1]")
    parser.add_argument("--steps", type=int, default=64, metavar="N", help="microsteps to count [64]")
    parser.add_argument("--lmplz", type=Path, metavar="BIN", help="KenLM's lmplz; against_kenlm.py says how to build it")
    parser.add_argument("--infini-gram", action="store_true", help="also build infini-gram's index")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="threads to count with [one, and as many as there are processors]")
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)  # this process only counts
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures here too")
    parser.add_argument("--plot", type=Path, metavar="F", help="picture to write (.svg or .png)")
    flags = parser.parse_args()
    stream = read_shard(flags.shard, flags.tokens, flags.vocab)
    warm = NgramCache(flags.vocab, ORDER, BOS, buffer_positions=64)
    warm.count_stream(stream[:2000])
    warm.table()
    if flags.ours:
        print(json.dumps(ours(stream, flags.vocab)))
        return 0
    processors = sorted({1, len(os.sched_getaffinity(0))})
    microstep = microsteps(stream, flags.vocab, flags.steps)
    corpus = [line for threads in flags.threads or processors for line in ours_on(flags, threads)]
    if flags.lmplz:
        corpus += [lmplz(flags.lmplz.resolve(), stream, threads) for threads in processors]
    if flags.infini_gram:
        corpus += [infini_gram(stream, threads) for threads in processors]
    show(microstep)
    show(corpus)
    print(f"{corpus[0]['counting_bytes_a_ngram']:.1f} bytes of memory a distinct n-gram while counting")
    if flags.json:
        atomic_write(flags.json, (json.dumps({"vocab": flags.vocab, "microsteps": microstep, "corpus": corpus}, indent=1) + "\n").encode())
    if flags.plot:
        draw(microstep, corpus, flags.plot)
    return 0


if __name__ == "__main__":
    run_cli(main)
