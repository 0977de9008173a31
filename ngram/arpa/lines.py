"""Compiled reading of an ARPA file's n-gram lines: those written plainly, which nearly all are.

Plain is: a probability, n known words, perhaps a backoff weight, numbers as digits with or without a point and so few that the nearest float64
is one exact division away (Clinger 1990, "How to read floating point numbers accurately").  The kernel stops before any other line, and
`read.py` reads that one by the definition, so that both ways give the same bits and only one has to tell what is wrong.
"""

from typing import IO

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit
from ngram.word_table import WordTable, find_word

CHUNK_BYTES = 1 << 22
MOST_DIGITS = 15  # of a number: below 10^15 every whole number is a float64
_TENS = 10.0 ** np.arange(MOST_DIGITS + 1)
_TAB, _NEWLINE, _RETURN, _SPACE, _PLUS, _MINUS, _POINT, _ZERO, _NINE = b"\t\n\r +-.09"


@njit
def _number(data: Array, start: int, stop: int) -> tuple[float, int]:
    """(value, digits after the point) of a plain decimal number; NaN for anything else."""
    at = start
    if data[at] == _MINUS or data[at] == _PLUS:
        at += 1
    value, digits, point = np.int64(0), 0, -1
    for i in range(at, stop):
        if data[i] == _POINT and point < 0:
            point = i
        elif _ZERO <= data[i] <= _NINE:
            value, digits = 10 * value + (np.int64(data[i]) - _ZERO), digits + 1
        else:
            return np.nan, 0
        if digits > MOST_DIGITS:
            return np.nan, 0
    if digits == 0:
        return np.nan, 0
    decimals = 0 if point < 0 else stop - point - 1
    size = value / _TENS[decimals]
    return (-size if data[start] == _MINUS else size), decimals


@njit
def read_plain(data: Array, at: int, table: WordTable, limits: Array, words: Array, numbers: Array, out: Array) -> None:
    """Reads lines from data[at:] until `words` is full, a line is not plain, or the last whole line was read.

    data (N,) uint8.  limits (3,) float64: the largest probability and weight, and the bytes of the longest line.  words (M, n) int64 ids, numbers (M, 2)
    float64: one row a line.  out (4,) int64 receives: rows filled, lines passed (blank ones too), where the next line begins, most digits after the
    point of a probability."""
    rows, n = words.shape
    filled, passed, decimals, digits, size = 0, 0, 0, 0, len(data)
    while filled < rows:
        place, field, weight, plain = at, 0, 0.0, True
        while plain and place < size and data[place] != _NEWLINE:
            if data[place] == _SPACE or data[place] == _TAB or data[place] == _RETURN:
                place += 1
                continue
            begin = place
            while place < size and data[place] > _SPACE:
                place += 1
            if place < size and data[place] != _SPACE and not _TAB <= data[place] <= _NEWLINE and data[place] != _RETURN:
                plain = False  # other white space and control characters
            elif field == 0:
                numbers[filled, 0], digits = _number(data, begin, place)
                plain = numbers[filled, 0] <= limits[0]
            elif field <= n:
                row = find_word(table, data, begin, place)
                plain = row >= 0
                if plain:
                    words[filled, field - 1] = table.ids[row]
            else:
                weight, _ = _number(data, begin, place)
                plain = field == n + 1 and weight <= limits[1]
            field += 1
        if not plain or place >= size or place + 1 - at >= limits[2] or 0 < field <= n:
            break
        if field:
            numbers[filled, 1], decimals = weight, max(decimals, digits)
            filled += 1
        at, passed = place + 1, passed + 1
    out[0], out[1], out[2], out[3] = filled, passed, at, decimals


class Lines:
    """A file's lines, one by one or many at once; `number` is that of the line last read, from 1."""

    def __init__(self, file: IO[bytes], longest: int) -> None:
        self.file, self.longest, self.number = file, longest, 0
        self._data, self._at = b"", 0

    def next(self) -> bytes:
        """The next line with its end, cut after `longest` bytes; empty at the end of the file."""
        end = self._data.find(b"\n", self._at, self._at + self.longest)
        if end < 0 and len(self._data) - self._at < self.longest:
            self._refill()
            end = self._data.find(b"\n", self._at, self._at + self.longest)
        end = min(self._at + self.longest, len(self._data)) if end < 0 else end + 1
        line, self._at, self.number = self._data[self._at : end], end, self.number + 1
        return line

    def plain(self, table: WordTable, limits: tuple[float, float], words: Array, numbers: Array) -> tuple[int, int]:
        """Fills rows of `words` and `numbers` from the next lines, as `read_plain` does: (rows filled, most digits after a probability's point)."""
        if self._data.find(b"\n", self._at) < 0:
            self._refill()
        out = np.zeros(4, np.int64)
        data = np.frombuffer(self._data, np.uint8)
        read_plain(data, self._at, table, np.array([*limits, self.longest]), words, numbers, out)
        filled, passed, self._at, decimals = out.tolist()
        self.number += passed
        return filled, decimals

    def _refill(self) -> None:
        self._data, self._at = self._data[self._at :] + self.file.read(CHUNK_BYTES), 0
