"""KenLM and `ngram` side by side: the same token stream, orders 2 to 7, on the book corpus.

KenLM's `lmplz` is not in its wheel; it is built from the source distribution, outside the repository:

    apt-get install cmake g++ libboost-program-options-dev libboost-system-dev libboost-thread-dev libboost-test-dev \\
        zlib1g-dev libbz2-dev liblzma-dev
    pip download --no-deps --no-binary kenlm kenlm && tar xzf kenlm-*.tar.gz
    mkdir build && cd build && cmake ../kenlm-* -DKENLM_MAX_ORDER=7 -DENABLE_INTERPOLATE=OFF && make lmplz build_binary query

    python scripts/bench/against_kenlm.py --books DIR --kenlm-bin build/bin [--orders 2 3 4 5 6 7] [--agreement 20000]

Prints, for each order, KenLM's and our bits per byte on the test text, the difference, file sizes and times; then how far
KenLM's own reader of our exported ARPA file is from our probabilities on random histories.  Words are token ids.
KenLM: `lmplz -o N --discount_fallback`, the training stream as one line, scored without its end marker.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from ngram.arpa.write import export_arpa
from ngram.arrays import F64, U16
from ngram.counting.build_table import build_table
from ngram.counting.counter import NgramCache
from ngram.errors import SeedgramError, run_cli
from ngram.online.cache import OnlineCache, histories
from ngram.storing.model_file import model_bytes
from ngram.storing.table_codec import encode
from ngram.table import PAD, NgramTable
from scripts.bench.common import BOOKS_HELP, Books, make_parser, read_books

PROGRAMS = ("lmplz", "build_binary", "query")
MEMORY = "1G"  # lmplz's sort buffer


def programs(folder: Path | None) -> dict[str, str]:
    """Full paths of KenLM's programs.  Raises SeedgramError naming the first that is missing."""
    where = str(folder) if folder else os.environ.get("KENLM_BIN", os.environ["PATH"])
    found = {}
    for name in PROGRAMS:
        path = shutil.which(name, path=where)
        if path is None:
            raise SeedgramError(f"KenLM's {name} is not in {where}; build it as --help says and give its folder with --kenlm-bin")
        found[name] = path
    return found


def kenlm_model(tools: dict[str, str], stream: U16, order: int, folder: Path) -> tuple[Path, float]:
    """Counts and estimates with lmplz, packs as a trie.  Returns (trie file, seconds of lmplz alone)."""
    text, arpa, trie = folder / "train.ids", folder / f"k{order}.arpa", folder / f"k{order}.trie"
    text.write_text(" ".join(map(str, stream[1:].tolist())) + "\n")
    command = [tools["lmplz"], "-o", str(order), "--discount_fallback", "-S", MEMORY, "-T", str(folder), "--text", str(text), "--arpa", str(arpa)]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall_s = time.perf_counter() - started
    subprocess.run([tools["build_binary"], "trie", str(arpa), str(trie)], check=True, capture_output=True)
    arpa.unlink()
    return trie, wall_s


def query(tools: dict[str, str], model: Path, lines: list[list[int]], *flags: str) -> F64:
    """log10 p of every word that KenLM reports, all lines in turn."""
    text = "".join(" ".join(map(str, line)) + "\n" for line in lines)
    out = subprocess.run([tools["query"], *flags, "-v", "word", str(model)], input=text, capture_output=True, text=True, check=True).stdout
    return np.array([float(p) for p in re.findall(r"\S+=\d+ \d+ (\S+)", out)])


def our_table(stream: U16, vocab_size: int, bos: int, order: int) -> tuple[NgramTable, float]:
    """Counts the stream and estimates; (table, seconds)."""
    started = time.perf_counter()
    cache = NgramCache(vocab_size, order, bos)
    cache.count_stream(stream)
    table = build_table(cache.run(), vocab_size, bos)
    return table, time.perf_counter() - started


def compare(tools: dict[str, str], books: Books, orders: list[int], folder: Path) -> None:
    """One line of figures for each order."""
    train, test, tokenizer = books.train, books.test, books.tokenizer
    our_table(train[:2000], tokenizer.vocab_size, tokenizer.bos, 3)  # compiles
    print("order  KenLM BPB  our BPB  difference  KenLM trie  our file  KenLM count+estimate  ours")
    for order in orders:
        trie, kenlm_s = kenlm_model(tools, train, order, folder)
        theirs = -query(tools, trie, [test[1:].tolist()])[:-1].sum() / np.log10(2) / books.test_bytes  # the last one is </s>
        table, our_s = our_table(train, tokenizer.vocab_size, tokenizer.bos, order)
        ours = -np.log2(OnlineCache(table).score(test, 1, len(test), features=False).prob).sum() / books.test_bytes
        sizes = trie.stat().st_size, len(model_bytes(encode(table), tokenizer))
        change = 100 * (ours / theirs - 1)
        print(
            f"{order:5}  {theirs:9.5f}  {ours:7.5f}  {change:+9.4f} %  {sizes[0]:10,}  {sizes[1]:8,}  {kenlm_s:18.1f} s  {our_s:.1f} s",
            flush=True,
        )
        trie.unlink()


def agreement(tools: dict[str, str], table: NgramTable, test: U16, samples: int, folder: Path) -> None:
    """Largest |log10 p| between KenLM's reader of our ARPA file and our own rows; half of the histories are random tokens."""
    export_arpa(table, folder / "ours.arpa")
    random = np.random.default_rng(0)
    positions = random.integers(1, len(test), samples)
    past = histories(test, positions, table.order, table.bos)
    past[::2] = random.integers(3, table.vocab_size, past[::2].shape)
    targets = random.integers(3, table.vocab_size, samples)
    targets[: samples // 2] = test[positions[: samples // 2]]
    lines = [[token for token in line if token != PAD] for line in np.column_stack([past, targets]).tolist()]
    scores = query(tools, folder / "ours.arpa", lines, "-n")[np.cumsum([len(line) for line in lines]) - 1]
    cache, worst = OnlineCache(table), 0.0
    for start in range(0, samples, 1000):
        part = slice(start, start + 1000)
        ours = np.log10(cache.rows(past[part]))[np.arange(len(targets[part])), targets[part]]
        worst = max(worst, float(np.abs(ours - scores[part]).max()))
    print(f"ARPA of order {table.order}: KenLM's reader differs by at most {worst:.2e} in log10 p over {samples:,} histories")


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--books", type=Path, required=True, metavar="DIR", help=BOOKS_HELP)
    parser.add_argument("--kenlm-bin", type=Path, metavar="DIR", help="folder with lmplz, build_binary and query [KENLM_BIN, then PATH]")
    parser.add_argument("--orders", type=int, nargs="+", default=[2, 3, 4, 5, 6, 7], metavar="N", help="orders to compare [2 3 4 5 6 7]")
    parser.add_argument("--agreement", type=int, default=20000, metavar="N", help="random histories for the ARPA check; 0: none [20000]")
    flags = parser.parse_args()
    tools, books = programs(flags.kenlm_bin), read_books(flags.books)
    with tempfile.TemporaryDirectory() as name:
        compare(tools, books, flags.orders, Path(name))
        if flags.agreement:
            table, _ = our_table(books.train, books.tokenizer.vocab_size, books.tokenizer.bos, max(flags.orders))
            agreement(tools, table, books.test, flags.agreement, Path(name))
    return 0


if __name__ == "__main__":
    run_cli(main)
