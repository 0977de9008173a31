"""How fast an artifact is scored, and what bounds it: every part alone, then all together by default and at the heaviest, and a profile.

    python scripts/bench/evaluation.py --artifact RUN/artifact.bin … --data DIR … [--tokens N] [--heavy-tokens N] [--rounds 2] [--profile DIR]

One folder of validation shards for each artifact.  Each round scores the same tokens anew; the first one also loads kernels.  "slow" is the same
predictor with the cache's rows made on the host, one after the other, and one part after the other; its bits are held against the default's.
"""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.data.shards import find_shards
from hybrid.parallel import ranks as distributed
from hybrid.scoring import evaluate, predictor, product, test_time_training
from hybrid.scoring.build import network_ahead
from hybrid.scoring.mixture import EXPERTS, GATE_FEATURES, load_gate
from hybrid.scoring.options import AdaptConfig, EvalOptions
from hybrid.storing import artifact
from hybrid.training.trainer import synchronize
from ngram import threads
from ngram.blending.gate import LEAST
from ngram.errors import run_cli
from ngram.online import stream_cache
from ngram.online.match import MatchModel
from ngram.online.rows import fill_from_parts
from ngram.online.stream_cache import StreamCache
from ngram.score_first import Tokens
from scripts.bench.common import make_parser

BLOCK = 1024


def say(name: str, seconds: float, tokens: int, more: str = "") -> None:
    print(f"{name:34} {seconds:8.3f} s {1e6 * seconds / tokens:9.2f} us a token {tokens / seconds:12,.0f} tokens/s  {more}", flush=True)


def timed(task: Callable[[], object], device: torch.device | None = None) -> float:
    if device is not None:
        synchronize(device)
    begin = time.perf_counter()
    task()
    if device is not None:
        synchronize(device)
    return time.perf_counter() - begin


def parts_alone(art: artifact.Artifact, tokens: Tokens, device: torch.device) -> None:
    """Each part of the predictor on its own, block by block as the predictor asks it."""
    assert art.table is not None
    table, begin = art.table, time.perf_counter()
    cache = StreamCache(table)
    print(f"cache made from its table of {sum(table.sizes()):,} n-grams in {time.perf_counter() - begin:.2f} s on one thread of {threads.COUNT}", flush=True)
    match, spent = MatchModel(cache.vocab_size, cache.bos), dict[str, float]()
    blocks = [(at, at + BLOCK) for at in range(1, len(tokens) - BLOCK, BLOCK)]
    host = np.empty((BLOCK, cache.vocab_size))

    def add(name: str, task: Callable[[], object]) -> None:
        spent[name] = spent.get(name, 0.0) + timed(task, device)

    entries = expanded = lists = 0
    pools = {1: None, **{most: ThreadPoolExecutor(most) for most in (2, 4, 8)}}
    for start, stop in blocks:
        parts = cache.row_parts(tokens, start, stop)
        for most in (1, 2, 4, 8):
            before, stream_cache.THREADS = stream_cache.THREADS, most
            add(f"rows as parts, {most} threads", lambda a=start, b=stop, p=pools[most]: cache.row_parts(tokens, a, b, pool=p))  # type: ignore[misc]
            stream_cache.THREADS = before
        if start < 20 * BLOCK:
            add("20 blocks of rows by contexts", lambda a=start, b=stop: cache.fill_range(tokens, a, b, host))  # type: ignore[misc]
            add("20 blocks of rows from their parts", lambda p=parts: fill_from_parts(p, 0, BLOCK, host))  # type: ignore[misc]
        made = product.rows_on(parts, BLOCK, device)
        if start < 5 * BLOCK:
            fill_from_parts(parts, 0, BLOCK, host)
            if not np.array_equal(made.cpu().numpy(), host):
                print(f"rows of block {start} differ between host and device", flush=True)
        add("rows on the device", lambda p=parts: product.rows_on(p, BLOCK, device))  # type: ignore[misc]
        add("logarithms there", lambda rows=made: rows.clamp_min_(1e-30).log_().float())  # type: ignore[misc]
        add("counting", lambda a=start, b=stop: cache.score_then_update(tokens, a, b))  # type: ignore[misc]
        add("match model", lambda a=start, b=stop: match.score_then_update(tokens, a, b))  # type: ignore[misc]
        lengths = np.diff(parts.starts) - 1
        entries, expanded, lists = entries + len(parts.values), expanded + int(lengths[parts.lists].sum()), lists + len(lengths) - 1
    gate, random = load_gate(art.gate, learning=True), np.random.default_rng(0)
    features = random.normal(size=(BLOCK, len(GATE_FEATURES))).astype(np.float32)
    probs = random.uniform(0.01, 1, size=(BLOCK, len(EXPERTS)))
    for _ in blocks:
        add("gate: exponents", lambda: gate.exponents(features))
        add("gate: weights", lambda: gate.weights(features))
        add("gate: learning", lambda: gate.update(features, probs))
    for name, seconds in spent.items():
        say("  " + name, seconds, BLOCK * (20 if name.startswith("20") else len(blocks)))
    each = BLOCK * max(1, len(blocks))
    print(f"  entries {entries / each:.0f}, expanded {expanded / each:.0f}, lists {lists / each:.2f} a token", flush=True)


class SlowProduct(product.ProductScorer):
    """Rows by contexts, made on the host."""

    def read(self, tokens: Tokens, start: int, stop: int, device: torch.device) -> product.Block:
        rows = np.empty((stop - start, self.cache.vocab_size))
        self.cache.fill_range(tokens, start, stop, rows)
        logs = torch.from_numpy(rows).to(device).clamp_min_(LEAST).log_().float()
        return product.Block(start, stop - start, None, logs)


@contextmanager
def slow() -> Iterator[None]:
    """The predictor without its threads and without rows from parts."""
    scorer, calls, record = product.ProductScorer, evaluate.CHUNKS_A_CALL, test_time_training.Learner.record
    predictor.ProductScorer, evaluate.CHUNKS_A_CALL = SlowProduct, 1  # type: ignore[misc,attr-defined]
    test_time_training.Learner.record = lambda *_: None  # type: ignore[method-assign]
    yield
    predictor.ProductScorer, evaluate.CHUNKS_A_CALL, test_time_training.Learner.record = scorer, calls, record  # type: ignore[misc,attr-defined,method-assign]


def scored(name: str, art: artifact.Artifact, tokens: Tokens, options: EvalOptions, ranks: distributed.Ranks) -> np.ndarray:
    """Bits of every target; prints what scoring them took, by part."""
    synchronize(ranks.device)
    begin = time.perf_counter()
    scores = evaluate.score_tokens(art, tokens, options, ranks)
    seconds = time.perf_counter() - begin
    work = " ".join(f"{part} {spent:.2f}" for part, spent in scores.seconds.items())
    say(name, seconds, len(tokens) - 1, f"{scores.bits.mean():.5f} bits a token; work: {work}")
    return scores.bits


def profiled(art: artifact.Artifact, tokens: Tokens, options: EvalOptions, ranks: distributed.Ranks, path: Path) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if ranks.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as trace:
        evaluate.score_tokens(art, tokens, options, ranks)
        synchronize(ranks.device)
    averages = trace.key_averages()
    order = "self_cuda_time_total" if ranks.device.type == "cuda" else "self_cpu_time_total"
    both = [averages.table(sort_by=by, row_limit=30, max_name_column_width=70) for by in (order, "self_cpu_time_total")]
    path.write_text("\n\n".join(both))


def bench(path: str, data: str, flags: object, ranks: distributed.Ranks) -> None:
    begin = time.perf_counter()
    art = artifact.load(path)
    print(f"\n{path}: V {art.config.model.vocab_size:,}, loaded in {time.perf_counter() - begin:.2f} s", flush=True)
    seq_len, device = art.config.train.seq_len, ranks.device
    tokens = evaluate.load_tokens(find_shards(data, "val"), art.config.model.vocab_size, seq_len, "full", flags.tokens)  # type: ignore[attr-defined]
    begin = time.perf_counter()
    evaluate.score_tokens(art, tokens[: 4 * seq_len], EvalOptions(), ranks)
    print(f"first call, kernels and device included: {time.perf_counter() - begin:.2f} s", flush=True)
    if art.table is not None and len(tokens) > 2 * BLOCK:
        parts_alone(art, tokens[: 100 * BLOCK + 2], device)
    for rows in (False, True):
        network_ahead(art, tokens[: 2 * seq_len], EvalOptions(), ranks).nll_nats()
        say(f"network alone, rows {rows}", timed(lambda r=rows: network_ahead(art, tokens, EvalOptions(), ranks, rows=r).nll_nats(), device), len(tokens) - 1)  # type: ignore[misc]
    for _ in range(flags.rounds):  # type: ignore[attr-defined]
        fast_bits = scored("default", art, tokens, EvalOptions(), ranks)
    scored("default, no product", art, tokens, EvalOptions(product=False), ranks)
    with slow():
        part = tokens[: len(tokens) // 4]
        slow_bits = scored("slow, a quarter of the text", art, part, EvalOptions(), ranks)
    print(f"  largest difference of a token's bits, default and slow: {np.abs(slow_bits - fast_bits[: len(slow_bits)]).max():.3g}", flush=True)
    few = tokens[: flags.heavy_tokens]  # type: ignore[attr-defined]
    heavy = EvalOptions(adapt=AdaptConfig(), stride=64)
    if len(few) > seq_len:
        heavy_bits = scored("heaviest", art, few, heavy, ranks)
        scored("heaviest, no product", art, few, replace(heavy, product=False), ranks)
        with slow():
            slow_bits = scored("heaviest, slow, half of the text", art, few[: len(few) // 2], heavy, ranks)
        print(f"  largest difference of a token's bits, heaviest and slow: {np.abs(slow_bits - heavy_bits[: len(slow_bits)]).max():.3g}", flush=True)
    if flags.profile is not None:  # type: ignore[attr-defined]
        flags.profile.mkdir(parents=True, exist_ok=True)  # type: ignore[attr-defined]
        name = f"{art.config.preset}-{art.config.model.vocab_size}"
        profiled(art, tokens[:150_000], EvalOptions(), ranks, flags.profile / f"{name}-default.txt")  # type: ignore[attr-defined]
        if len(few) > seq_len:
            profiled(art, few[: 8 * seq_len], heavy, ranks, flags.profile / f"{name}-heaviest.txt")  # type: ignore[attr-defined]


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--artifact", nargs="+", required=True)
    parser.add_argument("--data", nargs="+", required=True, help="a folder of validation shards for each artifact")
    parser.add_argument("--tokens", type=int, default=0, help="of the text's beginning, 0: all [0]")
    parser.add_argument("--heavy-tokens", type=int, default=100_000, help="of the text's beginning for the heaviest way, 0: none [100000]")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--profile", type=Path, metavar="DIR", help="write the kernel tables there")
    flags = parser.parse_args()
    ranks = distributed.start()
    for path, data in zip(flags.artifact, flags.data, strict=True):
        bench(path, data, flags, ranks)
    return 0


if __name__ == "__main__":
    run_cli(main)
