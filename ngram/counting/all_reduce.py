"""Adds up the runs of all ranks, range by range of their keys, and gives the sum to each of them (docs/architecture.md).

Continuation counts are sizes of sets, which cannot be added: derive them from the run that is returned.
"""

from typing import TYPE_CHECKING

import numpy as np

from ngram.arrays import I64
from ngram.counting.run import Room, Run, merge
from ngram.errors import SeedgramError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

WAVE_ENTRIES = 1 << 21  # entries of all ranks in one wave: 48 MiB as three columns of 8 bytes
SAMPLES_A_RANGE = 4  # times the number of ranks: how finely ranges are balanced


def all_reduce_run(run: Run, group: "ProcessGroup | None" = None) -> Run:
    """The run of all ranks' streams together, the same bits on every rank of `group` (None: all ranks), which is one of Gloo's.

    run: this rank's counts.  WAVE_ENTRIES bounds what one wave moves, whatever the runs' sizes, unless a single group
    of four tokens has more extensions than that.  Without torch.distributed, or with one rank, the run itself.
    Raises SeedgramError, on every rank, if orders differ."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return run
    facts = np.concatenate(_gather(np.array([[run.order, len(run), run.total()]]), group))
    if len(orders := np.unique(facts[:, 0]).tolist()) > 1:
        raise SeedgramError(f"ranks counted different orders {orders}; start every rank with the same --orders")
    world, edges = len(facts), _edges(run, len(facts), group)
    output, nothing = Room(*facts[:, 1:].sum(axis=0).tolist()), Run.empty(run.order, run.bits)
    for wave in range(0, len(edges) - 1, world):
        for rows in _gather(_exchange(run, edges[wave : wave + world + 1], group), group):
            output.add(_unpack(rows, run), nothing)
    return output.run(run.order, run.bits)


def _gather(rows: I64, group: "ProcessGroup | None") -> list[I64]:
    """The rows (n, k) of each rank, however many it has."""
    import torch
    import torch.distributed as dist

    sizes = [torch.empty(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, torch.tensor([len(rows)]), group=group)
    padded = torch.zeros(max(map(int, sizes)), rows.shape[1], dtype=torch.int64)
    padded[: len(rows)] = torch.from_numpy(rows)
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return [part[: int(size)].numpy() for part, size in zip(parts, sizes, strict=True)]


def _edges(run: Run, world: int, group: "ProcessGroup | None") -> I64:
    """(ranges + 1,) places in this rank's run where the ranges begin and end; ranges is a multiple of the ranks.

    Every rank names each stride-th of its keys.  Between cuts that are `block` samples apart lie at most
    (block + world) · stride entries of all ranks together, and a wave has `world` such ranges."""
    block = SAMPLES_A_RANGE * world
    stride = max(1, WAVE_ENTRIES // (world * (block + world)))
    samples = np.concatenate(_gather(run.hi[stride::stride, None].view(np.int64), group))[:, 0].view(np.uint64)
    inner = np.searchsorted(run.hi, np.unique(np.sort(samples)[block::block]))
    missing = -(len(inner) + 1) % world  # empty ranges at the end fill the last wave
    return np.concatenate([[0], inner, np.full(missing + 1, len(run))])


def _exchange(run: Run, edges: I64, group: "ProcessGroup | None") -> I64:
    """One wave: sends each range to its owner and returns this rank's range of all ranks added up, as _pack."""
    import torch
    import torch.distributed as dist

    counts, rank = np.diff(edges), dist.get_rank(group)
    incoming = [int(theirs[0, rank]) for theirs in _gather(counts[None], group)]
    rows = torch.empty((sum(incoming), 3), dtype=torch.int64)
    sent = torch.from_numpy(_pack(run.slice(int(edges[0]), int(edges[-1]))))
    dist.all_to_all_single(rows, sent, incoming, counts.tolist(), group=group)
    return _pack(merge(*(_unpack(part.numpy(), run) for part in rows.split(incoming))))


def _pack(run: Run) -> I64:
    """(n, 3) int64: hi and lo as bit patterns, and the exact counts."""
    return np.stack([run.hi.view(np.int64), run.lo.view(np.int64), run.exact_counts()], 1)


def _unpack(rows: I64, like: Run) -> Run:
    hi, lo = np.ascontiguousarray(rows.T[:2]).view(np.uint64)
    return Run.from_counts(like.order, hi, lo, rows[:, 2], like.bits)
