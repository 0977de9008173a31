"""What it costs to drop counts while counting, forced at small scale: a limit to the number of n-grams of seven tokens that are held at once.

    python scripts/bench/pruning.py --shard train.bin --held-out dev.bin --vocab 1024 [--tokens 3000000] [--shares 2 4 8] [--keep 3] [--json F]

Text is counted in pieces.  Whenever more entries are held than a share of those that everything would take, the histories of entries that
occurred once are cut to `--keep` tokens, then of those that occurred twice, then three times, unless half of the limit is left before.  Counts
of orders up to `--keep` stay exact, and so do the left neighbours of orders below; those of order `--keep` that were cut away are taken for as
many neighbours as they were counted.  What comes back later begins at 0.  Beside it: the same thresholds applied only when the table is made.

Columns: the most entries held at once, n-grams of the table and bits a token of the first held-out tokens, nothing learned from them.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from ngram.arrays import U16
from ngram.container import atomic_write
from ngram.counting.build_table import build_table
from ngram.counting.counter import NgramCache
from ngram.counting.keys import slot_mask
from ngram.counting.run import Run, merge
from ngram.counting.table_in_parts import build_in_parts
from ngram.errors import run_cli
from ngram.online.cache import OnlineCache
from scripts.bench.common import make_parser, markdown
from scripts.bench.counting import BOS, ORDER, read_shard
from scripts.bench.scale import SCORED, bits

THRESHOLDS = (1, 1, 1, 2, 2, 2, 2)
PIECE_TOKENS = 100_000
MOST_LEAST = 4  # histories of entries that occurred more than three times are never cut


def shortened(run: Run, least: int, keep: int) -> Run:
    """The run with the histories of entries that occurred less than `least` times cut: n-grams of at most `keep` tokens."""
    exact = run.exact_counts()
    rare = exact < least
    stays, all_slots = slot_mask(keep, run.bits), slot_mask(run.order, run.bits)
    hi, lo = run.hi[rare] | (all_slots[0] & ~stays[0]), run.lo[rare] | (all_slots[1] & ~stays[1])  # PAD in what is cut
    if not len(hi):
        return run
    begin = np.flatnonzero(np.concatenate([[True], (hi[1:] != hi[:-1]) | (lo[1:] != lo[:-1])]))
    cut = Run.from_counts(run.order, hi[begin], lo[begin], np.add.reduceat(exact[rare], begin), run.bits)
    return merge(Run.from_counts(run.order, run.hi[~rare], run.lo[~rare], exact[~rare], run.bits), cut)


def counted(stream: U16, vocab_size: int, most: int | None, keep: int) -> tuple[Run, int, int]:
    """The run, the most entries held at once, and how often histories were cut."""
    total, held, cuts = Run.empty(ORDER), 0, 0
    for start in range(0, len(stream), PIECE_TOKENS):
        piece = NgramCache(vocab_size, ORDER, BOS)
        given = max(0, start - piece.history)
        row = np.concatenate([np.full(piece.history - (start - given), 65_535, np.uint16), stream[given : start + PIECE_TOKENS]])
        piece._count(row[None], piece.history + (start == 0))
        total = merge(total, piece.run())
        held = max(held, len(total))
        if most is not None and len(total) > most:
            for least in range(2, MOST_LEAST + 1):
                total = shortened(total, least, keep)
                if len(total) <= most // 2:
                    break
            cuts += 1
    return total, held, cuts


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--shard", type=Path, required=True, metavar="FILE", help="token shard to count")
    parser.add_argument("--held-out", type=Path, required=True, metavar="FILE", help=f"token shard whose first {SCORED:,} tokens are scored")
    parser.add_argument("--vocab", type=int, required=True, metavar="V", help="size of their vocabulary")
    parser.add_argument("--tokens", type=int, default=3_000_000, metavar="N", help="tokens to count [3000000]")
    parser.add_argument("--shares", type=int, nargs="+", default=[2, 4, 8], metavar="S", help="limits: one S-th of all entries [2 4 8]")
    parser.add_argument("--keep", type=int, nargs="+", default=[3], metavar="K", help="orders whose counts stay exact [3]")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures here too")
    flags: argparse.Namespace = parser.parse_args()
    stream, held_out = read_shard(flags.shard, flags.tokens, flags.vocab), read_shard(flags.held_out, SCORED, flags.vocab)
    rows, cells = list[dict[str, Any]](), list[list[str]]()

    def add(name: str, run: Run, held: int, cuts: int, min_raw: tuple[int, ...] | None) -> None:
        if cuts:
            work = tempfile.TemporaryDirectory()
            table = build_in_parts(run, flags.vocab, BOS, Path(work.name), 1 << 30, min_raw=min_raw, cut=True)
        else:
            table = build_table(run, flags.vocab, BOS, min_raw=min_raw)
        static = bits(held_out, OnlineCache(table), learn=False)
        rows.append({"counting": name, "held": held, "cuts": cuts, "min_raw": min_raw, "ngrams": sum(table.sizes()), "static_bits": static})
        cells.append([name, f"{held:,}", str(cuts), "yes" if min_raw else "no", f"{sum(table.sizes()):,}", f"{static:.3f}"])
        print(" | ".join(cells[-1]), flush=True)

    everything, held, _ = counted(stream, flags.vocab, None, 1)
    add("everything kept", everything, held, 0, None)
    add("everything kept", everything, held, 0, THRESHOLDS)
    for keep in flags.keep:
        add(f"cut once, at the end, to {keep} tokens", shortened(everything, 2, keep), held, 1, THRESHOLDS)
        for share in flags.shares:
            run, most, cuts = counted(stream, flags.vocab, len(everything) // share, keep)
            add(f"a {share}th at once, cut to {keep} tokens", run, most, cuts, THRESHOLDS)
    print(markdown(["counting", "entries at once", "cuts", "thresholds", "n-grams", "bits a token"], cells))
    if flags.json:
        atomic_write(flags.json, (json.dumps(rows, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    run_cli(main)
