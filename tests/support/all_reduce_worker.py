"""One rank of the tests of ngram.sync: counts its part of a stream, sums with the others, writes what it got.

python tests/support/all_reduce_worker.py RANK WORLD FOLDER; FOLDER/stream.npy is the whole stream, FOLDER/store the meeting point.
"""

import datetime
import sys
from pathlib import Path

import numpy as np
import torch.distributed as dist

from ngram.counting import all_reduce
from ngram.counting.counter import NgramCache
from ngram.counting.run import Run
from ngram.errors import SeedgramError

VOCAB = 11
ORDER = 5
SCENARIOS = ("even", "lopsided", "overflow", "orders")


def part(stream: np.ndarray, rank: int, world: int, scenario: str) -> Run:
    """This rank's share of the stream's positions: a contiguous range with the history before it."""
    cache = NgramCache(VOCAB, 4 if scenario == "orders" and rank else ORDER, 1, buffer_positions=64)
    edges = np.linspace(1, len(stream), world + 1).astype(int)
    if scenario == "lopsided":  # everything on the last rank: the others bring empty runs
        edges[1:-1] = 1
    start, stop = edges[rank], edges[rank + 1]
    if start < stop:
        padded = np.concatenate([np.full(ORDER - 1, 65535, np.uint16), stream])
        cache.update(padded[None, start : stop + ORDER - 1][:, ORDER - 1 - cache.history :])
    run = cache.run()
    if scenario == "overflow":  # the same n-grams seen 40,000 times: two ranks pass 65,535 together, none alone
        run = Run.from_counts(ORDER, run.hi, run.lo, run.exact_counts() * 40_000)
    return run


def main() -> None:
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    wait = datetime.timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=wait)
    stream = np.load(folder / "stream.npy")
    all_reduce.WAVE_ENTRIES = 64
    for scenario in SCENARIOS:
        try:
            result = all_reduce.all_reduce_run(part(stream, rank, world, scenario))
            np.savez(folder / f"{scenario}-{rank}.npz", *result.columns())
        except SeedgramError as error:
            (folder / f"{scenario}-{rank}.txt").write_text(str(error))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
