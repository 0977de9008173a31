"""Compiled look-ups of words by their bytes, and of whole texts: no hash is relied on, words are compared in full."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit

_TAB, _NEWLINE, _RETURN, _SPACE = b"\t\n\r "
_BASIS, _PRIME, _WORD = 2166136261, 16777619, 0xFFFFFFFF  # FNV-1a of 32 bits (Fowler, Noll and Vo 1991)


class WordTable(NamedTuple):
    """letters (B,) uint8: all words; begin (W + 1,) int64: where each begins; ids (W,) int64; slots (S,) int64: the word at a place, -1 for none."""

    letters: Array
    begin: Array
    ids: Array
    slots: Array


def word_table(words: Mapping[bytes, int]) -> WordTable:
    """A table of words and their ids."""
    begin = np.cumsum([0, *map(len, words)]).astype(np.int64)
    slots = np.full(1 << (2 * len(words) + 1).bit_length(), -1, np.int64)
    letters = np.frombuffer(b"".join(words) or b" ", np.uint8)
    table = WordTable(letters, begin, np.array(list(words.values()), np.int64), slots)
    _fill(table)
    return table


@njit
def _home(letters: Array, start: int, stop: int, slots: int) -> int:
    value = _BASIS
    for i in range(start, stop):
        value = ((value ^ np.int64(letters[i])) * _PRIME) & _WORD
    return (value ^ (value >> 15)) & (slots - 1)


@njit
def _fill(table: WordTable) -> None:
    for word in range(len(table.ids)):
        at = _home(table.letters, table.begin[word], table.begin[word + 1], len(table.slots))
        while table.slots[at] >= 0:
            at = (at + 1) & (len(table.slots) - 1)
        table.slots[at] = word


@njit
def find_word(table: WordTable, data: Array, start: int, stop: int) -> int:
    """Row of the word data[start:stop], -1 where it is not there."""
    at = _home(data, start, stop, len(table.slots))
    while table.slots[at] >= 0:
        word = table.slots[at]
        begin = table.begin[word]
        if table.begin[word + 1] - begin == stop - start:
            same = True
            for i in range(stop - start):
                if table.letters[begin + i] != data[start + i]:
                    same = False
                    break
            if same:
                return word
        at = (at + 1) & (len(table.slots) - 1)
    return -1


@njit
def encode_text(data: Array, table: WordTable, unknown: int, marks: Array, out: Array) -> tuple[int, int]:
    """(tokens written, where the first word begins that is not in the table, else -1) of a text's words, what ASCII white space separates.

    data (N,) uint8.  marks: empty, or the two tokens before and after each line that has words.  out (≥ 3/2 (N + 1),): the tokens."""
    place, size, count, missing, within = 0, len(data), 0, -1, False
    while place < size:
        letter = data[place]
        if letter == _SPACE or _TAB <= letter <= _RETURN:
            if letter == _NEWLINE and within and len(marks):
                out[count], count, within = marks[1], count + 1, False
            place += 1
            continue
        if not within and len(marks):
            out[count], count, within = marks[0], count + 1, True
        begin = place
        while place < size and data[place] != _SPACE and not _TAB <= data[place] <= _RETURN:
            place += 1
        row = find_word(table, data, begin, place)
        if row < 0 and missing < 0:
            missing = begin
        out[count], count = (table.ids[row] if row >= 0 else unknown), count + 1
    if within and len(marks):
        out[count], count = marks[1], count + 1
    return count, missing
