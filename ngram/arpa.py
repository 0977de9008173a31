"""ARPA out: the table's static probabilities as a text file that KenLM, SRILM and others read.  Words are token ids.

An interpolated model fits ARPA exactly: each n-gram carries its full probability, interpolated with all shorter ones, and
each context h its backoff weight λ(h), which is all that is left for tokens never seen after h.  BOS is the ordinary
word of its id.  `<unk>`, `<s>` and `</s>` are there because KenLM's reader wants them, with probability 10^-99.
"""

import os
from collections.abc import Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from ngram.arpa_model import I64, row_keys
from ngram.cli import track
from ngram.container import appearing
from ngram.table import F64, NgramTable

LOG_ZERO = -99.0  # what ARPA writers put for probability 0 (Stolcke's SRILM manual, ngram-format)
MARKERS = ("<unk>", "<s>", "</s>")
LINES_PER_BLOCK = 1 << 17


def static_probabilities(table: NgramTable) -> tuple[list[F64], list[F64]]:
    """Probability of every n-gram and backoff weight of every context, orders 1, 2, …

    Returns ([ (M_n,) float64 p_n(last token | the tokens before it) ], [ (M_n,) float64 λ of the n-gram as a context ]),
    the second one order shorter.  Chen & Goodman (1998), interpolated modified Kneser–Ney."""
    probabilities: list[F64] = []
    backoffs: list[F64] = []
    suffix = np.zeros(table.vocab_size, np.int64)  # order 1: the empty n-gram
    lower = np.full(1, 1.0 / table.vocab_size)
    lower_of_row = np.broadcast_to(lower, table.vocab_size)
    for n in range(1, table.order + 1):
        if n > 1:
            suffix = _suffix_rows(table, n, suffix)
            lower_of_row = probabilities[-1][suffix]
        kept, backoff = _discounted(table, n)
        parents = table.parents[n - 1]
        probabilities.append(kept + backoff[parents] * lower_of_row)
        if n > 1:
            backoffs.append(backoff)
    return probabilities, backoffs


def _discounted(table: NgramTable, n: int) -> tuple[F64, F64]:
    """max(c − D(c), 0)/T of every n-gram of order n, and λ of every context of order n-1 (1 where nothing was seen)."""
    counts = table.exact_counts(n).astype(np.float64)
    discounts = np.concatenate([[0.0], table.discounts[n - 1]])[np.minimum(counts, 3).astype(np.int64)]
    taken = np.minimum(counts, discounts)
    parents = table.parents[n - 1]
    left_out = table.pruned[n - 1].astype(np.float64)
    total = np.bincount(parents, counts, minlength=len(left_out)) + left_out
    free = np.bincount(parents, taken, minlength=len(left_out)) + left_out
    seen = total > 0
    safe = np.where(seen, total, 1.0)
    return (counts - taken) / safe[parents], np.where(seen, free / safe, 1.0)


def _suffix_rows(table: NgramTable, n: int, shorter: I64) -> I64:
    """(M_n,) row in order n-1 of each n-gram without its first token.  shorter: the same for order n-1."""
    parents = table.parents[n - 1]
    tokens = table.tokens[n - 1].astype(np.int64)
    if n == 2:
        return tokens  # order 1 is dense
    keys = row_keys(table.parents[n - 2], table.tokens[n - 2])
    wanted = row_keys(shorter[parents], tokens)
    rows = np.searchsorted(keys, wanted)
    if len(rows) and (rows.max() >= len(keys) or not np.array_equal(keys[rows], wanted)):
        raise ValueError(f"order {n} has n-grams whose last {n - 1} tokens are missing; the table is not suffix-closed")
    return rows.astype(np.int64)


def export_arpa(table: NgramTable, path: str | os.PathLike[str]) -> None:
    """Writes the table's static model as an ARPA file of log10 probabilities and backoffs, 7 digits.

    Raises SeedgramError when the file cannot be written; it appears whole or not at all."""
    probabilities, backoffs = static_probabilities(table)
    with appearing(path, text=True) as file:
        file.write("\\data\\\n")
        for n, size in enumerate(table.sizes(), 1):
            file.write(f"ngram {n}={size + (len(MARKERS) if n == 1 else 0)}\n")
        for n in range(1, table.order + 1):
            file.write(f"\n\\{n}-grams:\n")
            if n == 1:
                file.writelines(f"{LOG_ZERO:g}\t{marker}{'' if table.order == 1 else chr(9) + '0'}\n" for marker in MARKERS)
            _write_order(file, table, n, probabilities[n - 1], backoffs[n - 1] if n < table.order else None)
        file.write("\n\\end\\\n")


def _write_order(file: IO[str], table: NgramTable, n: int, probability: F64, backoff: F64 | None) -> None:
    logs = _log10(probability)
    weights = None if backoff is None else _log10(backoff)
    blocks = range(0, len(logs), LINES_PER_BLOCK)
    for start in track(blocks, f"writing order {n}"):
        stop = min(start + LINES_PER_BLOCK, len(logs))
        words = _words(table, n, start, stop)
        tails: Iterator[str] = iter([""] * (stop - start)) if weights is None else (f"\t{w:.7g}" for w in weights[start:stop].tolist())
        file.writelines(f"{p:.7g}\t{w}{t}\n" for p, w, t in zip(logs[start:stop].tolist(), words, tails, strict=True))


def _log10(values: F64) -> F64:
    with np.errstate(divide="ignore"):
        return np.clip(np.log10(values), LOG_ZERO, 0.0)


def _words(table: NgramTable, n: int, start: int, stop: int) -> list[str]:
    """The n-grams of rows start…stop-1 of order n as ids with spaces."""
    columns = []
    rows: npt.NDArray[np.integer] = np.arange(start, stop)
    for order in range(n, 0, -1):
        columns.append(table.tokens[order - 1][rows].tolist())
        rows = table.parents[order - 1][rows]
    return [" ".join(map(str, ids)) for ids in zip(*reversed(columns), strict=True)]
