"""Writes a table's static probabilities as an ARPA text file, which KenLM, SRILM and others read.  Words are token ids.

An interpolated model fits ARPA exactly: each n-gram carries its full probability, interpolated with all shorter ones, and
each context h its backoff weight λ(h), which is all that is left for tokens never seen after h.  BOS is a word like any other, its id;
`<unk>`, `<s>` and `</s>` are then there because KenLM's reader wants them, with probability 10^-99.  A vocabulary of words has all three itself.
"""

import io
import os
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
import numpy.typing as npt

from ngram.arpa.from_table import predicted_orders
from ngram.arrays import F64
from ngram.container import appearing
from ngram.kneser_ney import SmoothedOrder
from ngram.table import NgramTable
from ngram.terminal import track

LOG_ZERO = -99.0  # what ARPA writers put for probability 0 (Stolcke's SRILM manual, ngram-format)
MARKERS = ("<unk>", "<s>", "</s>")
LINES_PER_BLOCK = 1 << 17


def export_arpa(table: NgramTable, path: str | os.PathLike[str], words: Sequence[bytes] | None = None) -> None:
    """Writes the table's static model as an ARPA file of log10 probabilities and backoffs, 7 digits.

    words: what each token is called; its id where none are given.
    Raises SeedgramError when the table is not closed under suffixes or the file cannot be written; it appears whole or not at all."""
    names = list(map(str, range(table.vocab_size))) if words is None else [word.decode("utf-8", "surrogateescape") for word in words]
    markers = MARKERS if words is None else ()
    orders = predicted_orders(table, words)
    with appearing(path) as raw:
        file = io.TextIOWrapper(raw, "utf-8", "surrogateescape", newline="\n")
        try:
            _write(file, table, names, markers, orders)
        finally:
            file.detach()


def _write(file: IO[str], table: NgramTable, names: list[str], markers: tuple[str, ...], orders: list[SmoothedOrder]) -> None:
    file.write("\\data\\\n")
    for n, size in enumerate(table.sizes(), 1):
        file.write(f"ngram {n}={size + (len(markers) if n == 1 else 0)}\n")
    for n in range(1, table.order + 1):
        file.write(f"\n\\{n}-grams:\n")
        if n == 1:
            file.writelines(f"{LOG_ZERO:g}\t{marker}{'' if table.order == 1 else chr(9) + '0'}\n" for marker in markers)
        _write_order(file, table, n, names, orders[n - 1].prob, orders[n].backoff if n < table.order else None)
    file.write("\n\\end\\\n")


def _write_order(file: IO[str], table: NgramTable, n: int, names: list[str], probability: F64, backoff: F64 | None) -> None:
    logs = _log10(probability)
    weights = None if backoff is None else _log10(backoff)
    blocks = range(0, len(logs), LINES_PER_BLOCK)
    for start in track(blocks, f"writing order {n}"):
        stop = min(start + LINES_PER_BLOCK, len(logs))
        words = _words(table, n, names, start, stop)
        tails: Iterator[str] = iter([""] * (stop - start)) if weights is None else (f"\t{w:.7g}" for w in weights[start:stop].tolist())
        file.writelines(f"{p:.7g}\t{w}{t}\n" for p, w, t in zip(logs[start:stop].tolist(), words, tails, strict=True))


def _log10(values: F64) -> F64:
    with np.errstate(divide="ignore"):
        return np.clip(np.log10(values), LOG_ZERO, 0.0)


def _words(table: NgramTable, n: int, names: list[str], start: int, stop: int) -> list[str]:
    """The n-grams of rows start…stop-1 of order n with spaces."""
    columns = []
    rows: npt.NDArray[np.integer] = np.arange(start, stop)
    for order in range(n, 0, -1):
        columns.append([names[token] for token in table.tokens[order - 1][rows].tolist()])
        rows = table.parents[order - 1][rows]
    return [" ".join(gram) for gram in zip(*reversed(columns), strict=True)]
