"""Counting on a GPU: keys made, sorted and grouped by torch on the device, beside the host's runs, bit for bit the same.

    python scripts/bench/gpu_counting.py --shard train.bin --vocab 1024 [--sizes 65536 1048576 16777216 70000000] [--device cuda] [--json F]

A key of seven tokens is two int64 with the sign turned, so that signed order is theirs; they are sorted by the second number and then, stably, by the
first.  Narrow keys hold the target and the four tokens before it in one int64 and the last two in an int32, which is cheaper to sort.  For each size:
milliseconds of the clock for upload, keys, sort, grouping and the copy to pinned memory of the host, the best of three; tokens a second of all of
it; and the host's seconds of one processor for the same run.

What it cannot do: histories come from one stream, and the run of what a device holds still has to be merged with the others on the host.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from ngram.arrays import digest
from ngram.container import atomic_write
from ngram.counting.counter import NgramCache
from ngram.errors import SeedgramError, run_cli
from scripts.bench.common import make_parser, markdown
from scripts.bench.counting import BOS, ORDER, read_shard

Tensor = torch.Tensor
SIGN = -(1 << 63)
PAD = 65_535


def slots(stream: Tensor) -> list[Tensor]:
    """The tokens of each position but the first, target first, PAD before its history's beginning: seven (N - 1,) int64."""
    place = torch.arange(len(stream), device=stream.device)
    opened = torch.cummax(torch.where(stream == BOS, place, 0), 0).values[:-1]  # the last BOS before each target, or the stream's beginning
    targets = place[1:]
    found = [stream[1:]]
    for back in range(1, ORDER):
        inside = targets - back >= opened
        found.append(torch.where(inside, stream[(targets - back).clamp_min(0)], PAD))
    return found


def wide_keys(tokens: list[Tensor]) -> tuple[Tensor, Tensor]:
    """hi and lo of ngram.counting.keys, signs turned."""
    hi = tokens[0] << 48 | tokens[1] << 32 | tokens[2] << 16 | tokens[3]
    return hi ^ SIGN, (tokens[4] << 48 | tokens[5] << 32 | tokens[6] << 16) ^ SIGN


def sort_wide(keys: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    hi, lo = keys
    lo, order = torch.sort(lo)
    hi, order = torch.sort(hi[order], stable=True)
    return hi, lo[order]


def narrow_keys(tokens: list[Tensor], vocab_size: int) -> tuple[Tensor, Tensor]:
    """The target and the four tokens before it in one number, and the two before these: PAD is V."""
    bits = int(vocab_size).bit_length()
    head = tokens[0].clone()
    for token in tokens[1:5]:
        head = head << bits | token.clamp_max(vocab_size)
    return head, (tokens[5].clamp_max(vocab_size) << bits | tokens[6].clamp_max(vocab_size)).int()


def sort_narrow(keys: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    head, tail = keys
    tail, order = torch.sort(tail)
    head, order = torch.sort(head[order], stable=True)
    return head, tail[order]


def group(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct keys and their counts."""
    new = torch.ones(len(first), dtype=torch.bool, device=first.device)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    begin = new.nonzero()[:, 0]
    counts = torch.diff(begin, append=torch.tensor([len(first)], device=first.device))
    return first[begin], second[begin], counts.int()


def widened(head: Tensor, tail: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Narrow keys as wide ones, signs turned."""
    bits = int(vocab_size).bit_length()
    mask = (1 << bits) - 1
    tokens = [head >> bits * (4 - i) & mask for i in range(5)] + [tail.long() >> bits & mask, tail.long() & mask]
    return wide_keys([torch.where(token == vocab_size, PAD, token) for token in tokens])


def timed(task: Callable[[], Any], device: str) -> tuple[Any, float]:
    """What a task gives, and the fewest milliseconds of three."""
    spent = []
    for _ in range(3):
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        result = task()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(1000 * (time.perf_counter() - begin))
    return result, min(spent)


def to_host(columns: tuple[Tensor, ...], device: str) -> tuple[Tensor, ...]:
    if device != "cuda":
        return columns
    pinned = tuple(torch.empty(column.shape, dtype=column.dtype, pin_memory=True) for column in columns)
    for here, there in zip(pinned, columns, strict=True):
        here.copy_(there, non_blocking=True)
    torch.cuda.synchronize()
    return pinned


def measure(stream: Any, vocab_size: int, device: str, narrow: bool) -> dict[str, Any]:
    """One size, one way."""
    torch_stream, upload_ms = timed(lambda: torch.from_numpy(stream.astype(np.int16)).to(device), device)  # ids below 2^15
    tokens, slots_ms = timed(lambda: slots(torch_stream.long()), device)
    keys, keys_ms = timed(lambda: narrow_keys(tokens, vocab_size) if narrow else wide_keys(tokens), device)
    ordered, sort_ms = timed(lambda: sort_narrow(keys) if narrow else sort_wide(keys), device)
    grouped, group_ms = timed(lambda: group(*ordered), device)
    if narrow:
        wide, widen_ms = timed(lambda: widened(grouped[0], grouped[1], vocab_size), device)
        grouped, group_ms = (*wide, grouped[2]), group_ms + widen_ms
    columns, copy_ms = timed(lambda: to_host(grouped, device), device)
    keys_of = [(column.numpy() ^ SIGN).view(np.uint64) for column in columns[:2]]
    counts = columns[2].numpy().astype(np.int64)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    parts = {"upload_ms": upload_ms, "keys_ms": slots_ms + keys_ms, "sort_ms": sort_ms, "group_ms": group_ms, "copy_ms": copy_ms}
    return {**parts, "all_ms": sum(parts.values()), "entries": len(counts), "digest": digest(*keys_of, counts), "device_bytes": peak}


def host(stream: Any, vocab_size: int) -> dict[str, Any]:
    begin = time.thread_time(), time.perf_counter()
    cache = NgramCache(vocab_size, ORDER, BOS)
    cache.count_stream(stream)
    run = cache.run()
    spent = time.thread_time() - begin[0], time.perf_counter() - begin[1]
    return {"host_processor_s": spent[0], "host_wall_s": spent[1], "host_digest": digest(run.hi, run.lo, run.exact_counts())}


def rates(row: dict[str, Any]) -> tuple[str, str]:
    """Million tokens a second, of the device and of one processor."""
    return f"{row['tokens'] / row['all_ms'] / 1000:.1f}", f"{row['tokens'] / row['host_processor_s'] / 1e6:.1f}"


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--shard", type=Path, required=True, metavar="FILE", help="token shard to count")
    parser.add_argument("--vocab", type=int, required=True, metavar="V", help="size of its vocabulary, at most 4,095")
    parser.add_argument("--sizes", type=int, nargs="+", default=[65_536, 1_048_576, 16_777_216, 70_000_000], metavar="N", help="tokens to count")
    parser.add_argument("--device", default="cuda", help="cuda or cpu [cuda]")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures here too")
    flags: argparse.Namespace = parser.parse_args()
    if flags.vocab > 4095:
        raise SeedgramError(f"vocabulary of {flags.vocab}: five tokens of 12 bits fill a narrow key; measure one up to 4,095")
    warm = NgramCache(flags.vocab, ORDER, BOS, buffer_positions=64)
    warm.count_stream(read_shard(flags.shard, -1, flags.vocab)[:2000])
    warm.run()
    rows = list[dict[str, Any]]()
    for size in flags.sizes:
        stream = read_shard(flags.shard, max(size, 65_536 + ORDER), flags.vocab)[:size]
        here = host(stream, flags.vocab)
        for narrow in (False, True):
            found = measure(stream, flags.vocab, flags.device, narrow)
            rows.append({"tokens": len(stream), "keys": "narrow" if narrow else "two int64", **found, **here, "same": found["digest"] == here["host_digest"]})
            print(json.dumps(rows[-1]), flush=True)
    names = ["upload_ms", "keys_ms", "sort_ms", "group_ms", "copy_ms", "all_ms"]
    cells = [
        [f"{row['tokens']:,}", row["keys"], *(f"{row[name]:.2f}" for name in names), *rates(row), str(row["same"])]
        for row in rows
    ]
    print(markdown(["tokens", "keys", *names, "million tokens/s", "host's, one core", "same bits"], cells))
    if flags.json:
        atomic_write(flags.json, (json.dumps(rows, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    run_cli(main)
