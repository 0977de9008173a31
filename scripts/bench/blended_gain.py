"""What n-grams counted from ever more text are worth to one trained network: bits per byte alone and blended, a row a size.

    python scripts/bench/blended_gain.py --artifact RUN/artifact.bin --shard train.bin --data DIR [--sizes 1e6 1e7 7e7] [--json F] [--plot F.svg]

The network, its precision and the settings are those of the artifact.  Its table and gate are put aside: for each size a table is made of that many
tokens of the shard (from ten million on without what orders 4 and more counted once, as packing does it), not cut to any number of bytes, and a gate
is fitted on the first tokens of the validation text.  Scored are the tokens after those: with the table as it is ("static"), and with everything that
learns while it scores, as eval.py does it ("online").  No tokens: only what is counted while scoring.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.data.token_bytes import TokenBytes, bits_per_byte
from hybrid.parallel import ranks as distributed
from hybrid.scoring import evaluate
from hybrid.scoring.options import EvalOptions
from hybrid.storing import artifact
from hybrid.training.fit_gate import fit_gate
from hybrid.training.table_ahead import LARGE_CORPUS
from ngram.container import atomic_write
from ngram.counting.counter import NgramCache
from ngram.errors import run_cli
from ngram.table import NgramTable
from scripts.bench.common import make_parser, markdown
from scripts.bench.counting import read_shard
from scripts.bench.held_out import held_out

WAYS = {"static": EvalOptions(online=False, match=False, product=False), "online": EvalOptions()}


def table_of(stream: Any, art: artifact.Artifact, bos: int) -> NgramTable:
    orders = art.config.cache.ngram_order
    counts = NgramCache(art.config.model.vocab_size, orders, bos)
    counts.count_stream(stream)
    return counts.table([1 if n <= 3 else 2 for n in range(1, orders + 1)] if len(stream) >= LARGE_CORPUS else None)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes, counted = figure.subplots(), [row for row in rows if row["tokens"]]
    for name in WAYS:
        axes.plot([row["tokens"] for row in counted], [row["network_bpb"] - row[f"{name}_bpb"] for row in counted], "o-", label=name)
    axes.set(xscale="log", xlabel="tokens counted", ylabel="bits per byte below the network alone")
    axes.legend()
    figure.savefig(path)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--artifact", required=True, metavar="F", help="packed artifact with a cache")
    parser.add_argument("--shard", type=Path, required=True, metavar="FILE", help="token shard whose beginnings are counted, of the artifact's tokenizer")
    parser.add_argument("--data", required=True, metavar="DIR", help="validation shards of that tokenizer")
    parser.add_argument("--sizes", type=float, nargs="+", default=[0, 1e6, 1e7, 7e7], metavar="N", help="tokens to count [0 1e6 1e7 7e7]")
    parser.add_argument("--fit", type=int, default=65_536, metavar="N", help="validation tokens that the gate is fitted on [65536]")
    parser.add_argument("--tokens", type=int, default=131_072, metavar="N", help="validation tokens that are scored, behind those [131072]")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures here too")
    parser.add_argument("--plot", type=Path, metavar="F", help="picture to write (.svg or .png)")
    flags = parser.parse_args()
    ranks, art = distributed.start(), artifact.load(flags.artifact)
    art.model.to(ranks.device)
    tokens, _ = held_out(art, flags.data, flags.fit + flags.tokens)
    fitted, scored = tokens[: flags.fit], tokens[flags.fit :]
    size = TokenBytes.from_model(art.tokenizer).total(scored)
    bos = art.table.bos if art.table is not None else 1
    rows = list[dict[str, Any]]()
    for wanted in flags.sizes:
        stream = read_shard(flags.shard, int(wanted), art.config.model.vocab_size) if wanted else np.zeros(0, np.uint16)
        table = table_of(stream, art, bos)
        gate = fit_gate(art.model, table, fitted, ranks.device, art.config)
        variant = dataclasses.replace(art, table=table, gate=gate.to_bytes())
        row: dict[str, Any] = {"tokens": len(stream), "ngrams": sum(table.sizes())}
        for name, options in WAYS.items():
            found = evaluate.score_tokens(variant, scored, options, ranks)
            row[f"{name}_bpb"] = bits_per_byte(float(found.bits.sum()) * np.log(2), size)
            row["network_bpb"] = bits_per_byte(float(found.nll_nats.sum()), size)
        rows.append(row)
        print(json.dumps(row), flush=True)
    header = ["tokens counted", "n-grams", "network", *(f"{name} (gain)" for name in WAYS)]
    cells = [
        [f"{row['tokens']:,}", f"{row['ngrams']:,}", f"{row['network_bpb']:.4f}"]
        + [f"{row[f'{name}_bpb']:.4f} ({row['network_bpb'] - row[f'{name}_bpb']:.4f})" for name in WAYS]
        for row in rows
    ]
    print(markdown(header, cells))
    if flags.json:
        atomic_write(flags.json, (json.dumps(rows, indent=1) + "\n").encode())
    if flags.plot:
        draw(rows, flags.plot)
    ranks.close()
    return 0


if __name__ == "__main__":
    run_cli(main)
