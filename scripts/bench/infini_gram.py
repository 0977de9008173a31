"""The wheel `infini-gram` (suffix arrays) and `ngram` on the same tokens: index, look-ups, and one interpolation from the counts of each.

    pip install infini-gram
    python scripts/bench/infini_gram.py --train train.txt --test test.txt --tokenizer M [--tokens 2000000] [--targets 5000] [--json out.json]

Both index the first `--tokens` tokens of the training text as one document.  Then each is asked for the counts of the last one to four tokens at some
targets of the test text, and of what stands before them, and the same interpolation is made of both answers,
p_n = (c(h w) + 5 p_(n-1)) / (c(h) + 5): the two perplexities must agree, as both count exactly.  Printed for each: processor seconds to index and
bytes of the index, look-ups a second of processor time (infini-gram one call a look-up, as its interface has it; ours many at once), the
perplexity.  `ours, model file` is the coded Kneser-Ney model that one would use: its file, tokens scored a second, its own perplexity.
"""

import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve()
# works from a checkout that is not installed; this file's own folder goes, where `import infini_gram` would find this file
sys.path[:] = [str(HERE.parents[2]), *(place for place in sys.path if Path(place or ".").resolve() != HERE.parent)]

from ngram.arpa.from_table import static_model
from ngram.arrays import I64, U16
from ngram.counting.build_table import build_table
from ngram.counting.counter import NgramCache
from ngram.counting.run import Run
from ngram.errors import SeedgramError, run_cli
from ngram.storing.model_file import model_bytes
from ngram.storing.table_codec import encode
from ngram.tokenizer import Tokenizer
from scripts.bench.common import make_parser, markdown
from scripts.bench.other_counters import external, suffix_array

ORDER = 4  # tokens that the first half of a key holds
STRENGTH = 5.0  # of the shorter context's distribution, in counts
SEPARATOR = 0xFFFF  # before each document of an infini-gram index

Count = Callable[[list[U16]], I64]


def clocked(task: Callable[[], Any]) -> tuple[float, Any]:
    """(processor seconds of this process, result)."""
    begin = time.process_time()
    result = task()
    return max(time.process_time() - begin, 1e-9), result


def perplexity(count: Count, test: U16, targets: I64, total: int, vocab_size: int) -> tuple[float, float, int]:
    """(perplexity of the interpolation, processor seconds of its look-ups, look-ups)."""
    probability, spent, asked = np.full(len(targets), 1.0 / vocab_size), 0.0, 0
    for n in range(1, ORDER + 1):
        whole = [test[t - n + 1 : t + 1] for t in targets]
        seconds, with_target = clocked(partial(count, whole))
        contexts, more = np.full(len(targets), total), 0.0
        if n > 1:
            before = [gram[:-1] for gram in whole]
            more, contexts = clocked(partial(count, before))
        spent, asked = spent + seconds + more, asked + len(targets) * (1 if n == 1 else 2)
        probability = (with_target + STRENGTH * probability) / (contexts + STRENGTH)
    return float(np.exp(-np.log(probability).mean())), spent, asked


def our_counts(run: Run) -> Count:
    """Raw counts of n-grams up to order 4, by two searches among the keys, which are n-grams read backwards."""
    sums = np.concatenate([[0], np.cumsum(run.exact_counts())])

    def count(grams: list[U16]) -> I64:
        keys = np.zeros(len(grams), np.uint64)
        array = np.array(grams, np.uint64)
        for column in range(array.shape[1] - 1, -1, -1):
            keys = keys << np.uint64(16) | array[:, column]
        free = np.uint64(16 * (ORDER - array.shape[1]))
        first, last = keys << free, (keys << free) | ((np.uint64(1) << free) - np.uint64(1))
        return np.asarray(sums[np.searchsorted(run.hi, last, "right")] - sums[np.searchsorted(run.hi, first)])

    return count


def infini_gram_side(train: U16, test: U16, targets: I64, vocab_size: int, folder: Path) -> dict[str, Any]:
    if importlib.util.find_spec("infini_gram") is None:
        raise SeedgramError("infini-gram is not installed; pip install infini-gram")
    from infini_gram.engine import InfiniGramEngine

    index = folder / "index"
    index.mkdir()
    np.concatenate([[SEPARATOR], train]).astype("<u2").tofile(index / "tokenized.0")
    np.zeros(1, "<u8").tofile(index / "offset.0")
    built = external("infini-gram", train, 1, suffix_array(index / "tokenized.0", index / "table.0", folder, 1), folder)
    engine = InfiniGramEngine(index_dir=str(index), eos_token_id=0, vocab_size=vocab_size, token_dtype="u16")

    def count(grams: list[U16]) -> I64:
        return np.array([engine.count(input_ids=gram.tolist())["count"] for gram in grams])

    found, seconds, asked = perplexity(count, test, targets, len(train), vocab_size)
    size = sum(path.stat().st_size for path in index.iterdir())
    return {"index_s": round(built["processor_s"], 2), "index_bytes": size, "a_second": round(asked / seconds), "perplexity": found}


def our_sides(train: U16, test: U16, targets: I64, tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    def counted() -> Run:
        cache = NgramCache(tokenizer.vocab_size, ORDER, tokenizer.bos)
        cache.count_stream(train)
        return cache.run()

    counting_s, run = clocked(counted)
    found, seconds, asked = perplexity(our_counts(run), test, targets, len(train), tokenizer.vocab_size)
    size = sum(column.nbytes for column in run.columns())
    counts = {"index_s": round(counting_s, 2), "index_bytes": size, "a_second": round(asked / seconds), "perplexity": found}
    table_s, table = clocked(lambda: build_table(run, tokenizer.vocab_size, tokenizer.bos))
    static = static_model(table)
    _ = static.index
    scoring_s, log10_p = clocked(lambda: static.log10_scores(test, 0, len(test))[0])
    own = float(10.0 ** -log10_p[targets].mean())
    data = len(model_bytes(encode(table), tokenizer))
    model = {"index_s": round(counting_s + table_s, 2), "index_bytes": data, "a_second": round(len(test) / scoring_s), "perplexity": own}
    return {"ours, counts": counts, "ours, model file": model}


def stream(path: Path, tokenizer: Tokenizer, most: int) -> U16:
    """The first tokens of a text, without what begins a document.  Raises SeedgramError where they do not fit 16 bits."""
    tokens = tokenizer.encode(path.read_text(encoding="utf-8"))[:most]
    if tokenizer.vocab_size > SEPARATOR:
        raise SeedgramError(f"{tokenizer.vocab_size} pieces; this comparison is made with 16-bit tokens")
    return tokens[tokens != tokenizer.bos]


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--train", type=Path, required=True, metavar="F", help="UTF-8 text to index")
    parser.add_argument("--test", type=Path, required=True, metavar="F", help="UTF-8 text to ask about")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="M", help="SentencePiece model or tokenizer.json")
    parser.add_argument("--tokens", type=int, default=2_000_000, metavar="N", help="of the training text at most [2000000]")
    parser.add_argument("--targets", type=int, default=5000, metavar="N", help="of the test text that are asked about [5000]")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures there, too")
    flags = parser.parse_args()
    tokenizer = Tokenizer(flags.tokenizer)
    train, test = stream(flags.train, tokenizer, flags.tokens), stream(flags.test, tokenizer, 1 << 20)
    our_sides(train[:1000], test[:100], np.arange(ORDER, 90), tokenizer)  # compiles
    targets = np.unique(np.linspace(ORDER, len(test) - 1, flags.targets).astype(np.int64))
    results = our_sides(train, test, targets, tokenizer)
    with tempfile.TemporaryDirectory() as name:
        results = {"infini-gram": infini_gram_side(train, test, targets, tokenizer.vocab_size, Path(name)), **results}
    print(f"{len(train):,} tokens indexed, {len(targets):,} targets asked about")
    header = ["", "index, processor s", "index, bytes", "look-ups (model: tokens) a second", "perplexity"]
    print(markdown(header, [[side, *(f"{row[key]:,}" for key in list(row)[:3]), f"{row['perplexity']:.4f}"] for side, row in results.items()]))
    if flags.json:
        flags.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run_cli(main)
