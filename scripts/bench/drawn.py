"""Counts far more text than there is, within a budget: tokens drawn from our own order-3 model, which says nothing about real text's growth.

    taskset -c 0,1 python scripts/bench/drawn.py --shard train.bin --vocab 1024 --tokens 1e9 --memory 18G --work DIR [--min-raw 1 1 1 2 2 2 2]

A model of orders 1 to 3 is made of the first tokens of a shard; a compiled kernel draws documents of a million tokens from it (a token of its
interpolated distribution each, from nothing but the document's number), on one thread while another counts.  Then runs are merged, a table of
orders 1 to 7 is made part by part, and coded.  A line of JSON a stage: seconds of the clock and of processors, the most anonymous memory so far
(read every 20 ms) and the bytes in the folder of files.
"""

import argparse
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from ngram.arrays import F64, U16, Array
from ngram.cli.options import parse_size
from ngram.compiled import njit
from ngram.counting.counter import NgramCache
from ngram.counting.spill import SpillingCache
from ngram.counting.table_in_parts import build_in_parts
from ngram.errors import run_cli
from ngram.kneser_ney import smoothed_orders
from ngram.splitmix import mix64
from ngram.storing import table_codec
from ngram.table import NgramTable, suffix_rows
from scripts.bench.common import make_parser
from scripts.bench.counting import BOS, ORDER, read_shard

DRAWN_ORDER = 3
DOCUMENT = 1 << 20  # tokens
UNIT = 2.0**-53
mix = njit(mix64)


@njit
def draw(seed: int, first: tuple[Array, Array], shares: tuple[Array, Array, Array], tokens: tuple[Array, Array, Array], rows: Array, out: Array) -> None:
    """A document: out[0] is BOS, and every token after it is drawn given the two before it, back to the last BOS.

    first: where the children of each context of orders 1 and 2 begin; shares, tokens (M,) of orders 1 to 3: sums of `share` up to and with each
    n-gram, over the whole order, and last tokens; rows (V, V): row of each bigram, or -1."""
    state, vocab = mix(np.uint64(seed) + np.uint64(1)), len(rows)  # far apart on the one cycle that all documents share
    out[0], context, last = BOS, -1, BOS
    for t in range(1, len(out)):
        token: Any = -1
        for order in range(3, 0, -1):
            row = (context if order == 3 else last) if order > 1 else 0
            if order == 3 and row < 0:
                continue
            state += np.uint64(0x9E3779B97F4A7C15)
            at = np.float64(mix(state) >> np.uint64(11)) * UNIT
            if order == 3:
                a, b, sums = first[1][row], first[1][row + 1], shares[2]
            elif order == 2:
                a, b, sums = first[0][row], first[0][row + 1], shares[1]
            else:
                a, b, sums = 0, vocab, shares[0]
            at += sums[a - 1] if a else 0.0
            if b == a or at >= sums[b - 1]:
                continue  # the share of the shorter context
            low, high = a, b - 1
            while low < high:
                middle = (low + high) >> 1
                if sums[middle] > at:
                    high = middle
                else:
                    low = middle + 1
            token = np.int64(tokens[order - 1][low])
            break
        if token < 0:
            state += np.uint64(0x9E3779B97F4A7C15)
            token = np.int64(mix(state) % np.uint64(vocab))
        out[t] = token
        context = -1 if token == BOS else rows[last, token]
        last = token


class Source:
    """Documents of a model of order 3."""

    def __init__(self, table: NgramTable):
        orders = list(smoothed_orders(table, suffix_rows(table)))
        self.shares: tuple[F64, ...] = tuple(np.cumsum(order.share) for order in orders)
        self.tokens, self.first = tuple(table.tokens), (table.first_child(1), table.first_child(2))
        self.rows = np.full((table.vocab_size, table.vocab_size), -1, np.int32)
        self.rows[table.parents[1], table.tokens[1]] = np.arange(len(table.tokens[1]))

    def document(self, number: int, size: int = DOCUMENT) -> U16:
        out = np.empty(size, np.uint16)
        draw(number, self.first, self.shares, self.tokens, self.rows, out)
        return out

    def documents(self, tokens: int) -> Iterator[U16]:
        """As many as make up so many tokens; the next one is drawn while the last is used."""
        sizes = [min(DOCUMENT, tokens - start) for start in range(0, tokens, DOCUMENT)]
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self.document, 0, sizes[0])
            for number, size in enumerate(sizes[1:], 1):
                done, ahead = ahead, pool.submit(self.document, number, size)
                yield done.result()
            yield ahead.result()


class Memory:
    """The most anonymous memory of this process, and of file pages too (Linux)."""

    def __init__(self) -> None:
        self.most = {"RssAnon": 0, "VmRSS": 0}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self.most:
                    self.most[name] = max(self.most[name], 1024 * int(value.split()[0]))
            time.sleep(0.02)


class Stages:
    """Writes a line for each stage."""

    def __init__(self, memory: Memory, work: Path):
        self.memory, self.work = memory, work

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        wall, processor = time.perf_counter(), time.process_time()
        facts = dict[str, Any]()
        yield facts
        disk = sum(file.stat().st_size for file in self.work.rglob("*") if file.is_file()) if self.work.exists() else 0
        spent = {"stage": name, "wall_s": time.perf_counter() - wall, "processor_s": time.process_time() - processor}
        held = {"anonymous_bytes": self.memory.most["RssAnon"], "resident_bytes": self.memory.most["VmRSS"], "disk_bytes": disk}
        print(json.dumps({**spent, **held, **facts}), flush=True)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--shard", type=Path, required=True, metavar="FILE", help="token shard that the order-3 model is made of")
    parser.add_argument("--vocab", type=int, required=True, metavar="V", help="size of its vocabulary")
    parser.add_argument("--learn", type=float, default=1e7, metavar="N", help="tokens of the shard to learn from [1e7]")
    parser.add_argument("--tokens", type=float, default=1e9, metavar="N", help="tokens to draw [1e9]")
    parser.add_argument("--memory", type=parse_size, required=True, metavar="BYTES", help="budget for counts and table, 18G for example")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="empty folder for files")
    parser.add_argument("--min-raw", type=int, nargs=ORDER, default=[1] * ORDER, metavar="C", help="smallest counts of orders 1 to 7 [1 …]")
    parser.add_argument("--no-code", action="store_true", help="stop at the table")
    flags: argparse.Namespace = parser.parse_args()
    stages = Stages(Memory(), flags.work)
    with stages.stage("the order-3 model") as facts:
        learner = NgramCache(flags.vocab, DRAWN_ORDER, BOS)
        learner.count_stream(read_shard(flags.shard, int(flags.learn), flags.vocab))
        source = Source(learner.table())
        table_codec.encode(learner.table()) if not flags.no_code else None
        source.document(0, 100)
        facts |= {"learned_from": int(flags.learn), "vocab": flags.vocab, "memory": flags.memory, "min_raw": flags.min_raw}
    with stages.stage("drawing a document") as facts:
        facts["tokens"] = len(source.document(0))
    cache = SpillingCache(flags.vocab, ORDER, BOS, flags.work / "counts", flags.memory, int(flags.tokens))
    with stages.stage("drawing and counting") as facts:
        for document in source.documents(int(flags.tokens)):
            cache.count_stream(document)
        facts |= {"tokens": int(flags.tokens), "runs_in_files": len(cache.files)}
    with stages.stage("merging") as facts:
        whole = cache.finish()
        facts |= {"entries": len(whole), "positions": whole.positions}
    with stages.stage("table") as facts:
        table = build_in_parts(whole, flags.vocab, BOS, flags.work / "table", flags.memory, min_raw=flags.min_raw)
        ngrams = sum(table.sizes())
        facts |= {"ngrams": ngrams, "sizes": table.sizes()}
    if not flags.no_code:
        with stages.stage("code") as facts:
            code = len(table_codec.encode(table))
            facts |= {"code_bytes": code, "bits_an_ngram": 8 * code / ngrams}
    del table
    shutil.rmtree(flags.work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    run_cli(main)
