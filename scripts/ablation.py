"""What each kind of learning at evaluation is worth: bits per byte of one artifact, a row a part, each row with all above it.

    python scripts/ablation.py --artifact RUN/artifact.bin --data val=DIR fineweb=FILE [--stride 64] [--tokens N] [--json F]

Prints a Markdown table; tokens/s are of the whole row (network, cache and gate one after the other, kernels compiled before).
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hybrid import artifact, distributed, evaluate
from hybrid.adapt import AdaptConfig, adapt_settings, add_adapt_flags
from hybrid.bpb import TokenBytes, bits_per_byte
from hybrid.config import OneLineParser
from hybrid.data import find_shards
from hybrid.evaluate import EvalOptions
from hybrid.report import write_json
from ngram.errors import SeedgramError, run_cli
from ngram.score_first import Tokens

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


def measure(art: artifact.Artifact, tokens: Tokens, rows: Rows, ranks: distributed.Ranks) -> dict[str, dict[str, float]]:
    """{row: {"bpb", "tokens_per_s"}}."""
    size = int(TokenBytes.from_model(art.tokenizer).count(tokens).sum())
    out = {}
    for name, options in rows.items():
        began = time.monotonic()
        neural = evaluate.network_scores(art, tokens, options or EvalOptions(product=False), ranks)
        parts = evaluate.blend_scores(art, tokens, neural, options, ranks) if options is not None else None
        nats = float(neural.nll_nats().sum()) if parts is None else -float(np.log(parts.mixed).sum())
        seconds = time.monotonic() - began
        out[name] = {"bpb": bits_per_byte(nats, size), "tokens_per_s": (len(tokens) - 1) / seconds}
        if ranks.is_first:
            print(f"{name:24} {out[name]['bpb']:.4f} BPB  {out[name]['tokens_per_s']:>10,.0f} tokens/s", file=sys.stderr, flush=True)
    return out


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a row a part, two columns a text, with the difference to the row above."""
    texts = list(results)
    lines = ["| | " + " | ".join(f"{text} BPB | tokens/s" for text in texts) + " |", "|---|" + "---|---|" * len(texts)]
    before: dict[str, float] = {}
    for name in results[texts[0]]:
        cells = []
        for text in texts:
            row = results[text][name]
            change = f" ({row['bpb'] - before[text]:+.4f})" if text in before else ""
            cells += [f"{row['bpb']:.4f}{change}", f"{row['tokens_per_s']:,.0f}"]
            before[text] = row["bpb"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = OneLineParser(prog="ablation.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--artifact", required=True)
    parser.add_argument("--data", required=True, nargs="+", metavar="NAME=PATH", help="validation shards and what to call them")
    parser.add_argument("--stride", type=int, default=64, help="of the last row, 0: no such row; tokens [64]")
    parser.add_argument("--tokens", type=int, default=0, help="of each stream's beginning, 0: all [0]")
    parser.add_argument("--json", metavar="F")
    add_adapt_flags(parser, switch=False)
    flags = parser.parse_args()
    texts = dict(pair.split("=", 1) for pair in flags.data if "=" in pair)
    if len(texts) != len(flags.data):
        raise SeedgramError("--data takes NAME=PATH, each name once")
    ranks, art = distributed.start(), artifact.load(flags.artifact)
    rows = rows_of(art, adapt_settings(flags), flags.stride)
    results: dict[str, Any] = {}
    for name, path in texts.items():
        tokens = evaluate.load_tokens(find_shards(path, "val"), art.config.model.vocab_size, art.config.train.seq_len, "full")
        tokens = tokens[: flags.tokens or len(tokens)]
        measure(art, tokens[: 2 * art.config.train.seq_len], rows, ranks)  # compiles
        results[name] = measure(art, tokens, rows, ranks)
    if ranks.is_first:
        print(table(results))
        write_json(flags.json, results)
    ranks.close()
    return 0


if __name__ == "__main__":
    run_cli(main)
