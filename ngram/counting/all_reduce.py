"""Adds up the runs of all ranks and gives the sum to each of them.

Keys are cut into ranges of few entries, each with one owner.  In a wave every rank owns one range: it receives all ranks' entries of it
(all-to-all), adds them up, and sends the sum to all (all-gather).  So the result does not depend on how the stream was split, and beside
the runs only one wave is ever in memory.  Counts travel as 64-bit integers and their owner adds them up, because neither NCCL nor Gloo
can add 16-bit integers.  Continuation counts are sizes of sets, which cannot be added: derive them from the run that is returned.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ngram.arrays import I64
from ngram.counting import kernels
from ngram.counting.run import Run, merge
from ngram.errors import SeedgramError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

WAVE_ENTRIES = 1 << 21  # entries of all ranks in one wave: 48 MiB as three columns of 8 bytes
SAMPLES_A_RANGE = 4  # times the number of ranks: how finely ranges are balanced


def all_reduce_run(run: Run, group: "ProcessGroup | None" = None, wave_entries: int = WAVE_ENTRIES) -> Run:
    """The run of all ranks' streams together, the same bits on every rank of `group` (None: all ranks).

    run: this rank's counts.  wave_entries bounds what one wave moves, whatever the runs' sizes, unless a single group
    of four tokens has more extensions than that.  Works on Gloo, and on NCCL through CUDA tensors of the current device.
    Without torch.distributed, or with one rank, the run itself.  Raises SeedgramError, on every rank, if orders differ."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return run
    link = _Link(group)
    facts = link.gather(np.array([[run.order, len(run), len(run.overflow_index)]], np.int64))
    orders = sorted({int(order) for order in facts[:, 0]})
    if len(orders) > 1:
        raise SeedgramError(f"ranks counted different orders {orders}; start every rank with the same --orders")
    edges = _edges(run, link, wave_entries)
    output = _Output(run, int(facts[:, 1].sum()))
    for wave in range(0, len(edges) - 1, link.world):
        for rows in link.gather_ragged(_exchange(run, edges[wave : wave + link.world + 1], link)):
            output.append(rows)
    return output.run()


class _Link:
    """Sends numbers between ranks: (n, k) int64 arrays in and out, on whichever device the backend needs."""

    def __init__(self, group: "ProcessGroup | None") -> None:
        import torch
        import torch.distributed as dist

        self.torch, self.dist, self.group = torch, dist, group
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        self.device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else torch.device("cpu")

    def _send(self, array: I64) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def gather(self, array: I64) -> I64:
        """The rows of all ranks, one rank after the other.  Every rank must bring the same number of rows."""
        tensor = self._send(array)
        parts = [self.torch.empty_like(tensor) for _ in range(self.world)]
        self.dist.all_gather(parts, tensor, group=self.group)
        return np.concatenate([part.cpu().numpy() for part in parts])

    def gather_ragged(self, array: I64) -> list[I64]:
        """The rows of each rank, however many it has."""
        sizes = self.gather(np.array([[len(array)]], np.int64))[:, 0]
        padded = np.zeros((int(sizes.max()), array.shape[1]), np.int64)
        padded[: len(array)] = array
        parts = self.gather(padded).reshape(self.world, *padded.shape)
        return [part[:size] for part, size in zip(parts, sizes, strict=True)]

    def exchange(self, rows: I64, counts: list[int], incoming: list[int]) -> I64:
        """Sends the first counts[0] rows to rank 0 and so on; returns incoming[r] rows of each rank r."""
        out = self.torch.empty((sum(incoming), rows.shape[1]), dtype=self.torch.int64, device=self.device)
        self.dist.all_to_all_single(out, self._send(rows), incoming, counts, group=self.group)
        return np.asarray(out.cpu().numpy())


def _edges(run: Run, link: _Link, wave_entries: int) -> I64:
    """(ranges + 1,) places in this rank's run where the ranges begin and end; ranges is a multiple of the ranks.

    Every rank names each stride-th of its keys.  Between cuts that are `block` samples apart lie at most
    (block + world) · stride entries of all ranks together, and a wave has `world` such ranges."""
    block = SAMPLES_A_RANGE * link.world
    stride = max(1, wave_entries // (link.world * (block + link.world)))
    samples = link.gather_ragged(run.hi[stride::stride, None].view(np.int64))
    merged = np.sort(np.concatenate(samples)[:, 0].view(np.uint64))
    cuts = np.unique(merged[block::block])
    inner = np.searchsorted(run.hi, cuts).astype(np.int64)
    missing = -(len(inner) + 1) % link.world  # empty ranges at the end fill the last wave
    return np.concatenate([[0], inner, np.full(missing + 1, len(run))])


def _exchange(run: Run, edges: I64, link: _Link) -> I64:
    """One wave: sends each range to its owner and returns this rank's range of all ranks added up, (n, 3) as _pack."""
    counts = np.diff(edges)
    incoming = link.gather(counts[None, :])[:, link.rank]
    rows = link.exchange(_pack(run.slice(int(edges[0]), int(edges[-1]))), counts.tolist(), incoming.tolist())
    parts = np.split(rows, np.cumsum(incoming)[:-1])
    return _pack(merge(*(_unpack(part, run) for part in parts)))


def _pack(run: Run) -> I64:
    """(n, 3) int64: hi and lo as bit patterns, and the exact counts."""
    return np.stack([run.hi.view(np.int64), run.lo.view(np.int64), run.exact_counts()], axis=1)


def _unpack(rows: I64, like: Run) -> Run:
    hi, lo = (np.ascontiguousarray(rows[:, i]).view(np.uint64) for i in (0, 1))
    return Run.from_counts(like.order, hi, lo, rows[:, 2], like.bits)


class _Output:
    """The result while it grows.  Room for the longest possible result is reserved; pages that are never written take no memory."""

    def __init__(self, like: Run, capacity: int) -> None:
        self.like, self.size = like, 0
        self.hi, self.lo = np.empty(capacity, np.uint64), np.empty(capacity, np.uint64)
        self.counts = np.empty(capacity, np.uint16)
        self.overflow: list[tuple[I64, I64]] = []

    def append(self, rows: I64) -> None:
        stop = self.size + len(rows)
        self.hi[self.size : stop] = rows[:, 0].view(np.uint64)
        self.lo[self.size : stop] = rows[:, 1].view(np.uint64)
        self.counts[self.size : stop] = np.minimum(rows[:, 2], kernels.FULL)
        over = np.flatnonzero(rows[:, 2] >= kernels.FULL)
        self.overflow.append((over + self.size, rows[over, 2]))
        self.size = stop

    def run(self) -> Run:
        for column in (self.hi, self.lo, self.counts):
            column.resize(self.size, refcheck=False)  # gives the reserved rest back without a copy
        index, count = (np.concatenate([np.zeros(0, np.int64), *columns]) for columns in zip(*self.overflow, strict=True))
        return Run(self.like.order, self.hi, self.lo, self.counts, index, count, self.like.bits)
