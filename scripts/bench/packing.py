"""Where the seconds of packing go: weights, table, cache and gate of an artifact made once more from its own weights, with a profile of each.

    python scripts/bench/packing.py --artifact RUN/artifact.bin … --data DIR … [--tokens N] [--rows 30]

One folder of training shards for each artifact.  The weights are those that the artifact holds, so they are rounded already; counts are taken
from the training text anew.  Profiles are of the main thread: where it waits for others, they say what it waits for.
"""

import cProfile
import io
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.data.shards import Loader, find_shards
from hybrid.model.parameters import map_checksums
from hybrid.parallel import ranks as distributed
from hybrid.settings.config import Config
from hybrid.storing import artifact, gptq, quantise
from hybrid.training import pack
from hybrid.training.fit_gate import fit_gate
from hybrid.training.table_ahead import LARGE_CORPUS
from ngram import threads
from ngram.arrays import digest
from ngram.counting.build_table import build_table
from ngram.counting.row_counter import RowCounter
from ngram.counting.run import Run
from ngram.errors import run_cli
from ngram.storing import table_codec
from ngram.storing.fit_bytes import Stages, fit_bytes
from scripts.bench.common import make_parser

Result = TypeVar("Result")


class Clock:
    """Times and profiles one part after the other."""

    def __init__(self, rows: int) -> None:
        self.rows, self.total = rows, 0.0

    def __call__(self, name: str, task: Callable[[], Result], *, profile: bool = False) -> Result:
        profiler = cProfile.Profile()
        begin, processor = time.perf_counter(), time.process_time()
        result = profiler.runcall(task) if profile else task()
        seconds, processor = time.perf_counter() - begin, time.process_time() - processor
        self.total += seconds
        print(f"  {name:44} {seconds:8.2f} s  {processor / max(seconds, 1e-9):5.1f} cores", flush=True)
        if profile and self.rows:
            text = io.StringIO()
            pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(self.rows)
            print("\n".join("      " + line.strip() for line in text.getvalue().splitlines()[7:] if line.strip()), flush=True)
        return result


def loader_of(config: Config, data: str) -> Loader:
    train = config.train
    return Loader(
        find_shards(data, "train"), batch_rows=train.batch_tokens // train.seq_len, seq_len=train.seq_len,
        history=max(1, config.cache.ngram_order - 1), holdout_tokens=train.holdout_tokens, seed=train.seed,
    )  # fmt: skip


def weights(art: artifact.Artifact, loader: Loader, ranks: distributed.Ranks, clock: Clock) -> None:
    """`quantised` of pack.py, by its parts."""
    config, model = art.config, art.model
    clock("model to the device", lambda: model.to(ranks.device))
    moments = clock("second moments", lambda: pack._calibration(config, model, loader, ranks), profile=True)
    counts = clock("counts of tokens", lambda: pack._token_counts(config, loader))
    factors = clock("error factors", lambda: gptq.error_factors(moments or {}))
    kernel = gptq.round_columns(np.ones((4, 8), np.float32), np.ones(4, np.float32), 15, np.eye(8))  # compiled here
    assert kernel.shape == (4, 8)
    state = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items() if name in factors}
    bits = config.quant.weight_bits

    def columns() -> None:
        for name, values in state.items():
            scales = np.abs(values).max(axis=1) / 2 ** (bits - 1)
            gptq.round_columns(values, scales.astype(np.float32), 2 ** (bits - 1) - 1, factors[name])

    clock(f"columns of {len(state)} matrices", columns)
    state_now = model.state_dict()
    meta, sections = clock("encode_state: factors, scales, columns", lambda: quantise.encode_state(state_now, config.quant, moments, counts), profile=True)
    packer = artifact.Packer(config, art.tokenizer, map_checksums(model))
    clock(f"brotli of {sum(map(len, sections.values())):,} bytes", lambda: packer.add_weights(meta, sections), profile=True)
    clock("decode_state", lambda: quantise.decode_state(meta, sections))


def counts_of(config: Config, loader: Loader, bos: int, most: int) -> Run:
    counter = RowCounter(config.model.vocab_size, config.cache.ngram_order, bos)
    size, step = min(most or loader.train_tokens, loader.train_tokens), 1 << 20
    for begin in range(0, size, step):
        text = loader.stream.read(begin, min(begin + step, size))
        counter.update(np.concatenate([np.full(counter.history, np.iinfo(text.dtype).max, text.dtype), text])[None])
    return counter.run()


def bench(path: str, data: str, most: int, clock: Clock, ranks: distributed.Ranks) -> None:
    art = artifact.load(path)
    print(f"\n{path}: V {art.config.model.vocab_size:,}, {threads.COUNT} threads", flush=True)
    loader = loader_of(art.config, data)
    begin = time.perf_counter()
    run = counts_of(art.config, loader, loader.bos, most)
    print(f"  {run.total():,} positions counted in {time.perf_counter() - begin:.1f} s, {len(run):,} in the run", flush=True)
    clock.total = 0.0
    weights(art, loader, ranks, clock)
    orders = art.config.cache.ngram_order
    threshold = [1 if n <= 3 else 2 for n in range(1, orders + 1)] if run.total() > LARGE_CORPUS else None
    exact = clock("table", lambda: build_table(run, art.config.model.vocab_size, loader.bos, orders, threshold), profile=True)
    room = len(table_codec.encode(art.table)) if art.table is not None else 1 << 20
    stages = clock("first stages of pruning", lambda: Stages(exact), profile=True)
    clock("the stage for these bytes", lambda: stages.until(room), profile=True)
    table, coded = clock(f"cache of {room:,} bytes", lambda: fit_bytes(stages, room), profile=True)
    print(f"  {sum(table.sizes()):,} n-grams in {len(coded):,} bytes, digest {digest(np.frombuffer(coded, np.uint8))}", flush=True)
    gate = clock("gate", lambda: fit_gate(art.model, table, loader.holdout(), ranks.device, art.config), profile=True)
    print(f"  digest of the gate {digest(np.frombuffer(gate.to_bytes(), np.uint8))}; {clock.total:.1f} s in all", flush=True)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--artifact", nargs="+", required=True)
    parser.add_argument("--data", nargs="+", required=True, help="a folder of training shards for each artifact")
    parser.add_argument("--tokens", type=int, default=0, help="that are counted, 0: all of the training text [0]")
    parser.add_argument("--rows", type=int, default=12, help="of each profile [12]")
    flags = parser.parse_args()
    ranks, clock = distributed.start(), Clock(flags.rows)
    torch.manual_seed(0)
    for path, data in zip(flags.artifact, flags.data, strict=True):
        bench(path, data, flags.tokens, clock, ranks)
    return 0


if __name__ == "__main__":
    run_cli(main)
