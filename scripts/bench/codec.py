"""What pruning and coding cost and give: bytes, bits an n-gram, bits per byte on unseen text; and storing the text instead.

    python scripts/bench/codec.py --books DIR [--sizes 4.0 2.3 1.8 1.2 0.8 0.4 0.2]
    python scripts/bench/codec.py --shard text_train_000000.bin --max-bytes 11000000 [--min-raw 1 1 1 2 2 2 2]

The first form takes the book corpus and all orders to 7.  It scores the whole table, then tables fitted to each size, each read back
from its bytes first, as they are and while they learn from what they have scored.  Beside each stands what else these bytes could hold:
the part of the training text that our own online model, which begins with nothing, codes in as many bytes.
The second form times merging, pruning, encoding and decoding of a large corpus.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from ngram.arrays import F64, U16
from ngram.counting.build_table import build_table
from ngram.counting.counter import NgramCache
from ngram.errors import run_cli
from ngram.online.cache import OnlineCache
from ngram.storing import prune, table_codec
from ngram.table import NgramTable
from scripts.bench.common import BOOKS_HELP, Books, make_parser, read_books

ORDER, VOCAB, BOS = 7, 1024, 1


def counted(tokens: U16) -> NgramTable:
    cache = NgramCache(VOCAB, ORDER, BOS)
    cache.count_stream(tokens)
    return cache.table()


def scores(table: NgramTable, test: U16, test_bytes: int) -> str:
    """Static and score-then-update bits per byte."""
    cache = OnlineCache(table)
    static = -np.log2(cache.score(test, 1, len(test), features=False).prob).sum() / test_bytes
    online = -np.log2(cache.score_then_update(test, 1, len(test), features=False).prob).sum() / test_bytes
    return f"{static:.5f}   {online:.5f}"


def text_bits(train: U16, discounts: F64) -> F64:
    """Bits of each token of the training text as the online model finds it, growing from nothing."""
    empty = replace(NgramCache(VOCAB, ORDER, BOS).table(), discounts=discounts)
    return -np.log2(OnlineCache(empty).score_then_update(train, 1, len(train), features=False).prob)


def bench_books(books: Books, sizes_mb: list[float]) -> None:
    train, test, test_bytes = books.train, books.test, books.test_bytes
    table = counted(train)
    print(f"{len(train):,} training tokens, {sum(table.sizes()):,} n-grams; {len(test):,} test tokens, {test_bytes:,} bytes")
    print(f"{'':26}{'bytes':>10}{'n-grams':>12}{'bits':>7}   static    online")
    print(f"{'exact, in memory':26}{'':>10}{sum(table.sizes()):>12,}{'':>7}   {scores(table, test, test_bytes)}")
    fits = text_bits(train, table.discounts).cumsum() / 8
    for limit in [10**9, *(int(1e6 * size) for size in sizes_mb)]:
        begin = time.perf_counter()
        fitted, data = prune.fit_bytes(table, limit)
        wall_s = time.perf_counter() - begin
        size = sum(fitted.sizes())
        name = "all, read back" if limit == 10**9 else f"fit_bytes {limit / 1e6:.2f} MB"
        print(
            f"{name:26}{len(data):>10,}{size:>12,}{8 * len(data) / size:>7.2f}   {scores(fitted, test, test_bytes)}   {wall_s:.1f} s",
            flush=True,
        )
        tokens = int(np.searchsorted(fits, limit)) + 1
        stored = counted(train[:tokens])
        label = f"   or {tokens / len(train):.0%} of the text"
        print(f"{label:26}{int(fits[tokens - 2]):>10,}{sum(stored.sizes()):>12,}{'':>7}   {scores(stored, test, test_bytes)}", flush=True)


def bench_shard(path: Path, max_bytes: int, min_raw: list[int] | None, most: int) -> None:
    """Times of one large corpus, a memory-mapped shard: header of 256 int32, then uint16 tokens."""
    tokens = np.fromfile(path, np.uint16, most, offset=1024)
    begin = time.perf_counter(), time.process_time()

    def lap(what: str) -> None:
        nonlocal begin
        now = time.perf_counter(), time.process_time()
        print(f"{what:80}{now[0] - begin[0]:8.1f} s wall {now[1] - begin[1]:8.1f} s processor", flush=True)
        begin = time.perf_counter(), time.process_time()

    cache = NgramCache(VOCAB, ORDER, BOS)
    cache.count_stream(tokens)
    lap(f"counting {len(tokens):,} tokens")
    run = cache.run()
    lap(f"merging to one run of {len(run):,}")
    table = build_table(run, VOCAB, BOS, ORDER, min_raw)
    lap(f"table of {sum(table.sizes()):,} n-grams {table.sizes()}")
    fitted, data = prune.fit_bytes(table, max_bytes)
    size = sum(fitted.sizes())
    lap(f"fitted to {len(data):,} bytes: {size:,} n-grams, {8 * len(data) / size:.2f} bits each")
    table_codec.encode(fitted)
    lap("encoding that once more")
    table_codec.decode(data)
    lap("decoding")


def main() -> int:
    parser = make_parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--books", type=Path, metavar="DIR", help=BOOKS_HELP)
    source.add_argument("--shard", type=Path, metavar="FILE", help="a large corpus to time instead: a token shard of 1,024 pieces")
    parser.add_argument("--sizes", type=float, nargs="+", default=[4.0, 2.3, 1.8, 1.2, 0.8, 0.4, 0.2], metavar="X", help="budgets of the books' tables; MB")
    parser.add_argument("--max-bytes", type=int, default=11_000_000, metavar="N", help="budget of the shard's table; bytes [11000000]")
    parser.add_argument("--min-raw", type=int, nargs="+", metavar="N", help="raw counts that the shard's n-grams of orders 1, 2, … need [1]")
    parser.add_argument("--tokens", type=int, default=-1, metavar="N", help="of the shard to count; -1: all [-1]")
    flags = parser.parse_args()
    if flags.books:
        bench_books(read_books(flags.books), flags.sizes)
    else:
        bench_shard(flags.shard, flags.max_bytes, flags.min_raw, flags.tokens)
    return 0


if __name__ == "__main__":
    run_cli(main)
