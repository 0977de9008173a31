"""Which way of learning at evaluation suits a network: its bits per byte, frozen and under every setting of a grid.

    python scripts/bench/sweep_ttt.py --artifact RUN/artifact.bin --data DEV [--tokens N] [--rates 1e-4 2e-4] [--chunks 0 4096]
                                [--stride 64] [--json F]

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

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.data.token_bytes import bits_per_byte
from hybrid.parallel import failures
from hybrid.parallel import ranks as distributed
from hybrid.parallel.device import add_device_flag
from hybrid.scoring.build import network_ahead
from hybrid.scoring.options import AdaptConfig, EvalOptions
from hybrid.scoring.report import write_json
from hybrid.scoring.test_time_training import AdaptedNetwork
from hybrid.storing import artifact
from ngram.errors import run_cli
from ngram.score_first import Tokens
from scripts.bench.common import make_parser, markdown
from scripts.bench.held_out import held_out

Row = dict[str, Any]


def grid(rates: Sequence[float], chunks: Sequence[int]) -> list[AdaptConfig]:
    """Every combination, each once.  Raises ConfigError on a value out of range."""
    return list(dict.fromkeys(AdaptConfig(chunk, rate) for chunk, rate in itertools.product(chunks, rates)))


def measure(
    art: artifact.Artifact, tokens: Tokens, size: int, stride: int, settings: Sequence[AdaptConfig | None], ranks: distributed.Ranks
) -> list[Row]:
    """One row a setting, None: frozen.  {"ttt", "bpb" (None: it diverged), "tokens_per_s"}.  size: bytes the tokens stand for."""
    rows = list[Row]()
    for adapt in settings:
        began = time.monotonic()
        neural = network_ahead(art, tokens, EvalOptions(stride=stride, adapt=adapt), ranks, rows=False)
        bpb, speed = bits_per_byte(float(neural.nll_nats().sum()), size), (len(tokens) - 1) / (time.monotonic() - began)
        rows.append({"ttt": dataclasses.asdict(adapt) if adapt else None, "bpb": bpb if math.isfinite(bpb) else None, "tokens_per_s": speed})
        if ranks.is_first:
            print(f"{flags_of(adapt, stride):70} {bpb:.4f} BPB  {speed:>10,.0f} tokens/s", file=sys.stderr, flush=True)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: the frozen network, then every setting with its difference to it."""
    lines = []
    for row in rows:
        ttt, bpb = row["ttt"], row["bpb"]
        cells = [ttt["chunk_tokens"] or "a window", f"{ttt['rate']:g}"] if ttt else ["frozen", "–"]
        cells += ["diverged", "–"] if bpb is None else [f"{bpb:.4f}", f"{bpb - rows[0]['bpb']:+.4f}" if ttt else "–"]
        lines.append([*map(str, cells), f"{row['tokens_per_s']:,.0f}"])
    return markdown(("chunk, tokens", "rate", "network BPB", "to frozen", "tokens/s"), lines)


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


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--artifact", required=True, metavar="F", help="packed artifact whose network learns")
    parser.add_argument("--data", required=True, metavar="DEV", help="held-out shards, none that figures are reported on: a folder with *_val_*.bin, or one")
    parser.add_argument("--tokens", type=int, default=0, metavar="N", help="of their beginning, 0: all [0]")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 2e-4, 4e-4, 8e-4], metavar="X", help="--ttt-rate [1e-4 2e-4 4e-4 8e-4]")
    parser.add_argument("--chunks", type=int, nargs="+", default=[0], metavar="N", help="--ttt-chunk, 0: one window; tokens [0]")
    parser.add_argument("--stride", type=int, default=0, metavar="S", help="new targets a window, 0: side by side; tokens [0]")
    add_device_flag(parser)
    parser.add_argument("--json", metavar="F", help="write the rows there too")
    flags = parser.parse_args()
    if flags.tokens < 0:
        parser.error(f"--tokens {flags.tokens} must not be negative")
    settings, ranks = grid(flags.rates, flags.chunks), distributed.start(flags.device)
    with failures.together(ranks):
        art = artifact.load(flags.artifact)
        tokens, size = held_out(art, flags.data, flags.tokens)
        for adapt in grid(flags.rates[:1], flags.chunks):  # a bad chunk is refused now, not after an hour
            AdaptedNetwork(art.model, art.config.train.seq_len, flags.stride, adapt, ranks)
        some = tokens[: 2 * art.config.train.seq_len]
        for warm in (None, settings[-1]):
            network_ahead(art, some, EvalOptions(stride=flags.stride, adapt=warm), ranks, rows=False).nll_nats()  # loads kernels: not timed
        rows = measure(art, tokens, size, flags.stride, [None, *settings], ranks)
        if ranks.is_first:
            write_json(flags.json, {"stride": flags.stride, "tokens": len(tokens), "rows": rows})
            print(table(rows))
            print(flags_of(best(rows), flags.stride) or "(frozen: no flags)")
    ranks.close()
    return 0


if __name__ == "__main__":
    run_cli(main)
