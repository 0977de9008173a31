"""What each kind of learning at evaluation is worth: bits per byte of one artifact, a row a part, each row with all above it.

    python scripts/bench/ablation.py --artifact RUN/artifact.bin --data val=DIR fineweb=FILE [--stride 64] [--tokens N] [--json F]

Prints a Markdown table; tokens/s are of the whole row (network, cache and gate one after the other, kernels compiled before).
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.data.token_bytes import bits_per_byte
from hybrid.parallel import ranks as distributed
from hybrid.scoring import evaluate
from hybrid.scoring.build import network_ahead
from hybrid.scoring.options import AdaptConfig, EvalOptions
from hybrid.scoring.report import write_json
from hybrid.storing import artifact
from ngram.errors import SeedgramError, run_cli
from ngram.score_first import Tokens
from scripts.bench.common import make_parser, markdown
from scripts.bench.held_out import held_out

Rows = dict[str, EvalOptions | None]


def rows_of(art: artifact.Artifact, adapt: AdaptConfig | None, stride: int) -> Rows:
    """The table's rows by name; None: the network alone."""
    rows: Rows = {"network": None}
    if art.table is not None:
        rows |= {
            "+ trained cache": EvalOptions(online=False, product=False),
            "+ online": EvalOptions(match=False, product=False, gate_learns=False),
            "+ match": EvalOptions(product=False, gate_learns=False),
            "+ product": EvalOptions(gate_learns=False),
            "+ gate adaptation": EvalOptions(),
        }
    rows["+ test-time training"] = EvalOptions(adapt=adapt)
    if stride:
        rows[f"+ stride {stride}"] = EvalOptions(adapt=adapt, stride=stride)
    return rows


def measure(art: artifact.Artifact, tokens: Tokens, size: int, rows: Rows, ranks: distributed.Ranks) -> dict[str, dict[str, float]]:
    """{row: {"bpb", "tokens_per_s"}}.  size: bytes of text that the tokens stand for."""
    out = {}
    for name, options in rows.items():
        began = time.monotonic()
        if options is None:
            nats = float(network_ahead(art, tokens, EvalOptions(), ranks, rows=False).nll_nats().sum())
        else:
            nats = float(evaluate.score_tokens(art, tokens, options, ranks).bits.sum() * np.log(2))
        seconds = time.monotonic() - began
        out[name] = {"bpb": bits_per_byte(nats, size), "tokens_per_s": (len(tokens) - 1) / seconds}
        if ranks.is_first:
            print(f"{name:24} {out[name]['bpb']:.4f} BPB  {out[name]['tokens_per_s']:>10,.0f} tokens/s", file=sys.stderr, flush=True)
    return out


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a row a part, two columns a text, with the difference to the row above."""
    texts = list(results)
    header = ["", *(name for text in texts for name in (f"{text} BPB", "tokens/s"))]
    lines = list[list[str]]()
    before: dict[str, float] = {}
    for name in results[texts[0]]:
        cells = []
        for text in texts:
            row = results[text][name]
            change = f" ({row['bpb'] - before[text]:+.4f})" if text in before else ""
            cells += [f"{row['bpb']:.4f}{change}", f"{row['tokens_per_s']:,.0f}"]
            before[text] = row["bpb"]
        lines.append([name, *cells])
    return markdown(header, lines)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--artifact", required=True, metavar="F", help="packed artifact with a cache")
    parser.add_argument("--data", required=True, nargs="+", metavar="NAME=PATH", help="validation shards and what to call them")
    parser.add_argument("--stride", type=int, default=64, help="of the last row, 0: no such row; tokens [64]")
    parser.add_argument("--tokens", type=int, default=0, help="of each stream's beginning, 0: all [0]")
    parser.add_argument("--json", metavar="F", help="write the rows there too")
    parser.add_argument("--ttt-chunk", type=int, default=AdaptConfig.chunk_tokens, metavar="N", help="of the row that learns; tokens [0]")
    parser.add_argument("--ttt-rate", type=float, default=AdaptConfig.rate, metavar="X", help="of the same [0.0001]")
    flags = parser.parse_args()
    texts = dict(pair.split("=", 1) for pair in flags.data if "=" in pair)
    if len(texts) != len(flags.data):
        raise SeedgramError("--data takes NAME=PATH, each name once")
    ranks, art = distributed.start(), artifact.load(flags.artifact)
    rows = rows_of(art, AdaptConfig(flags.ttt_chunk, flags.ttt_rate), flags.stride)
    results: dict[str, Any] = {}
    for name, path in texts.items():
        tokens, size = held_out(art, path, flags.tokens)
        measure(art, tokens[: 2 * art.config.train.seq_len], size, rows, ranks)  # compiles; the figures are not used
        results[name] = measure(art, tokens, size, rows, ranks)
    if ranks.is_first:
        print(table(results))
        write_json(flags.json, results)
    ranks.close()
    return 0


if __name__ == "__main__":
    run_cli(main)
