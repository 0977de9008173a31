"""Seconds from counts to a packed table, without training: what runs beside training (merge, table, rank, code) and what is left after it.

    python scripts/bench/packing.py --data DIR [--tokens N] [--room BYTES] [--hint BYTES …]

Counts the training text of DIR, makes the table ready for each hint (bytes that it is expected to have; 0: for none) and fits it into the room.
NUMBA_NUM_THREADS decides how many threads work; the digests must not.  What a whole run takes is in its summary.json, under "seconds".
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.data.shards import Loader, find_shards
from hybrid.training.table_ahead import TableAhead
from ngram import threads
from ngram.arrays import I64, digest
from ngram.counting.row_counter import RowCounter
from ngram.errors import run_cli
from ngram.pieces import Pieces
from ngram.storing import table_codec
from ngram.table import NgramTable
from scripts.bench.common import make_parser, markdown

ORDER = 7
HOLDOUT = 1 << 18
STEP = 1 << 20  # tokens counted at a time


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards and tokenizer.model")
    parser.add_argument("--tokens", type=int, default=0, help="counted at most; 0: all [0]")
    parser.add_argument("--room", type=int, default=11_650_000, help="bytes for the table [11650000: seed1095's]")
    parser.add_argument("--hint", type=int, nargs="+", default=[0, 11_900_000], help="expected bytes [0 11900000]")
    flags = parser.parse_args()
    pieces = Pieces(str(flags.data / "tokenizer.model"))
    loader = Loader(find_shards(str(flags.data), "train"), batch_rows=1, seq_len=1024, holdout_tokens=HOLDOUT, bos=pieces.bos)
    size = min(flags.tokens or loader.train_tokens, loader.train_tokens)
    coded, rows = list[int](), list[list[str]]()
    encode = table_codec.encode_read

    def noted(table: NgramTable, suffixes: list[I64] | None = None) -> tuple[bytes, Callable[[], NgramTable]]:
        made = encode(table, suffixes)
        coded.append(len(made[0]))
        return made

    table_codec.encode_read = noted
    for hint in flags.hint:
        counter = RowCounter(pieces.vocab_size, ORDER, pieces.bos)
        for begin in range(0, size, STEP):
            text = loader.stream.read(max(0, begin - counter.history), min(begin + STEP, size))
            counter.update(np.concatenate([np.full(max(0, counter.history - begin), np.iinfo(text.dtype).max, text.dtype), text])[None])
        ahead = TableAhead(counter, hint)
        ahead.begin()
        stages = ahead.stages()
        begun = time.perf_counter()
        ahead.code()
        ahead.stages()
        code_s = time.perf_counter() - begun
        coded.clear()
        begun, processor = time.perf_counter(), time.process_time()
        table, data = stages.fit(flags.room)
        wall, processor = time.perf_counter() - begun, time.process_time() - processor
        beside = [f"{seconds:.2f}" for seconds in (*(ahead.figures[name] for name in ("merge_s", "table_s", "rank_s")), code_s)]
        found = [f"{sum(table.sizes()):,}", f"{len(data) / flags.room:.4f}", digest(np.frombuffer(data, np.uint8))[:8]]
        rows.append([f"{hint:,}", *beside, f"{wall:.2f}", f"{processor:.2f}", str(len(coded)), *found])
    print(f"{size:,} tokens of {flags.data}, {threads.COUNT} threads")
    print(markdown(["hint", "merge", "table", "rank", "code", "fit, s", "processor s", "codings", "n-grams", "filled", "digest"], rows))
    return 0


if __name__ == "__main__":
    run_cli(main)
