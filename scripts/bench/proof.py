"""What a column of a certificate costs, part by part, and what the one-kernel columns save over loops: ratios of one run.

    python scripts/bench/proof.py --artifact A --data DIR [--streams 256] [--columns 512] [--device cuda]
    python scripts/bench/proof.py --preset seed1095 --data DIR [--count 20000000] [--table F] …

The first form takes a trained artifact and its validation text.  The second needs none: the preset's network with random
weights (speed does not depend on them), and a cache that counted the first tokens of the training shards, or a table that
`python -m ngram` made.  Compilation and the first two columns are left out.  Network and cache work side by side, so the
parts may add up to more than the whole.  Network, cache, gate and mix are wall time, so leave the machine alone meanwhile;
loops, kernels, seeding and coder are processor time of one thread.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

import numpy as np
import torch

from hybrid.coding.lockstep import Layout, Lockstep
from hybrid.coding.stream_coder import STREAMS
from hybrid.coding.symbols import SymbolEncoder
from hybrid.data.load_stream import load_stream
from hybrid.model.hybrid_lm import HybridLM
from hybrid.parallel import ranks
from hybrid.parallel.device import add_device_flag
from hybrid.scoring.exact import exact
from hybrid.scoring.mixture import EXPERTS, GATE_FEATURES, GATE_RATE, Mixture, load_gate
from hybrid.settings import presets
from hybrid.storing import artifact
from ngram.arrays import U16
from ngram.blending import fit
from ngram.blending.warm_up import SCORING
from ngram.blending.warm_up_columns import CODING
from ngram.counting.counter import NgramCache
from ngram.errors import SeedgramError, run_cli
from ngram.online.cache import OnlineCache
from ngram.online.columns import update_column
from ngram.online.stream_cache import FEATURES
from ngram.row_at import row_at
from ngram.score_first import ScoreFirst
from ngram.storing.model_file import read_model
from ngram.table import PAD, NgramTable
from scripts.bench.common import fastest_s, make_parser

LOOPED = 8  # columns that the old loops are timed on


def stand_in(preset: str, table: NgramTable) -> artifact.Artifact:
    """An artifact of random weights around a table, its gate with hidden units as a fitted one has."""
    config, random = presets.get(preset), np.random.default_rng(0)
    features = random.normal(size=(fit.SMALLEST, len(GATE_FEATURES))).astype(np.float32)
    gate, fit.EPOCHS = fit.unfitted(features, GATE_FEATURES, len(EXPERTS)), 1
    gate.rate = GATE_RATE
    gate = fit.fit(features, random.uniform(0.01, 1, (len(features), len(EXPERTS))), gate)
    model = HybridLM(replace(config.model, vocab_size=table.vocab_size))
    return artifact.Artifact(config, model.eval(), b"", table, gate.to_bytes(), {}, 0)


def counted(flags: argparse.Namespace, vocab_size: int) -> NgramTable:
    if flags.table:
        return read_model(flags.table).table
    cache = NgramCache(vocab_size, presets.get(flags.preset).cache.ngram_order)
    cache.count_stream(load_stream(flags.data, "train", vocab_size)[: flags.count])
    return cache.table([1, 1, 1, 2, 2, 2, 2])


def milliseconds(action: Callable[[], Any]) -> float:
    """Processor time of one call."""
    return 1e3 * fastest_s(action, 1)


def update_one_by_one(cache: OnlineCache, columns_ST: U16, column: int) -> None:
    """The loop that `update_column` replaces."""
    for stream in columns_ST:
        cache.update(stream, column, column + 1)


def loops_and_kernels(table: NgramTable, columns_ST: U16, first: int) -> dict[str, tuple[float, float]]:
    """(ms of the loop, ms of the kernel) a column, on two caches that stay equal; the order of the two alternates."""
    caches = OnlineCache(table), OnlineCache(table)
    everyone, order = np.arange(len(columns_ST)), table.order
    past = np.full((len(columns_ST), order - 1), PAD, np.uint16)
    rows, features = np.empty((len(past), table.vocab_size)), np.empty((len(past), len(FEATURES)), np.float32)
    spent = {"count": [0.0, 0.0], "rows, alone and with features": [0.0, 0.0]}
    for column in range(first, first + LOOPED):
        past[:] = columns_ST[:, column - order + 1 : column]
        actions: dict[str, list[Callable[[], Any]]] = {
            "rows, alone and with features": [lambda: caches[0].rows(past), lambda: caches[1].fill(past, rows, features)],
            "count": [partial(update_one_by_one, caches[0], columns_ST, column), partial(update_column, caches[1], columns_ST, everyone, column)],
        }
        for part, pair in actions.items():
            for which in (0, 1) if column % 2 else (1, 0):
                spent[part][which] += milliseconds(pair[which]) / LOOPED
    if caches[0].digest() != caches[1].digest():
        raise SeedgramError("loop and kernel have counted differently; report this")
    return {part: (loop, kernel) for part, (loop, kernel) in spent.items()}


def coded_columns(art: artifact.Artifact, tokens: U16, flags: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Milliseconds a column of each part and of all, after the first two columns."""
    layout = Layout(len(tokens), flags.streams, len(tokens) // flags.streams)
    assert art.table is not None
    columns, mixture = layout.columns(tokens), Mixture(load_gate(art.gate, learning=True), art.config.cache.chunk_tokens)
    coder, active, coder_ms = SymbolEncoder(), np.arange(flags.streams), 0.0
    with exact():
        lockstep = Lockstep(art.model, OnlineCache(art.table), mixture, layout, seq_len=art.config.train.seq_len, stride=0, device=device)
        order = ScoreFirst(columns, {"wide": lockstep})
        for t in range(1, layout.length + 1):
            if t == 3:
                before, begin = lockstep.seconds, time.perf_counter()
                coder_ms = 0.0
            step = row_at(order, t)["wide"]
            coder_ms += milliseconds(partial(coder.give, step, active, columns[t].astype(np.int64)))
            order.score_then_update(t, t + 1)
        wall_s, count = time.perf_counter() - begin, layout.length - 2
        spent = {part: 1e3 * (after - before[part]) / count for part, after in lockstep.seconds.items()}
        lockstep.close()
    return {**spent, "coder": coder_ms / count, "column": 1e3 * wall_s / count}


def main() -> int:
    parser = make_parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--artifact", metavar="F", help="trained artifact with a cache")
    source.add_argument("--preset", choices=presets.names(), help="or a network of random weights with this preset's shape")
    parser.add_argument("--data", required=True, help="folder of shards")
    parser.add_argument("--count", type=int, default=20_000_000, help="training tokens that the stand-in's cache counts [20,000,000]")
    parser.add_argument("--table", help="its n-grams instead: a model of `python -m ngram train`")
    parser.add_argument("--streams", type=int, default=0, help="[as certify: 64 on a CPU, 256 on CUDA]")
    parser.add_argument("--columns", type=int, default=512, help="of each stream [512]")
    add_device_flag(parser)
    flags = parser.parse_args()
    device = ranks.start(flags.device).device
    flags.streams = flags.streams or STREAMS[device.type]
    if flags.columns < 16 + LOOPED:
        parser.error(f"--columns must be at least {16 + LOOPED}")
    art = artifact.load(flags.artifact) if flags.artifact else stand_in(flags.preset, counted(flags, presets.get(flags.preset).model.vocab_size))
    tokens = np.array(load_stream(flags.data, "val", art.config.model.vocab_size)[: flags.streams * flags.columns])
    if len(tokens) < flags.streams * flags.columns or art.table is None:
        raise SeedgramError(f"{flags.data}: needs {flags.streams * flags.columns:,} validation tokens and an artifact with a cache; lower --columns")
    for work in (*SCORING, *CODING):
        work()
    print(f"{sum(art.table.sizes()):,} n-grams; seeding the online cache {milliseconds(partial(OnlineCache, art.table)) / 1e3:.2f} s")
    for part, (loop, kernel) in loops_and_kernels(art.table, tokens.reshape(flags.streams, -1), 16).items():
        print(f"{part:20s} loop {loop:8.3f} ms   kernel {kernel:8.3f} ms   {loop / kernel:5.1f} times as fast")
    spent = coded_columns(art, tokens, flags, device)
    for part, ms in spent.items():
        print(f"{part:20s} {ms:8.3f} ms   {ms / spent['column']:6.1%}")
    print(f"{flags.streams} streams, {flags.columns} columns: {1e3 * flags.streams / spent['column']:,.0f} tokens/s")
    return 0


if __name__ == "__main__":
    run_cli(main)
