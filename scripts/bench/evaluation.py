"""How fast an artifact is scored, with and without watched targets, turn by turn; and whether each target's bits are those of an earlier run.

    python scripts/bench/evaluation.py --artifact RUN/artifact.bin … --data DIR … [--tokens N] [--heavy-tokens N] [--rounds 3]
                                       [--bits DIR] [--against DIR] [--profile DIR]

One folder of validation shards for each artifact.  A first call on a beginning of the text loads kernels and is not counted.  "heaviest" is
--ttt --stride 64.  --bits writes every target's bits, --against holds them against those that another commit wrote.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.data.shards import find_shards
from hybrid.parallel import ranks as distributed
from hybrid.scoring import evaluate
from hybrid.scoring.options import AdaptConfig, EvalOptions
from hybrid.storing import artifact
from hybrid.training.trainer import synchronize
from ngram.arrays import F64
from ngram.errors import run_cli
from ngram.score_first import Tokens
from scripts.bench.common import make_parser


@contextmanager
def nothing_watched() -> Iterator[None]:
    honest = evaluate.watched
    evaluate.watched = lambda tokens: []
    yield
    evaluate.watched = honest


def scored(name: str, art: artifact.Artifact, tokens: Tokens, options: EvalOptions, ranks: distributed.Ranks) -> tuple[float, F64]:
    """Seconds and every target's bits; prints what was worked, by part."""
    synchronize(ranks.device)
    begin = time.perf_counter()
    scores = evaluate.score_tokens(art, tokens, options, ranks)
    synchronize(ranks.device)
    seconds, each = time.perf_counter() - begin, 1e6 / (len(tokens) - 1)
    work = " ".join(f"{part} {spent * each:.2f}" for part, spent in scores.seconds.items())
    print(f"{name:30} {seconds:8.3f} s {1e6 / each / seconds:10,.0f} tokens/s  {scores.bits.mean():.6f} bits; us of work a token: {work}", flush=True)
    if scores.checked and "check" in scores.seconds:
        print(f"{'':30} {scores.checked:,} checked, {100 * scores.seconds['check'] / seconds:.2f} % of the time by its own account", flush=True)
    return seconds, scores.bits


def in_turns(name: str, art: artifact.Artifact, tokens: Tokens, options: EvalOptions, ranks: distributed.Ranks, rounds: int) -> F64:
    """Bits; every round scores with and without watched targets, and the other way round the next time."""
    spent: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(rounds):
        for watching in (True, False) if turn % 2 else (False, True):
            with nullcontext() if watching else nothing_watched():
                seconds, bits = scored(name if watching else f"{name}, nothing watched", art, tokens, options, ranks)
            spent[watching].append(seconds)
    with_, without = (float(np.median(spent[watching])) for watching in (True, False))
    print(f"{name}: {(len(tokens) - 1) / with_:,.0f} tokens/s (median); watching costs {100 * (with_ / without - 1):.2f} % of {without:.3f} s", flush=True)
    return bits


def profiled(task: Callable[[], object], ranks: distributed.Ranks, path: Path) -> None:
    """What kernels and calls took, the largest first."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if ranks.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as trace:
        task()
        synchronize(ranks.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    orders = ["self_cpu_time_total"] + ["self_cuda_time_total"] * (len(activities) - 1)
    path.write_text("\n\n".join(trace.key_averages().table(sort_by=by, row_limit=30, max_name_column_width=70) for by in orders))


def bench(path: str, data: str, flags: Namespace, ranks: distributed.Ranks) -> None:
    art = artifact.load(path)
    model, seq_len = art.config.model, art.config.train.seq_len
    print(f"\n{path}: V {model.vocab_size:,}, windows of {seq_len:,} tokens", flush=True)
    tokens = evaluate.load_tokens(find_shards(data, "val"), model.vocab_size, seq_len, "full", flags.tokens)
    heavy, few = EvalOptions(adapt=AdaptConfig(), stride=flags.stride), tokens[: flags.heavy_tokens]
    ways = [("default", tokens, EvalOptions()), ("default, no product", tokens, EvalOptions(product=False))]
    ways += [("heaviest", few, heavy)] if len(few) > seq_len else []
    for name, text, options in ways:
        scored(f"{name}, first call", art, text[: 4 * seq_len], options, ranks)
        bits = in_turns(name, art, text, options, ranks, flags.rounds if options.product else 1)
        file = f"{art.config.preset}-{model.vocab_size}-{name.replace(', ', '-').replace(' ', '-')}.npy"
        if flags.bits is not None:
            flags.bits.mkdir(parents=True, exist_ok=True)
            np.save(flags.bits / file, bits)
        if flags.against is not None and (flags.against / file).exists():
            apart = bits - np.load(flags.against / file)
            print(f"{name}: {int((apart != 0).sum()):,} of {len(bits):,} targets' bits differ, by {np.abs(apart).max():.3g} at most", flush=True)
        if flags.profile is not None and options.product:
            part = text[: 150_000 if options.adapt is None else 8 * seq_len]
            profiled(lambda t=part, o=options: evaluate.score_tokens(art, t, o, ranks), ranks, flags.profile / file.replace(".npy", ".txt"))  # type: ignore[misc]


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--artifact", nargs="+", required=True)
    parser.add_argument("--data", nargs="+", required=True, help="a folder of validation shards for each artifact")
    parser.add_argument("--tokens", type=int, default=0, help="of the text's beginning, 0: all [0]")
    parser.add_argument("--heavy-tokens", type=int, default=100_000, help="of the text's beginning for the heaviest way, 0: none [100000]")
    parser.add_argument("--stride", type=int, default=64, help="of the heaviest way [64]")
    parser.add_argument("--rounds", type=int, default=3)
    for name, what in (("bits", "write them there"), ("against", "compare them with those there"), ("profile", "write tables of kernels there")):
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=what)
    flags = parser.parse_args()
    ranks = distributed.start()
    for path, data in zip(flags.artifact, flags.data, strict=True):
        bench(path, data, flags, ranks)
    return 0


if __name__ == "__main__":
    run_cli(main)
