"""What a column of a certificate costs, part by part, and what the one-kernel columns save over loops: ratios of one run.

    python scripts/bench_proof.py --artifact A --data DIR [--streams 256] [--columns 512] [--device cuda]
    python scripts/bench_proof.py --preset seed1095 --data DIR [--count 20000000] [--table F] …

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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import constriction
import numpy as np
import torch

from hybrid import artifact, distributed, evaluate, presets
from hybrid.blend import GATE_FEATURES
from hybrid.data import load_stream
from hybrid.lockstep import Layout, Lockstep
from hybrid.model import HybridLM
from hybrid.stream_coder import STREAMS, Exact, encode_column
from ngram import gate_fit
from ngram.cache import NgramCache
from ngram.errors import SeedgramError, run_cli
from ngram.model_file import read_model
from ngram.online import FEATURES, OnlineCache
from ngram.table import PAD, U16, NgramTable
from ngram.warm_up import CODING, SCORING

LOOPED = 8  # columns that the old loops are timed on


def stand_in(preset: str, table: NgramTable) -> artifact.Artifact:
    """An artifact of random weights around a table, its gate with hidden units as a fitted one has."""
    config, random = presets.get(preset), np.random.default_rng(0)
    features = random.normal(size=(gate_fit.SMALLEST, len(GATE_FEATURES))).astype(np.float32)
    gate = gate_fit.fit(features, random.uniform(0.01, 1, (len(features), 2)), GATE_FEATURES, rate=evaluate.GATE_RATE, epochs=1)
    model = HybridLM(replace(config.model, vocab_size=table.vocab_size))
    return artifact.Artifact(config, model.eval(), b"", table, gate.to_bytes(), {}, 0)


def counted(flags: argparse.Namespace, vocab_size: int) -> NgramTable:
    if flags.table:
        return read_model(flags.table).table
    cache = NgramCache(vocab_size, (2, presets.get(flags.preset).cache.ngram_order))
    cache.count_stream(load_stream(flags.data, "train", vocab_size)[: flags.count])
    return cache.table([1, 1, 1, 2, 2, 2, 2])


def milliseconds(action: Callable[[], Any]) -> float:
    """Processor time of this thread: other work on the machine disturbs it least."""
    begin = time.thread_time()
    action()
    return 1e3 * (time.thread_time() - begin)


def loops_and_kernels(table: NgramTable, columns_ST: U16, first: int) -> dict[str, tuple[float, float]]:
    """(ms of the loop, ms of the kernel) a column, on two caches that stay equal; the order of the two alternates."""
    caches = OnlineCache(table), OnlineCache(table)
    everyone, order = np.arange(len(columns_ST)), table.order
    past = np.full((len(columns_ST), order - 1), PAD, np.uint16)
    rows, features = np.empty((len(past), table.vocab_size)), np.empty((len(past), len(FEATURES)), np.float32)
    spent = {"count": [0.0, 0.0], "rows and features": [0.0, 0.0]}
    for column in range(first, first + LOOPED):
        past[:] = columns_ST[:, column - order + 1 : column]
        actions: dict[str, list[Callable[[], Any]]] = {
            "rows and features": [lambda: (caches[0].rows(past), caches[0].row_features(past)), lambda: caches[1].fill(past, rows, features)],
            "count": [
                lambda at=column: [caches[0].update(columns_ST[s], at, at + 1) for s in everyone],
                lambda at=column: caches[1].update_column(columns_ST, everyone, at),
            ],
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
    columns = layout.cut(tokens)
    cache, gate = OnlineCache(art.table), evaluate.load_gate(art, learning=True)
    settings = {"seq_len": art.config.train.seq_len, "stride": 0, "online": True, "chunk_tokens": art.config.cache.chunk_tokens}
    coder, family = constriction.stream.queue.RangeEncoder(), constriction.stream.model.Categorical(perfect=False)
    active, coder_ms = np.arange(flags.streams), 0.0
    with Exact(device):
        lockstep = Lockstep(art.model, cache, gate, layout, **settings, device=device)
        for column in range(layout.length):
            if column == 2:
                before, begin = lockstep.seconds, time.perf_counter()
                coder_ms = 0.0
            step = lockstep.predict()
            coder_ms += milliseconds(lambda at=column, now=step: encode_column(coder, family, now, active, columns[:, at].astype(np.int64)))
            lockstep.learn(columns[:, column])
        wall_s, count = time.perf_counter() - begin, layout.length - 2
        spent = {part: 1e3 * (after - before[part]) / count for part, after in lockstep.seconds.items()}
        lockstep.close()
    return {**spent, "coder": coder_ms / count, "column": 1e3 * wall_s / count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--artifact")
    source.add_argument("--preset", choices=presets.names())
    parser.add_argument("--data", required=True, help="folder of shards")
    parser.add_argument("--count", type=int, default=20_000_000, help="training tokens that the stand-in's cache counts [20,000,000]")
    parser.add_argument("--table", help="its n-grams instead: a model of `python -m ngram train`")
    parser.add_argument("--streams", type=int, default=0, help="[as certify: 64 on a CPU, 256 on CUDA]")
    parser.add_argument("--columns", type=int, default=512, help="of each stream [512]")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    flags = parser.parse_args()
    device = distributed.start(flags.device).device
    flags.streams = flags.streams or STREAMS[device.type]
    if flags.columns < 16 + LOOPED:
        parser.error(f"--columns must be at least {16 + LOOPED}")
    art = artifact.load(flags.artifact) if flags.artifact else stand_in(flags.preset, counted(flags, presets.get(flags.preset).model.vocab_size))
    tokens = np.array(load_stream(flags.data, "val", art.config.model.vocab_size)[: flags.streams * flags.columns])
    if len(tokens) < flags.streams * flags.columns or art.table is None:
        raise SeedgramError(f"{flags.data}: needs {flags.streams * flags.columns:,} validation tokens and an artifact with a cache; lower --columns")
    for work in (*SCORING, *CODING):
        work()
    print(f"{sum(art.table.sizes()):,} n-grams; seeding the online cache {milliseconds(lambda: OnlineCache(art.table)) / 1e3:.2f} s")
    for part, (loop, kernel) in loops_and_kernels(art.table, tokens.reshape(flags.streams, -1), 16).items():
        print(f"{part:20s} loop {loop:8.3f} ms   kernel {kernel:8.3f} ms   {loop / kernel:5.1f} times as fast")
    spent = coded_columns(art, tokens, flags, device)
    for part, ms in spent.items():
        print(f"{part:20s} {ms:8.3f} ms   {ms / spent['column']:6.1%}")
    print(f"{flags.streams} streams, {flags.columns} columns: {1e3 * flags.streams / spent['column']:,.0f} tokens/s")


if __name__ == "__main__":
    run_cli(main)
