"""Which way of learning at evaluation suits a network: its bits per byte, frozen and under every setting of a grid.

    python scripts/sweep_ttt.py --artifact RUN/artifact.bin --data DEV [--tokens N] [--rates 1e-4 2e-4] [--scopes matrices scalars all]
                                [--chunks 0 4096] [--stride 64] [--json F]

DEV: shards that are held out from training and that no reported figure comes from; choosing on reported text would be fitting it.
Prints a Markdown table; its last line is the best setting as flags of eval.py.
"""

import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hybrid import artifact, distributed, evaluate
from hybrid.adapt import SCOPES, AdaptConfig, AdaptedNetwork
from hybrid.bpb import TokenBytes, bits_per_byte
from hybrid.config import OneLineParser
from hybrid.data import find_shards
from hybrid.evaluate import EvalOptions
from hybrid.report import write_json
from ngram.errors import SeedgramError, run_cli
from ngram.score_first import Tokens

Row = dict[str, Any]


def grid(rates: Sequence[float], scopes: Sequence[str], chunks: Sequence[int]) -> list[AdaptConfig]:
    """Every combination, each once.  Raises ConfigError on a value out of range."""
    return list(dict.fromkeys(AdaptConfig(chunk, rate, scope=scope) for scope, chunk, rate in itertools.product(scopes, chunks, rates)))


def measure(
    art: artifact.Artifact, tokens: Tokens, stride: int, settings: Sequence[AdaptConfig | None], ranks: distributed.Ranks
) -> list[Row]:
    """One row a setting, None: frozen.  {"ttt", "bpb" (None: it diverged), "tokens_per_s"}."""
    size, rows = int(TokenBytes.from_model(art.tokenizer).count(tokens).sum()), list[Row]()
    for adapt in settings:
        began = time.monotonic()
        neural = evaluate.network_scores(art, tokens, EvalOptions(stride=stride, adapt=adapt, product=False), ranks)
        bpb, speed = bits_per_byte(float(neural.nll_nats().sum()), size), (len(tokens) - 1) / (time.monotonic() - began)
        rows.append({"ttt": dataclasses.asdict(adapt) if adapt else None, "bpb": bpb if math.isfinite(bpb) else None, "tokens_per_s": speed})
        if ranks.is_first:
            print(f"{flags_of(adapt, stride):70} {bpb:.4f} BPB  {speed:>10,.0f} tokens/s", file=sys.stderr, flush=True)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: the frozen network, then every setting with its difference to it."""
    lines = ["| scope | chunk, tokens | rate | network BPB | to frozen | tokens/s |", "|---|---|---|---|---|---|"]
    for row in rows:
        ttt, bpb = row["ttt"], row["bpb"]
        cells = [ttt["scope"], ttt["chunk_tokens"] or "a window", f"{ttt['rate']:g}"] if ttt else ["frozen", "–", "–"]
        cells += ["diverged", "–"] if bpb is None else [f"{bpb:.4f}", f"{bpb - rows[0]['bpb']:+.4f}" if ttt else "–"]
        lines.append("| " + " | ".join(map(str, [*cells, f"{row['tokens_per_s']:,.0f}"])) + " |")
    return "\n".join(lines)


def best(rows: Sequence[Row]) -> AdaptConfig | None:
    """The setting of the fewest bits; None: frozen.  The first of equals."""
    chosen = min((row for row in rows if row["bpb"] is not None), key=lambda row: float(row["bpb"]))
    return AdaptConfig(**chosen["ttt"]) if chosen["ttt"] else None


def flags_of(adapt: AdaptConfig | None, stride: int) -> str:
    """A setting as flags of eval.py; nothing at all where nothing learns and windows lie side by side."""
    words = [f"--stride {stride}"] if stride else []
    if adapt is not None:
        words += ["--ttt", *(f"--ttt-{name.replace('_tokens', '')} {value}" for name, value in dataclasses.asdict(adapt).items())]
    return " ".join(words)


def load(path: str, data: str, limit: int) -> tuple[artifact.Artifact, Tokens]:
    """The artifact, and the first `limit` tokens of the shards (0: all)."""
    art = artifact.load(path)
    tokens = evaluate.load_tokens(find_shards(data, "val"), art.config.model.vocab_size, art.config.train.seq_len, "full")[: limit or None]
    if int(TokenBytes.from_model(art.tokenizer).count(tokens).sum()) == 0:
        raise SeedgramError(f"{data}: the first {len(tokens)} tokens say no text; give more --tokens")
    return art, tokens


def main() -> int:
    parser = OneLineParser(prog="sweep_ttt.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--artifact", required=True)
    parser.add_argument("--data", required=True, metavar="DEV", help="held-out shards, none that figures are reported on: a folder with *_val_*.bin, or one")
    parser.add_argument("--tokens", type=int, default=0, metavar="N", help="of their beginning, 0: all [0]")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 2e-4, 4e-4, 8e-4], metavar="X", help="--ttt-rate [1e-4 2e-4 4e-4 8e-4]")
    parser.add_argument("--scopes", nargs="+", default=list(SCOPES), choices=tuple(SCOPES), help="--ttt-scope [all three]")
    parser.add_argument("--chunks", type=int, nargs="+", default=[0], metavar="N", help="--ttt-chunk, 0: one window; tokens [0]")
    parser.add_argument("--stride", type=int, default=0, metavar="S", help="new targets a window, 0: side by side; tokens [0]")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="where the network runs [auto]")
    parser.add_argument("--json", metavar="F", help="write the rows there too")
    flags = parser.parse_args()
    if flags.tokens < 0:
        parser.error(f"--tokens {flags.tokens} must not be negative")
    settings, ranks = grid(flags.rates, flags.scopes, flags.chunks), distributed.start(flags.device)
    with distributed.together(ranks):
        art, tokens = load(flags.artifact, flags.data, flags.tokens)
        for adapt in grid(flags.rates[:1], flags.scopes[:1], flags.chunks):  # a bad chunk is refused now, not after an hour
            AdaptedNetwork(art.model, art.config.train.seq_len, flags.stride, adapt, ranks)
        some = tokens[: 2 * art.config.train.seq_len]
        for warm in (None, settings[-1]):
            evaluate.network_scores(art, some, EvalOptions(stride=flags.stride, adapt=warm, product=False), ranks).nll_nats()  # loads kernels: not timed
        rows = measure(art, tokens, flags.stride, [None, *settings], ranks)
        if ranks.is_first:
            write_json(flags.json, {"stride": flags.stride, "tokens": len(tokens), "rows": rows})
            print(table(rows))
            print(flags_of(best(rows), flags.stride) or "(frozen: no flags)")
    ranks.close()
    return 0


if __name__ == "__main__":
    run_cli(main)
