"""Speed and quality of counting, smoothing and the online cache on the books corpus, one core.

    python scripts/bench/ngram_cache.py --books DIR [--order 7] [--json F]

Seconds are CPU seconds of the one thread, best of a few repetitions, compilation left out: other work on the machine then
disturbs least.  Bits per byte are over the bytes of the test text, one BOS in front, newline a piece.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

import numpy as np

from ngram.arrays import F64, U16
from ngram.container import atomic_write
from ngram.counting.counter import NgramCache
from ngram.errors import run_cli
from ngram.online.cache import OnlineCache, histories
from ngram.table import NgramTable
from scripts.bench.common import BOOKS_HELP, fastest_s, make_parser, read_books

KENLM_BPB = {2: 2.1463, 3: 1.7929, 4: 1.7394, 5: 1.7320, 6: 1.7299, 7: 1.7295}  # lmplz, the README beside the corpus
ONLINE_BPB = 1.6154  # exact online modified Kneser–Ney of order 7, the same README
ROWS = 20_000


def count(tokens: U16, order: int) -> NgramCache:
    cache = NgramCache(1024, order)
    cache.count_stream(tokens)
    cache.run()
    return cache


def bpb(prob: F64, size_bytes: int) -> float:
    return float(-np.log2(prob).sum() / size_bytes)


def warm_up(tokens: U16, order: int) -> None:
    """Compiles every kernel on a few tokens."""
    small = NgramCache(1024, order, buffer_positions=64)
    small.count_stream(tokens[:500])
    cache = OnlineCache(small.table())
    cache.score(tokens, 1, 300)
    cache.score_then_update(tokens, 1, 300)
    cache.rows(histories(tokens, [5, 6], order, 1))


def scoring(table: NgramTable, test: U16, size_bytes: int) -> dict[str, float]:
    """Quality and tokens a second of static, online and full-row scoring."""
    cache, stop = OnlineCache(table), len(test)
    result = {"seed_s": fastest_s(lambda: OnlineCache(table), 1)}
    result["static_bpb"] = bpb(cache.score(test, 1, stop).prob, size_bytes)
    result["static_tokens_per_s"] = stop / fastest_s(lambda: cache.score(test, 1, stop, features=False))
    result["static_with_features_tokens_per_s"] = stop / fastest_s(lambda: cache.score(test, 1, stop))
    past = histories(test, np.arange(1, ROWS + 1), table.order, table.bos)
    result["rows_per_s"] = ROWS / fastest_s(lambda: cache.rows(past))
    result["row_sum_error"] = float(np.abs(cache.rows(past[:2000]).sum(axis=1) - 1).max())
    online = [OnlineCache(table) for _ in range(2)]  # each cache sees the text once
    result["online_bpb"] = bpb(OnlineCache(table).score_then_update(test, 1, stop).prob, size_bytes)
    result["online_tokens_per_s"] = stop / fastest_s(lambda: online.pop().score_then_update(test, 1, stop, features=False), len(online))
    return result


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--books", type=Path, required=True, metavar="DIR", help=BOOKS_HELP)
    parser.add_argument("--order", type=int, default=7, metavar="N", help="of the longest n-grams [7]")
    parser.add_argument("--json", metavar="F", help="write the figures there too")
    args = parser.parse_args()
    books = read_books(args.books)
    train, test, size_bytes = books.train, books.test, books.test_bytes
    warm_up(train, args.order)
    figures: dict[str, Any] = {"train_tokens": len(train), "test_tokens": len(test), "order": args.order}
    figures["count_tokens_per_s"] = len(train) / fastest_s(lambda: count(train, args.order))
    cache = count(train, args.order)
    figures["table_s"] = fastest_s(cache.table, 1)
    table = cache.table()
    figures["ngrams"] = sum(table.sizes())
    figures |= scoring(table, test, size_bytes)
    for n in range(2, args.order):
        lower = OnlineCache(count(train, n).table())
        figures[f"static_bpb_order_{n}"] = bpb(lower.score(test, 1, len(test), features=False).prob, size_bytes)
    figures["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for name, value in figures.items():
        order = args.order if name == "static_bpb" else int(name.rsplit("_", 1)[1]) if "bpb_order" in name else 0
        beside = f"   KenLM {KENLM_BPB[order]}" if order in KENLM_BPB else f"   reference {ONLINE_BPB}" if name == "online_bpb" else ""
        print(f"{name:36s} {value:>16,.5g}{beside}" if value < 100 else f"{name:36s} {value:>16,.0f}{beside}")
    if args.json:
        atomic_write(args.json, (json.dumps(figures, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    run_cli(main)
