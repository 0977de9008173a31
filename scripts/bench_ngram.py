"""Speed and quality of counting, smoothing and the online cache on the books corpus, one core.

    python scripts/bench_ngram.py [--books ../shared/data/books] [--order 7] [--json F]

Seconds are CPU seconds of the one thread, best of a few repetitions, compilation left out: other work on the machine then
disturbs least.  Bits per byte are over the bytes of the test text, one BOS in front, newline a piece.
"""

import argparse
import json
import lzma
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt

from ngram.cache import NgramCache
from ngram.container import atomic_write
from ngram.contexts import histories
from ngram.errors import SeedgramError, run_cli
from ngram.online import OnlineCache
from ngram.table import NgramTable

KENLM_BPB = {2: 2.1463, 3: 1.7929, 4: 1.7394, 5: 1.7320, 6: 1.7299, 7: 1.7295}  # lmplz, the README beside the corpus
ONLINE_BPB = 1.6154  # exact online modified Kneser–Ney of order 7, the same README
ROWS = 20_000


def encoded(books: Path) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16], int]:
    """Training tokens, test tokens (BOS in front of each) and bytes of the test text."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(books / "bpe1024.model"))
    texts = [lzma.decompress((books / f"{split}.txt.xz").read_bytes()).decode() for split in ("train", "test")]
    train, test = (np.array([pieces.bos_id(), *pieces.encode(text)], np.uint16) for text in texts)
    return train, test, len(texts[1].encode())


def seconds(action: Callable[[], Any], times: int = 3) -> float:
    """Least CPU seconds of this thread over some calls."""
    spent = []
    for _ in range(times):
        start = time.thread_time()
        action()
        spent.append(time.thread_time() - start)
    return min(spent)


def count(tokens: npt.NDArray[np.uint16], order: int) -> NgramCache:
    cache = NgramCache(1024, (1, order))
    cache.count_stream(tokens)
    cache.run()
    return cache


def bpb(prob: npt.NDArray[np.float64], size_bytes: int) -> float:
    return float(-np.log2(prob).sum() / size_bytes)


def warm_up(tokens: npt.NDArray[np.uint16], order: int) -> None:
    """Compiles every kernel on a few tokens."""
    small = NgramCache(1024, (1, order), buffer_positions=64)
    small.count_stream(tokens[:500])
    cache = OnlineCache(small.table())
    cache.score(tokens, 1, 300, with_orders=True)
    cache.score_then_update(tokens, 1, 300)
    cache.rows(histories(tokens, [5, 6], order, 1))


def scoring(table: NgramTable, test: npt.NDArray[np.uint16], size_bytes: int) -> dict[str, float]:
    """Quality and tokens a second of static, online and full-row scoring."""
    cache, stop = OnlineCache(table), len(test)
    result = {"seed_s": seconds(lambda: OnlineCache(table), 1)}
    result["static_bpb"] = bpb(cache.score(test, 1, stop).prob, size_bytes)
    result["static_tokens_per_s"] = stop / seconds(lambda: cache.score(test, 1, stop, features=False))
    result["static_with_features_tokens_per_s"] = stop / seconds(lambda: cache.score(test, 1, stop))
    past = histories(test, np.arange(1, ROWS + 1), table.order, table.bos)
    result["rows_per_s"] = ROWS / seconds(lambda: cache.rows(past))
    result["row_sum_error"] = float(np.abs(cache.rows(past[:2000]).sum(axis=1) - 1).max())
    online = [OnlineCache(table) for _ in range(2)]  # each cache sees the text once
    result["online_bpb"] = bpb(OnlineCache(table).score_then_update(test, 1, stop).prob, size_bytes)
    result["online_tokens_per_s"] = stop / seconds(lambda: online.pop().score_then_update(test, 1, stop, features=False), len(online))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data/books")
    parser.add_argument("--order", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    if not (args.books / "train.txt.xz").exists():
        raise SeedgramError(f"{args.books}: no books corpus there; pass its folder with --books")
    train, test, size_bytes = encoded(args.books)
    warm_up(train, args.order)
    figures: dict[str, Any] = {"train_tokens": len(train), "test_tokens": len(test), "order": args.order}
    figures["count_tokens_per_s"] = len(train) / seconds(lambda: count(train, args.order))
    cache = count(train, args.order)
    figures["table_s"] = seconds(cache.table, 1)
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


if __name__ == "__main__":
    run_cli(main)
