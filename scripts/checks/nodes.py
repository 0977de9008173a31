"""Counts over two machines of two processes each: the sum of their runs is the run of one process, to the bit.

    python scripts/checks/nodes.py [--tokens 400000] [--shard FILE --vocab V]

Both "machines" are torchrun's agents on this one (--nnodes 2, --nproc-per-node 2, meeting over the loopback interface), so all that is missing
of two real ones is the cable.  Each process counts its share of a token shard, or of drawn tokens, and by Gloo all get the sum.  Printed: entries
of the shares and of the sum, the seconds that it took, the bytes that went over the loopback interface meanwhile, and those that the plan of
all_reduce.py needs.  Exits with 1 if a process has other bits than a single one.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from ngram.arrays import U16, digest
from ngram.counting import all_reduce
from ngram.errors import SeedgramError, run_cli
from scripts.bench.all_reduce import count_share, peak_bytes
from scripts.bench.common import make_parser
from scripts.bench.counting import read_shard

NODES, PROCESSES, ORDER = 2, 2, 7
ROW_BYTES = 24  # of an entry on its way: two halves of the key and the count
DRAWN_VOCAB = 300


def drawn(tokens: int) -> U16:
    """Tokens of which a few are frequent, so that n-grams come back."""
    return (np.random.default_rng(0).zipf(1.4, tokens) % (DRAWN_VOCAB - 2) + 2).astype(np.uint16)


def loopback_bytes() -> int:
    """Received over the loopback interface since the machine started (Linux)."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def worker(folder: Path, vocab_size: int) -> None:
    """One process, started by torchrun."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    run = count_share(np.load(folder / "stream.npy"), rank, world, vocab_size, ORDER)
    all_reduce.all_reduce_run(run.slice(0, 100))  # compiles
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    dist.barrier()
    held, before, began = peak_bytes(), loopback_bytes(), time.perf_counter()
    total = all_reduce.all_reduce_run(run)
    dist.barrier()
    facts = {
        "node": int(os.environ["GROUP_RANK"]),
        "digest": digest(*total.columns()),
        "entries": [len(run), len(total)],
        "wall_s": time.perf_counter() - began,
        "loopback_bytes": loopback_bytes() - before,
        "grown_bytes": peak_bytes() - held,
    }
    (folder / f"{rank}.json").write_text(json.dumps(facts))
    dist.barrier()
    dist.destroy_process_group()


def start(folder: Path, vocab_size: int) -> None:
    """Both agents, to their end.  Raises SeedgramError with the end of what a failing one said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "nodes"]
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(NODES), "--nproc-per-node", str(PROCESSES), *meeting]
    command = [*agent, __file__, "--folder", str(folder), "--vocab", str(vocab_size)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    agents = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(NODES)]
    try:
        said = [agent.communicate(timeout=500)[1] for agent in agents]
    finally:
        for running in agents:
            running.kill()
    if any(running.returncode for running in agents):
        raise SeedgramError(f"a machine failed: {' '.join(said)[-2000:]}")


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=400_000, metavar="N", help="to count [400000]")
    parser.add_argument("--shard", type=Path, metavar="FILE", help="token shard to count the first tokens of [drawn tokens]")
    parser.add_argument("--vocab", type=int, default=DRAWN_VOCAB, metavar="V", help="size of its vocabulary")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # this is one of the processes
    flags = parser.parse_args()
    if flags.folder:
        worker(flags.folder, flags.vocab)
        return 0
    stream = read_shard(flags.shard, flags.tokens, flags.vocab) if flags.shard else drawn(flags.tokens)
    alone = digest(*count_share(stream, 0, 1, flags.vocab, ORDER).columns())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "stream.npy", stream)
        start(folder, flags.vocab)
        found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(NODES * PROCESSES)]
    own, total = [facts["entries"][0] for facts in found], found[0]["entries"][1]
    right = {facts["digest"] for facts in found} == {alone} and sorted(facts["node"] for facts in found) == [0, 0, 1, 1]
    world = len(found)
    planned = ROW_BYTES * (sum(own) * (world - 1) // world + total * (world - 1))
    print(f"{NODES} machines x {PROCESSES} processes, {len(stream):,} tokens: entries {own}, together {total:,}")
    wall_s, grown = (max(facts[key] for facts in found) for key in ("wall_s", "grown_bytes"))
    print(f"sum in {wall_s:.2f} s; memory grew by at most {grown / total:.1f} bytes an entry")
    print(f"{found[0]['loopback_bytes']:,} bytes over loopback, {planned:,} planned")
    print("every process has the bits of a single one" if right else "DIFFERENT BITS")
    return 0 if right else 1


if __name__ == "__main__":
    run_cli(main)
