"""How cost and worth grow with the text: time, memory, bits an n-gram and bits a token for growing beginnings of one token shard.

    python scripts/bench/scale.py --shard train.bin --held-out dev.bin --vocab 1024 [--sizes 1e6 1e7 7e7] [--json F] [--plot F.svg]

Each size has a process of its own, whose peak of memory is its own; everything is compiled before the clock starts.  Columns:

    runs, table, code    processor seconds from the stream into one run, to the Kneser-Ney table of orders 2 to 7, to the bytes of a model file
    counting, table      the most memory above the start while counting, a distinct n-gram; and in all while the table is made
    bits an n-gram       of the coded table
    static, online       bits a token of the held-out text, with the table as it is, and going on counting (each token is scored, then counted)

Seconds are a processor's; other work on the machine disturbs them least, but it does.  The plot's slopes are those of straight lines through the
logarithms; the prediction of a size that was not measured follows the last two.
"""

import argparse
import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from ngram.container import atomic_write
from ngram.counting.build_table import build_table
from ngram.counting.counter import NgramCache
from ngram.errors import SeedgramError, run_cli
from ngram.online.cache import OnlineCache
from ngram.storing import table_codec
from scripts.bench.all_reduce import peak_bytes
from scripts.bench.common import make_parser, markdown
from scripts.bench.counting import BOS, ORDER, read_shard, warm

SCORED = 200_000  # held-out tokens
Figures = dict[str, Any]


def reset_peak() -> int:
    """Resident memory now; the peak begins anew where the system can do that (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def bits(stream: Any, cache: OnlineCache, *, learn: bool) -> float:
    """Bits a token of a stream, its first token given."""
    scored = (cache.score_then_update if learn else cache.score)(stream, 1, len(stream), features=False)
    return float(-np.log2(scored.prob).mean())


def measure(stream: Any, held_out: Any, vocab_size: int) -> Figures:
    """One size, in this process."""
    table_codec.encode(warm(stream, vocab_size))
    started, clock = reset_peak(), [time.process_time()]
    cache = NgramCache(vocab_size, ORDER, BOS)
    cache.count_stream(stream)
    run = cache.run()
    clock.append(time.process_time())
    counting_bytes = peak_bytes() - started
    del cache
    table = build_table(run, vocab_size, BOS)
    clock.append(time.process_time())
    table_bytes, ngrams, entries = peak_bytes() - started, sum(table.sizes()), len(run)
    del run
    code_bytes = len(table_codec.encode(table))
    clock.append(time.process_time())
    online = OnlineCache(table)
    del table
    seconds = dict(zip(("runs_s", "table_s", "code_s"), np.diff(clock).tolist(), strict=True))
    return {
        "tokens": len(stream),
        "entries": entries,
        "ngrams": ngrams,
        **seconds,
        "counting_bytes_an_ngram": counting_bytes / ngrams,
        "table_bytes": table_bytes,
        "bits_an_ngram": 8 * code_bytes / ngrams,
        "static_bits": bits(held_out, online, learn=False),
        "online_bits": bits(held_out, online, learn=True),
    }


def slopes(rows: list[Figures], key: str) -> float:
    """Exponent of growth with the number of tokens, over all sizes."""
    return float(np.polyfit(np.log([row["tokens"] for row in rows]), np.log([row[key] for row in rows]), 1)[0])


def draw(rows: list[Figures], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    panels: tuple[tuple[str, dict[str, str]], ...] = (
        ("processor seconds", {"runs_s": "into one run", "table_s": "to the table", "code_s": "to bytes"}),
        ("n-grams", {"ngrams": "all orders", "entries": "of 7 tokens"}),
        ("bits", {"bits_an_ngram": "an n-gram, coded", "static_bits": "a token, static", "online_bits": "a token, online"}),
    )
    for axes, (title, lines) in zip(figure.subplots(1, 3), panels, strict=True):
        for key, name in lines.items():
            axes.plot([row["tokens"] for row in rows], [row[key] for row in rows], "o-", label=f"{name} (slope {slopes(rows, key):.2f})")
        axes.set(title=title, xlabel="tokens", xscale="log", yscale="log")
        axes.legend(fontsize=7)
    figure.savefig(path)


def show(rows: list[Figures]) -> None:
    header = ["tokens", "7-grams", "n-grams", "runs s", "table s", "code s", "counting B/n-gram", "table GB", "bits an n-gram", "static", "online"]
    cells = [
        [f"{row[key]:,}" for key in ("tokens", "entries", "ngrams")]
        + [f"{row[key]:.2f}" for key in ("runs_s", "table_s", "code_s", "counting_bytes_an_ngram")]
        + [f"{row['table_bytes'] / 1e9:.2f}", *(f"{row[key]:.3f}" for key in ("bits_an_ngram", "static_bits", "online_bits"))]
        for row in rows
    ]
    print(markdown(header, cells))
    if len(rows) > 1:
        print("slopes: " + ", ".join(f"{key} {slopes(rows, key):.3f}" for key in ("entries", "ngrams", "runs_s", "table_s", "static_bits")))


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--shard", type=Path, required=True, metavar="FILE", help="token shard whose beginnings are counted")
    parser.add_argument("--held-out", type=Path, required=True, metavar="FILE", help=f"token shard whose first {SCORED:,} tokens are scored")
    parser.add_argument("--vocab", type=int, required=True, metavar="V", help="size of their vocabulary")
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e6, 1e7, 7e7], metavar="N", help="tokens to count [1e6 1e7 7e7]")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures here too")
    parser.add_argument("--plot", type=Path, metavar="F", help="picture to write (.svg or .png)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # this process measures a single size
    flags = parser.parse_args()
    if flags.one:
        stream, held_out = read_shard(flags.shard, int(flags.sizes[0]), flags.vocab), read_shard(flags.held_out, SCORED, flags.vocab)
        print(json.dumps(measure(stream, held_out, flags.vocab)))
        return 0
    rows = list[Figures]()
    for size in flags.sizes:
        inputs = ["--shard", str(flags.shard), "--held-out", str(flags.held_out), "--vocab", str(flags.vocab)]
        done = subprocess.run([sys.executable, __file__, *inputs, "--sizes", str(size), "--one"], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SeedgramError(f"{size:,.0f} tokens: the process ended with {done.returncode}; its reason is above; leave the size out or free memory")
        rows.append(json.loads(done.stdout))
    show(rows)
    if flags.json:
        atomic_write(flags.json, (json.dumps(rows, indent=1) + "\n").encode())
    if flags.plot:
        draw(rows, flags.plot)
    return 0


if __name__ == "__main__":
    run_cli(main)
