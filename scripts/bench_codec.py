"""What pruning and coding cost and give: bytes, bits an n-gram, bits per byte on unseen text; and storing the text instead.

    python scripts/bench_codec.py [--sizes 4.0,2.3,1.8,1.2,0.8,0.4,0.2] [--data ../shared/data/books]
    python scripts/bench_codec.py --shard text_train_000000.bin --vocab 1024 --max-bytes 11000000 [--min-raw 1,1,1,2,2,2,2]

The first form takes the book corpus, all orders to 7: the whole table, then tables fitted to each size (MB), each read back from
its bytes before it is scored, static and score-then-update.  "fitted" has discounts tuned (ngram/tune.py) on the last 3 % of the
training text with a table that has not counted them, then used with the table of all.  Last the honest competitor for a small
corpus: the training text itself under our own online model, from an empty start; for each size, the part of the text whose code fits.
The second form times merging, pruning, encoding and decoding of a large corpus.
"""

import argparse
import lzma
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ngram import codec, prune
from ngram.cache import NgramCache
from ngram.online import OnlineCache
from ngram.runs import build_table
from ngram.table import F64, U16, NgramTable
from ngram.text import TextTokenizer
from ngram.tune import tune_discounts

ORDER, VOCAB, BOS = 7, 1024, 1
HELD_OUT = 0.03  # of the training text, for discounts


def books(folder: Path) -> tuple[U16, U16, int]:
    """Training and test streams of the book corpus, one BOS in front, and the bytes of the test text."""
    tokenizer = TextTokenizer((folder / "bpe1024.model").read_bytes(), "bpe1024.model")
    texts = [lzma.decompress((folder / f"{split}.txt.xz").read_bytes()).decode() for split in ("train", "test")]
    train, test = (tokenizer.stream(text)[0] for text in texts)
    return train, test, len(texts[1].encode())


def counted(tokens: U16) -> NgramTable:
    cache = NgramCache(VOCAB, (2, ORDER), BOS)
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
    empty = replace(NgramCache(VOCAB, (2, ORDER), BOS).table(), discounts=discounts)
    return -np.log2(OnlineCache(empty).score_then_update(train, 1, len(train), features=False).prob)


def bench_books(folder: Path, sizes_mb: list[float]) -> None:
    train, test, test_bytes = books(folder)
    table, cut = counted(train), int(len(train) * (1 - HELD_OUT))
    partial = counted(train[:cut])
    held_out = np.concatenate([[BOS], train[cut:]]).astype(np.uint16)
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
        smaller = prune.prune(partial, int(size * sum(partial.sizes()) / sum(table.sizes())))
        tuned = replace(fitted, discounts=tune_discounts(smaller, held_out).discounts)
        print(f"{'   its discounts fitted':26}{len(codec.encode(tuned)):>10,}{'':>19}   {scores(tuned, test, test_bytes)}", flush=True)
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

    cache = NgramCache(VOCAB, (2, ORDER), BOS)
    cache.count_stream(tokens)
    lap(f"counting {len(tokens):,} tokens")
    run = cache.run()
    lap(f"merging to one run of {len(run):,}")
    table = build_table(run, VOCAB, BOS, (2, ORDER), min_raw)
    lap(f"table of {sum(table.sizes()):,} n-grams {table.sizes()}")
    fitted, data = prune.fit_bytes(table, max_bytes)
    size = sum(fitted.sizes())
    lap(f"fitted to {len(data):,} bytes: {size:,} n-grams, {8 * len(data) / size:.2f} bits each")
    codec.encode(fitted)
    lap("encoding that once more")
    codec.decode(data)
    lap("decoding")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "books", help="folder of the book corpus")
    parser.add_argument("--sizes", default="4.0,2.3,1.8,1.2,0.8,0.4,0.2", help="MB, comma-separated")
    parser.add_argument("--shard", type=Path, help="time this corpus instead")
    parser.add_argument("--max-bytes", type=int, default=11_000_000)
    parser.add_argument("--min-raw", help="raw counts that n-grams of orders 1… need, comma-separated")
    parser.add_argument("--tokens", type=int, default=-1, help="of the shard to count; -1: all")
    args = parser.parse_args()
    if args.shard:
        bench_shard(args.shard, args.max_bytes, [int(x) for x in args.min_raw.split(",")] if args.min_raw else None, args.tokens)
    elif args.data.is_dir():
        bench_books(args.data, [float(x) for x in args.sizes.split(",")])
    else:
        print(f"{args.data}: no book corpus; give its folder with --data")


if __name__ == "__main__":
    main()
