"""Compiled look-ups of words by their bytes, and of whole texts: no hash is relied on, words are compared in full."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit
from ngram.probing import home, mixed

_TAB, _RETURN, _SPACE, _NEWLINE = b"\t\r \n"
HEAD = 8  # bytes of a word that its place in the table holds
_ROW_BITS, _ROW = np.uint64(32), np.uint64((1 << 32) - 1)


class WordTable(NamedTuple):
    """letters (B,) uint8: all words; begin (W + 1,) int64: where each begins; ids (W,) int64; places (S, 2) uint64: a word's first 8 bytes, and
    its length << 32 | its row + 1, 0 for none."""

    letters: Array
    begin: Array
    ids: Array
    places: Array


def word_table(words: Mapping[bytes, int]) -> WordTable:
    """A table of words, each without ASCII white space, and their ids."""
    begin = np.cumsum([0, *map(len, words)]).astype(np.int64)
    letters = np.frombuffer(b"".join(words) or b" ", np.uint8)
    table = WordTable(letters, begin, np.array(list(words.values()), np.int64), np.zeros((2 * len(words) + 2, 2), np.uint64))
    _fill(table)
    return table


@njit(forceinline=True)
def key_of(data: Array, start: int, stop: int) -> tuple[Any, Any]:
    """(first 8 bytes, hash but for `home`) of data[start:stop], uint64 both."""
    head, hashed, piece, shift = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    for place in range(start, stop):
        piece |= np.uint64(data[place]) << shift
        shift += np.uint64(8)
        if shift == np.uint64(64):
            if place - start == HEAD - 1:
                head = piece
            hashed, piece, shift = mixed(hashed, piece), np.uint64(0), np.uint64(0)
    return piece if stop - start < HEAD else head, hashed ^ piece


@njit(forceinline=True)
def _is_word(table: WordTable, row: int, data: Array, start: int, stop: int) -> bool:
    """Whether data[start:stop] is the word of a row, which has as many bytes and begins with the same 8."""
    begin = table.begin[row] - start
    for i in range(start + HEAD, stop):
        if table.letters[begin + i] != data[i]:
            return False
    return True


@njit(forceinline=True)
def _find(table: WordTable, data: Array, start: int, stop: int, head: Any, hashed: Any) -> int:
    """Row of a word that was read, -1 where it is not there."""
    places, size = table.places, np.uint64(stop - start)
    at = home(hashed, len(places))
    while places[at, 1] != np.uint64(0):
        if places[at, 0] == head and places[at, 1] >> _ROW_BITS == size:
            row = np.int64(places[at, 1] & _ROW) - 1
            if stop - start <= HEAD or _is_word(table, row, data, start, stop):
                return row
        at = at + 1 if at + 1 < len(places) else 0
    return -1


@njit
def _fill(table: WordTable) -> None:
    places = table.places
    for word in range(len(table.ids)):
        start, stop = table.begin[word], table.begin[word + 1]
        head, hashed = key_of(table.letters, start, stop)
        at = home(hashed, len(places))
        while places[at, 1] != np.uint64(0):
            at = at + 1 if at + 1 < len(places) else 0
        places[at, 0], places[at, 1] = head, np.uint64(stop - start) << _ROW_BITS | np.uint64(word + 1)


@njit
def find_word(table: WordTable, data: Array, start: int, stop: int) -> int:
    """Row of the word data[start:stop], which holds no ASCII white space; -1 where it is not there."""
    head, hashed = key_of(data, start, stop)
    return _find(table, data, start, stop, head, hashed)


@njit
def encode_texts(data: Array, stops: Array, table: WordTable, unknown: int, marks: Array, out: Array, ends: Array) -> int:
    """Tokens of the words of some texts, what ASCII white space separates; returns where the first word begins that is not in the table, else -1.

    data (N,) uint8: the texts one after the other; stops (D,) int64: where each ends.  marks: empty, or the two tokens before and after each line that
    has words.  out (≥ 3/2 (N + D),): the tokens; ends (D,) int64: where those of each text end."""
    place, count, missing = 0, 0, -1
    for text in range(len(stops)):
        within, stop = False, stops[text]
        while place < stop:
            letter = data[place]
            if letter == _SPACE or _TAB <= letter <= _RETURN:
                if letter == _NEWLINE and within and len(marks):
                    out[count], count, within = marks[1], count + 1, False
                place += 1
                continue
            if not within and len(marks):
                out[count], count, within = marks[0], count + 1, True
            begin = place
            while place < stop and (data[place] > _SPACE or not (data[place] == _SPACE or _TAB <= data[place] <= _RETURN)):
                place += 1
            head, hashed = key_of(data, begin, place)
            row = _find(table, data, begin, place, head, hashed)
            if row < 0 and missing < 0:
                missing = begin
            out[count], count = (table.ids[row] if row >= 0 else unknown), count + 1
        if within and len(marks):
            out[count], count = marks[1], count + 1
        ends[text] = count
    return missing
