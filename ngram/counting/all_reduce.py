"""Adds up the runs of all ranks and gives the sum to each of them.

Keys are cut into ranges of few entries, each with one owner.  In a wave every rank owns one range: it receives all ranks' entries of it
(all-to-all), adds them up, and sends the sum to all (all-gather).  So the result does not depend on how the stream was split, and beside
the runs only one wave is ever in memory.  The owner adds up, because Gloo cannot add 16-bit integers.
Continuation counts are sizes of sets, which cannot be added: derive them from the run that is returned.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ngram.arrays import I64
from ngram.counting.run import Room, Run, merge
from ngram.errors import SeedgramError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

WAVE_ENTRIES = 1 << 21  # entries of all ranks in one wave: 48 MiB as three columns of 8 bytes
SAMPLES_A_RANGE = 4  # times the number of ranks: how finely ranges are balanced


def all_reduce_run(run: Run, group: "ProcessGroup | None" = None, wave_entries: int = WAVE_ENTRIES) -> Run:
    """The run of all ranks' streams together, the same bits on every rank of `group` (None: all ranks), which is one of Gloo's.

    run: this rank's counts.  wave_entries bounds what one wave moves, whatever the runs' sizes, unless a single group
    of four tokens has more extensions than that.  Without torch.distributed, or with one rank, the run itself.
    Raises SeedgramError, on every rank, if orders differ."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return run
    orders, sizes, positions = zip(*_gather((run.order, len(run), run.total()), group), strict=True)
    if len(set(orders)) > 1:
        raise SeedgramError(f"ranks counted different orders {sorted(set(orders))}; start every rank with the same --orders")
    world, edges = len(sizes), _edges(run, len(sizes), group, wave_entries)
    output, nothing = Room(sum(sizes), sum(positions)), Run.empty(run.order, run.bits)
    for wave in range(0, len(edges) - 1, world):
        for part in _gather(_exchange(run, edges[wave : wave + world + 1], group), group):
            output.add(part, nothing)
    return output.run(run.order, run.bits)


def _gather(value: Any, group: "ProcessGroup | None") -> list[Any]:
    """Every rank's value, one rank after the other."""
    import torch.distributed as dist

    values = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def _edges(run: Run, world: int, group: "ProcessGroup | None", wave_entries: int) -> I64:
    """(ranges + 1,) places in this rank's run where the ranges begin and end; ranges is a multiple of the ranks.

    Every rank names each stride-th of its keys.  Between cuts that are `block` samples apart lie at most
    (block + world) · stride entries of all ranks together, and a wave has `world` such ranges."""
    block = SAMPLES_A_RANGE * world
    stride = max(1, wave_entries // (world * (block + world)))
    cuts = np.unique(np.sort(np.concatenate(_gather(run.hi[stride::stride], group)))[block::block])
    inner = np.searchsorted(run.hi, cuts).astype(np.int64)
    missing = -(len(inner) + 1) % world  # empty ranges at the end fill the last wave
    return np.concatenate([[0], inner, np.full(missing + 1, len(run))])


def _exchange(run: Run, edges: I64, group: "ProcessGroup | None") -> Run:
    """One wave: sends each range to its owner and returns this rank's range of all ranks added up."""
    import torch
    import torch.distributed as dist

    outgoing, mine = np.diff(edges).tolist(), run.slice(int(edges[0]), int(edges[-1]))
    incoming = [counts[dist.get_rank(group)] for counts in _gather(outgoing, group)]
    sent = np.stack([mine.hi.view(np.int64), mine.lo.view(np.int64), mine.exact_counts()], axis=1)
    rows = torch.empty((sum(incoming), 3), dtype=torch.int64)
    dist.all_to_all_single(rows, torch.from_numpy(sent), incoming, outgoing, group=group)
    return merge(*(_unpack(part.numpy(), run) for part in rows.split(incoming)))


def _unpack(rows: I64, like: Run) -> Run:
    """rows (n, 3): hi and lo as bit patterns, and the exact counts."""
    hi, lo = (np.ascontiguousarray(rows[:, i]).view(np.uint64) for i in (0, 1))
    return Run.from_counts(like.order, hi, lo, rows[:, 2], like.bits)
