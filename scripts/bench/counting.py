"""Counting beside its peers: tokens a second into exact counts, and on to a table that can be queried.

    python scripts/bench/counting.py --shard text_train_000000.bin --vocab 1024 [--tokens 10000000 -1] [--lmplz BIN] [--infini-gram] \\
        [--json F] [--plot F.svg]
    python scripts/bench/counting.py --shard A.bin B.bin A.bin --vocab 1024 8192 131072 …          # several vocabularies in one run

Two tables, orders 2 to 7.  For a vocabulary above 65,535 every two tokens of the shard become one: the most frequent pairs have ids of their own, the
rest share the last.  Microsteps of 65,536 tokens, as a training loop hands them over:

    ours           NgramCache.update, one step after the other, until all are one run
    np.unique      sorts the steps' 4-grams (3-grams, of wide vocabularies) as 64-bit numbers: one order only, and nothing is added up over the steps
    hashed         what pull request #1095 does, in NumPy: a hash of context and token an order, np.add.at into 2^22 counts of 16 bits
    increments     the machine's limit for any counting in tables: random 16-bit increments in 64 MB, six a token

Whole corpora, from the stream to something that answers queries:

    ours           NgramCache.count_stream, then the Kneser-Ney table of all orders, for which the counts are given up; "first" in a fresh
                   process, whose memory the system has to find and clear page by page, "again" in the same one, which has kept its memory
                   (glibc is told to)
    lmplz          KenLM's estimator, order 7, words as token ids on one line, written as ARPA (--lmplz: the program)
    infini-gram    the suffix array of the wheel `infini-gram` (pip install infini-gram), which counts any n-gram by two searches

--tokens: ours is measured at each size, the others at the first.  np.unique and the like run on one thread; ours, lmplz and infini-gram are
processes, held to one processor or given all, ours also to the numbers of --threads.  Tokens a second are those of a processor, taken over processor
seconds, which other work disturbs least; the seconds of the clock stand beside them, and tell whether more threads help.  Everything is compiled
before the clock starts.
"""

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from ngram.arrays import NARROW, U16, Array, Tokens
from ngram.compiled import njit
from ngram.container import atomic_write
from ngram.counting.build_table import build_table
from ngram.counting.counter import NgramCache
from ngram.counting.whole_stream import fits, run_of_stream
from ngram.errors import SeedgramError, run_cli
from ngram.table import NgramTable
from ngram.threads import COUNT
from scripts.bench.common import fastest_s, make_parser, markdown
from scripts.bench.other_counters import infini_gram, lmplz, row

ORDER, BOS, STEP_TOKENS, ROW_TOKENS = 7, 1, 65_536, 1024
HASH_BITS = 22  # buckets an order, as pull request #1095 has them
INCREMENT_TABLE = 1 << 25  # 16-bit counts: 64 MB
HEADER_BYTES = 1024  # of a token shard: 256 int32
KEEP_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"
Figures = list[dict[str, Any]]


def read_shard(path: Path, tokens: int, vocab_size: int) -> Tokens:
    """The first tokens of a shard (-1: all), pairs of them for vocabularies above 65,535.

    Raises SeedgramError when it is not there or of another vocabulary."""
    pair = 1 + (vocab_size > NARROW)
    try:
        stream = np.fromfile(path, np.uint16, max(-1, tokens * pair), offset=HEADER_BYTES)
    except OSError as error:
        raise SeedgramError(f"{path}: cannot read: {error.strerror}; give a token shard with --shard") from None
    if len(stream) < pair * (STEP_TOKENS + ORDER) or int(stream.max()) >= vocab_size:
        raise SeedgramError(
            f"{path}: {len(stream)} tokens up to {stream.max(initial=0)}; give {pair * (STEP_TOKENS + ORDER)} or more, and their --vocab"
        )
    return stream if pair == 1 else pairs_of(stream, vocab_size)


def pairs_of(stream: U16, vocab_size: int) -> Tokens:
    """Every two tokens as one: a pair with a BOS is a BOS, the most frequent others have ids of their own, all else the last one."""
    base = int(stream.max()) + 1
    left, right = stream[0 : len(stream) // 2 * 2 : 2].astype(np.uint32), stream[1::2].astype(np.uint32)
    pairs = left * base + right
    counts = np.bincount(pairs, minlength=base * base)
    ids = np.full(base * base, vocab_size - 1, np.uint32)
    frequent = np.argsort(-counts, kind="stable")[: vocab_size - 2]
    ids[frequent] = np.delete(np.arange(vocab_size - 1), BOS)[: len(frequent)]
    return np.where((left == BOS) | (right == BOS), np.uint32(BOS), ids[pairs])


def steps_of(stream: Tokens, most: int) -> list[Tokens]:
    """Up to `most` microsteps: (64, history + 1,024) rows."""
    history = ORDER - 1
    count = min(most, (len(stream) - history) // STEP_TOKENS)
    starts = np.arange(STEP_TOKENS // ROW_TOKENS)[:, None] * ROW_TOKENS + np.arange(history + ROW_TOKENS)
    return [stream[step * STEP_TOKENS + starts] for step in range(count)]


def hashed_counts(rows: Tokens, tables: Array) -> None:
    """The published way, in NumPy: for each order, hash (context, token) and add 1 in its bucket."""
    for order, table in zip(range(2, ORDER + 1), tables, strict=True):
        mixed = np.zeros((len(rows), ROW_TOKENS), np.uint64)
        for back in range(order - 1, -1, -1):
            mixed = (mixed ^ rows[:, ORDER - 1 - back : ORDER - 1 - back + ROW_TOKENS]) * np.uint64(0x9E3779B97F4A7C15)
        np.add.at(table, (mixed >> np.uint64(64 - HASH_BITS)).reshape(-1), 1)


def unique_keys(rows: Tokens) -> int:
    """Number of different 4-grams (3-grams, of 32-bit tokens) of one step, as 64-bit keys."""
    key, bits = np.zeros((len(rows), ROW_TOKENS), np.uint64), 16 if rows.dtype == np.uint16 else 21
    for back in range(64 // bits):
        key |= rows[:, ORDER - 1 - back : ORDER - 1 - back + ROW_TOKENS].astype(np.uint64) << np.uint64(bits * back)
    return len(np.unique(key, return_counts=True)[0])


@njit
def increments(places: Array, table: Array) -> None:
    """table[place] += 1 for each place."""
    for place in places:
        table[place] += 1


def count_steps(steps: list[Tokens], vocab_size: int) -> None:
    cache = NgramCache(vocab_size, ORDER, BOS)
    for rows in steps:
        cache.update(rows)
    cache.run()


def microsteps(stream: Tokens, vocab_size: int, most: int) -> Figures:
    steps = steps_of(stream, most)
    tokens = len(steps) * STEP_TOKENS
    tables = np.zeros((ORDER - 1, 1 << HASH_BITS), np.uint16)
    places = np.random.default_rng(0).integers(0, INCREMENT_TABLE, STEP_TOKENS * (ORDER - 1))
    counts = np.zeros(INCREMENT_TABLE, np.uint16)

    def each_step(count: Callable[[Tokens], object]) -> Callable[[], None]:
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


def ours(stream: Tokens, vocab_size: int) -> Figures:
    """Counts and builds twice; also the largest growth of resident memory while first counting, a distinct n-gram."""
    with suppress(OSError, AttributeError):  # what reading took is given back, and the peak begins anew, where that can be done (Linux)
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    before, rows = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Figures()
    for which in ("first", "again"):
        cache, clock = NgramCache(vocab_size, ORDER, BOS), [(time.process_time(), time.perf_counter())]
        cache.count_stream(stream)
        run = cache.run()
        clock.append((time.process_time(), time.perf_counter()))
        if which == "first":
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        del cache
        table = build_table(run, vocab_size, BOS, spent=True)
        clock.append((time.process_time(), time.perf_counter()))
        facts: dict[str, Any] = {"ngrams": sum(table.sizes()), "counting_bytes_a_ngram": grown * 1024 / sum(table.sizes())}
        facts["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        for name, times in zip(("into one run", "table"), clock[1:], strict=True):
            processor_s, wall_s = (end - begin for begin, end in zip(clock[0], times, strict=True))
            rows.append(row(f"ours, {name}, {which}", len(stream), processor_s, wall_s, COUNT, **facts))
        del run, table
    return rows


def ours_on(shard: Path, vocab_size: int, tokens: int, threads: int) -> Figures:
    """The same in a process of its own, held to so many processors."""
    held = sorted(os.sched_getaffinity(0))[:threads]
    command = [sys.executable, __file__, "--shard", str(shard), "--vocab", str(vocab_size), "--tokens", str(tokens), "--ours"]
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads), "GLIBC_TUNABLES": KEEP_MEMORY}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, held))
    if done.returncode:
        raise SeedgramError(f"ours on {threads} threads: the process ended with {done.returncode}; its reason is above")
    found: Figures = json.loads(done.stdout)
    return found


def draw(microstep: Figures, corpus: Figures, path: Path) -> None:
    """Bars of tokens a second of a processor, a row of pictures for each vocabulary."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    vocabularies = sorted({line["vocab"] for line in microstep})
    figure = Figure(figsize=(9, 1 + 3 * len(vocabularies)), layout="constrained")
    grid = figure.subplots(len(vocabularies), 2, squeeze=False)
    for vocab_size, pictures in zip(vocabularies, grid, strict=True):
        for axes, rows, title in zip(pictures, (microstep, corpus), ("65,536-token steps", "whole corpus"), strict=True):
            chosen = [line for line in rows if line["vocab"] == vocab_size]
            names = [f"{line['method']}: {line['tokens'] / 1e6:.1f} M, {line['threads']} thr." for line in chosen]
            axes.barh(names, [line["tokens_per_s"] / 1e6 for line in chosen])
            axes.invert_yaxis()
            axes.tick_params(axis="y", labelsize=7)
            axes.set(title=f"{title}, V = {vocab_size:,}", xlabel="million tokens a processor second", xscale="log")
    with rc_context({"svg.fonttype": "none"}):  # letters as letters: a third of the bytes
        figure.savefig(path)


def show(rows: Figures) -> None:
    cells = []
    for line in rows:
        wall = "" if line["wall_s"] is None else f"{line['wall_s']:.2f}"
        speed = f"{line['tokens_per_s'] / 1e6:.2f}"
        cells.append([f"{line['vocab']:,}", line["method"], str(line["threads"]), f"{line['tokens']:,}", f"{line['processor_s']:.2f}", wall, speed])
    print(markdown(["V", "method", "processors", "tokens", "processor s", "wall s", "million tokens/s"], cells), flush=True)


def warm(stream: Tokens, vocab_size: int) -> NgramTable:
    """Compiles all kernels; returns a small table."""
    small = NgramCache(vocab_size, ORDER, BOS, buffer_positions=64)
    small.count_stream(stream[:2000])
    if fits(vocab_size, ORDER):
        run_of_stream(stream[:2000], vocab_size, ORDER, BOS, ORDER)
    return small.table()


def compare(flags: argparse.Namespace, shard: Path, vocab_size: int) -> tuple[Figures, Figures]:
    """Both tables of one vocabulary."""
    stream = read_shard(shard, flags.tokens[0], vocab_size)
    warm(stream, vocab_size)
    processors = sorted({1, len(os.sched_getaffinity(0))})
    microstep = microsteps(stream, vocab_size, flags.steps)
    threads = flags.threads or processors
    corpus = [line for tokens in flags.tokens for count in threads for line in ours_on(shard, vocab_size, tokens, count)]
    peers: list[Callable[[Tokens, int], dict[str, Any]]] = [partial(lmplz, flags.lmplz.resolve(), ORDER)] if flags.lmplz else []
    for peer in [*peers, infini_gram] if flags.infini_gram else peers:
        for count in processors:
            try:
                corpus.append(peer(stream, count))
            except SeedgramError as error:  # too little memory for one of them is no reason to lose the others
                print(f"V = {vocab_size:,}, {count} processors: {error}", file=sys.stderr, flush=True)
    for line in (*microstep, *corpus):
        line["vocab"] = vocab_size
    show(microstep)
    show(corpus)
    print(f"{max(line.get('counting_bytes_a_ngram', 0) for line in corpus):.1f} bytes of memory a distinct n-gram while counting", flush=True)
    return microstep, corpus


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--shard", type=Path, nargs="+", required=True, metavar="FILE", help="token shard to count, one for each vocabulary")
    parser.add_argument("--vocab", type=int, nargs="+", required=True, metavar="V", help="size of its vocabulary")
    parser.add_argument("--tokens", type=int, nargs="+", default=[-1], metavar="N", help="of the shard to count; -1: all [-1]")
    parser.add_argument("--steps", type=int, default=64, metavar="N", help="microsteps to count [64]")
    parser.add_argument("--lmplz", type=Path, metavar="BIN", help="KenLM's lmplz; against_kenlm.py says how to build it")
    parser.add_argument("--infini-gram", action="store_true", help="also build infini-gram's index")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="threads to count with [one, and as many as there are processors]")
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)  # this process only counts
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures here too")
    parser.add_argument("--plot", type=Path, metavar="F", help="picture to write (.svg or .png)")
    flags = parser.parse_args()
    if len(flags.shard) != len(flags.vocab):
        parser.error(f"{len(flags.shard)} shards and {len(flags.vocab)} vocabularies: give one --vocab for each --shard")
    if flags.ours:
        stream = read_shard(flags.shard[0], flags.tokens[0], flags.vocab[0])
        warm(stream, flags.vocab[0])
        print(json.dumps(ours(stream, flags.vocab[0])))
        return 0
    microstep, corpus = Figures(), Figures()
    for shard, vocab_size in zip(flags.shard, flags.vocab, strict=True):
        for rows, more in zip((microstep, corpus), compare(flags, shard, vocab_size), strict=True):
            rows += more
        if flags.json:  # after each vocabulary: whatever stops the next loses nothing
            atomic_write(flags.json, (json.dumps({"microsteps": microstep, "corpus": corpus}, indent=1) + "\n").encode())
        if flags.plot:
            draw(microstep, corpus, flags.plot)
    return 0


if __name__ == "__main__":
    run_cli(main)
