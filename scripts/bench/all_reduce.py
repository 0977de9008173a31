"""The all-reduce of runs over 1, 2, 4 and 8 Gloo processes on the book corpus: same bits, time, memory beyond the runs.

    python scripts/bench/all_reduce.py --books DIR [--ranks 1 2 4 8] [--order 7]

Every rank counts its share of the stream (positions in contiguous parts, each with its history), then all call
`all_reduce_run`.  Printed: the digest of the result on each rank, which must be one and the same; seconds from a
barrier to the last rank's result; and the largest growth of a rank's resident memory above what it held with its own
run, less the result's columns.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from ngram.arrays import digest
from ngram.counting.all_reduce import all_reduce_run
from ngram.counting.build_table import build_table
from ngram.counting.counter import NgramCache
from ngram.counting.run import Run, merge
from ngram.errors import SeedgramError, run_cli
from ngram.table import PAD
from scripts.bench.common import BOOKS_HELP, make_parser, read_books


def resident_bytes() -> int:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    """Largest resident memory since the last reset (Linux's VmHWM), or since the start where the system does not say more."""
    lines = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return (int(lines[0].split()[1]) if lines else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def count_share(stream: np.ndarray, rank: int, world: int, vocab_size: int, order: int) -> Run:
    """This rank's contiguous share of the positions, with the history before it."""
    edges = np.linspace(1, len(stream), world + 1).astype(int)
    padded = np.concatenate([np.full(order - 1, PAD, np.uint16), stream])
    cache = NgramCache(vocab_size, order)
    cache.update(padded[None, edges[rank] : edges[rank + 1] + order - 1])
    return cache.run()


def worker(rank: int, world: int, folder: Path, order: int) -> None:
    """One rank: counts, warms the kernels up, meets the others, sums; writes its figures."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
    stream, vocab_size = np.load(folder / "stream.npy"), int((folder / "vocab").read_text())
    run = count_share(stream, rank, world, vocab_size, order)
    merge(run.slice(0, 10), run.slice(5, 20))  # compiled by now, outside the clock
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_bytes()
    dist.barrier()
    started = time.perf_counter()
    total = all_reduce_run(run)
    wall_s = time.perf_counter() - started
    result_bytes = 0 if total is run else sum(column.nbytes for column in total.columns())
    figures = {"digest": digest(*total.columns()), "wall_s": wall_s, "extra": peak_bytes() - before - result_bytes, "entries": [len(run), len(total)]}
    if rank == 0:
        table = build_table(total, vocab_size, 1)
        figures["table"] = digest(*table.tokens, *table.parents, *table.counts, table.discounts)
    (folder / f"{world}-{rank}.json").write_text(json.dumps(figures))
    dist.barrier()
    dist.destroy_process_group()


def measure(world: int, folder: Path, order: int) -> None:
    """Starts `world` ranks, waits, prints one line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--order", str(order), "--folder", str(folder)]
    ranks = [subprocess.Popen([*command, "--rank", str(rank), str(world)], env=environment) for rank in range(world)]
    codes = [rank.wait() for rank in ranks]
    if any(codes):
        raise SeedgramError(f"a rank of {world} failed; its reason is above")
    found = [json.loads((folder / f"{world}-{rank}.json").read_text()) for rank in range(world)]
    digests = {figures["digest"] for figures in found}
    own, total = zip(*(figures["entries"] for figures in found), strict=True)
    wall_s, extra = max(f["wall_s"] for f in found), max(f["extra"] for f in found)
    print(
        f"{world:5}  {sum(own):12,}  {total[0]:10,}  {wall_s:6.2f} s  {extra / 1e6:8.1f} MB  {' '.join(sorted(digests))}  table {found[0]['table']}",
        flush=True,
    )


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--books", type=Path, metavar="DIR", help=f"{BOOKS_HELP} (required)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="numbers of processes to try [1 2 4 8]")
    parser.add_argument("--order", type=int, default=7, metavar="N", help="of the longest n-grams [7]")
    parser.add_argument("--rank", type=int, nargs=2, help=argparse.SUPPRESS)  # this process is one of the ranks
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.rank:
        worker(flags.rank[0], flags.rank[1], flags.folder, flags.order)
        return 0
    if flags.books is None:
        parser.error("--books is missing")
    books = read_books(flags.books)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "stream.npy", books.train)
        (folder / "vocab").write_text(str(books.tokenizer.vocab_size))
        print("ranks  entries in  entries out     time  extra memory  digest of the result on all ranks")
        for world in flags.ranks:
            measure(world, folder, flags.order)
    return 0


if __name__ == "__main__":
    run_cli(main)
