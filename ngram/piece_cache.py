"""A tokenizer's pieces for stretches of text that come again and again: found by their bytes, so that most of a text is never tokenized anew.

Most words of a text were seen before.  Where no piece of a byte-pair tokenizer has a space behind another character, no merge ever crosses the
boundary before a run of spaces, so that each stretch between two such boundaries has the same pieces wherever it stands; likewise around line
ends where no longer piece holds one.  `PieceCache.fits` holds a model against that rule.  Other models are tokenized without this: unigram ones,
which choose by sums of float32 over the whole text, those with spaces inside pieces, and those without byte pieces.  What the tokenizer gives for a
new stretch is decoded and compared.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from ngram.arrays import I64, Array, Tokens, token_type
from ngram.compiled import njit
from ngram.pieces import SPACE, Pieces
from ngram.probing import home
from ngram.word_table import HEAD, key_of

ROWS = 1 << 19  # stretches that are kept; when they are full, all are dropped
_SPACE, _NEWLINE = b" \n"
_ROW_BITS, _ROW = np.uint64(32), np.uint64((1 << 32) - 1)
BPE = 2  # of TrainerSpec.model_type in sentencepiece_model.proto


class Kept(NamedTuple):
    """letters (B,) uint8: all stretches one after the other; begin (ROWS + 1,) int64: where each begins; places (2 ROWS, 2) uint64: a stretch's first 8
    bytes, and its length << 32 | its row + 1, 0 for none; count (1,) int64: rows that are filled."""

    letters: Array
    begin: Array
    places: Array
    count: Array


@njit(forceinline=True)
def _row_of(kept: Kept, data: Array, start: int, stop: int) -> int:
    """Row of the stretch data[start:stop], a new one where it is not there, or -1 where there is no room."""
    places, letters, size = kept.places, kept.letters, np.uint64(stop - start)
    head, hashed = key_of(data, start, stop)
    at = home(hashed, len(places))
    while places[at, 1] != np.uint64(0):
        if places[at, 0] == head and places[at, 1] >> _ROW_BITS == size:
            row = np.int64(places[at, 1] & _ROW) - 1
            begin, same = kept.begin[row] - start, True
            for i in range(start + HEAD, stop):
                if letters[begin + i] != data[i]:
                    same = False
                    break
            if same:
                return row
        at = at + 1 if at + 1 < len(places) else 0
    row = kept.count[0]
    if row + 1 == len(kept.begin):
        return -1
    places[at, 0], places[at, 1] = head, size << _ROW_BITS | np.uint64(row + 1)
    begin = kept.begin[row]
    for i in range(start, stop):
        letters[begin + i - start] = data[i]
    kept.begin[row + 1], kept.count[0] = begin + stop - start, row + 1
    return row


@njit
def find_rows(kept: Kept, data: Array, stops: Array, at_lines: bool, rows: Array, ends: Array) -> bool:
    """The row of each stretch of some texts → rows (≥ N,) int32, where those of each text end → ends (D,) int64; False where there is no room for more.

    data (N,) uint8: the texts one after the other; stops (D,) int64: where each ends.  at_lines: whether a line end is a stretch of its own, else it is
    a character like others.  kept.letters has room for N bytes more."""
    place, count = 0, 0
    for text in range(len(stops)):
        stop = stops[text]
        while place < stop:
            begin = place
            while place < stop and data[place] == _SPACE:
                place += 1
            if at_lines and place == begin and data[place] == _NEWLINE:
                place += 1
            else:
                while place < stop and data[place] != _SPACE and not (at_lines and data[place] == _NEWLINE):
                    place += 1
            row = _row_of(kept, data, begin, place)
            if row < 0:
                return False
            rows[count], count = row, count + 1
        ends[text] = count
    return True


@njit
def put_together(rows: Array, ends: Array, begin: Array, tokens: Array, bos: int, out: Array, out_ends: Array) -> None:
    """`bos` and the tokens of the rows of each text, which end at `ends` (D,) → out, and where they end → out_ends (D,).

    begin (M + 1,) int64: where the tokens of each row begin."""
    count, at = 0, 0
    for text in range(len(ends)):
        out[count], count = bos, count + 1
        while at < ends[text]:
            for i in range(begin[rows[at]], begin[rows[at] + 1]):
                out[count], count = tokens[i], count + 1
            at += 1
        out_ends[text] = count


class PieceCache:
    """What a tokenizer has given for stretches of texts.

    pieces: a vocabulary that `fits`.  tokenize: its encoding, as SentencePiece's `encode`.  segments: the parts in which the tokenizer takes a text."""

    def __init__(self, pieces: Pieces, tokenize: Callable[..., list[list[int]]], segments: Callable[[str], Iterator[str]]) -> None:
        self._pieces, self._tokenize, self._segments = pieces, tokenize, segments
        self._at_lines = not any(len(piece) > 1 and b"\n" in piece for piece in pieces.piece_bytes)
        self._lengths = np.array([len(piece) for piece in pieces.piece_bytes])
        self._drop()

    @staticmethod
    def fits(pieces: Pieces) -> bool:
        """Whether stretches of a text have the same pieces wherever they stand; see the module."""
        if pieces.sp is None or not pieces.has_space or not pieces.has_all_bytes or model_type(pieces.model) != BPE:
            return False
        texts = (pieces.sp.id_to_piece(token).replace(SPACE, " ") for token in range(pieces.vocab_size))
        return not any(" " in text.lstrip(" ") for text in texts)

    def _drop(self) -> None:
        begin = np.zeros(ROWS + 1, np.int64)
        self._kept = Kept(np.empty(1 << 20, np.uint8), begin, np.zeros((2 * ROWS, 2), np.uint64), np.zeros(1, np.int64))
        self._begin, self._tokens = np.zeros(ROWS + 1, np.int64), np.empty(1 << 20, token_type(self._pieces.vocab_size))

    def encode(self, texts: Sequence[str]) -> tuple[Tokens, I64] | None:
        """BOS and tokens of texts, one text after the other, and (D,) where those of each end; None where this way cannot give them."""
        if any(SPACE in text for text in texts):
            return None
        try:
            parts = [[part.encode() for part in self._segments(text)] for text in texts]
        except UnicodeEncodeError:  # half of a surrogate pair
            return None
        flat = list(chain.from_iterable(parts))
        data, rows = np.frombuffer(b"".join(flat), np.uint8), np.empty(sum(map(len, flat)), np.int32)
        stops, ends = np.cumsum([len(part) for part in flat], dtype=np.int64), np.zeros(len(flat) + 1, np.int64)
        if not self._find(data, stops, rows, ends[1:]):
            self._drop()
            if not self._find(data, stops, rows, ends[1:]):
                self._drop()
                return None
        row_ends = ends[np.cumsum([len(some) for some in parts], dtype=np.int64)]
        rows = rows[: ends[-1]]
        size = len(texts) + int((self._begin[rows + 1] - self._begin[rows]).sum())
        out, out_ends = np.empty(size, self._tokens.dtype), np.empty(len(texts), np.int64)
        put_together(rows, row_ends, self._begin, self._tokens, self._pieces.bos, out, out_ends)
        return out, out_ends

    def _find(self, data: Array, stops: I64, rows: Array, ends: I64) -> bool:
        """Rows of all stretches, those that are new with their tokens; False where there is no room or the tokens do not say the stretch."""
        before, used = int(self._kept.count[0]), int(self._kept.begin[self._kept.count[0]])
        self._kept = self._kept._replace(letters=_with_room(self._kept.letters, used, len(data)))
        if not find_rows(self._kept, data, stops, self._at_lines, rows, ends):
            return False
        begin = self._kept.begin[before : self._kept.count[0] + 1]
        new = self._kept.letters[begin[0] : begin[-1]].tobytes()
        found = self._tokenize([new[a - begin[0] : b - begin[0]].decode() for a, b in zip(begin.tolist(), begin[1:].tolist(), strict=False)], num_threads=1)
        tokens = np.fromiter(chain.from_iterable(found), self._tokens.dtype)
        token_ends = np.cumsum([0, *map(len, found)])
        sizes = np.concatenate([[0], np.cumsum(self._lengths[tokens])])[token_ends]
        if not np.array_equal(sizes, begin - begin[0]) or self._pieces.decode_bytes(tokens.tolist()) != new:
            return False
        place = int(self._begin[before])
        self._tokens = _with_room(self._tokens, place, len(tokens))
        self._tokens[place : place + len(tokens)] = tokens
        self._begin[before : before + len(token_ends)] = place + token_ends
        return True


def _with_room(array: Array, used: int, more: int) -> Array:
    """The array, or a longer one that begins with its first `used` values, with room for `more`."""
    if used + more <= len(array):
        return array
    longer = np.empty(2 * (used + more), array.dtype)
    longer[:used] = array[:used]
    return longer


def model_type(model: bytes) -> int:
    """What kind a SentencePiece model says it is: 1 unigram, 2 BPE, 3 words, 4 characters.

    Field 2 of the file is its trainer's settings, field 3 of these the kind."""
    found = 1
    for number, settings in _fields(model):
        if number == 2 and isinstance(settings, bytes):
            found = next((value for place, value in _fields(settings) if place == 3 and isinstance(value, int)), found)
    return found


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of the fields of a protocol buffer: whole numbers, and bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: Any = b""
        if tag & 7 == 0:
            value, at = _varint(message, at)
        else:
            size, at = (8, at) if tag & 7 == 1 else (4, at) if tag & 7 == 5 else _varint(message, at)
            value, at = message[at : at + size], at + size
        yield tag >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """(number, where it ends): seven bits a byte, lowest first."""
    value = shift = 0
    while at < len(message):
        value, at, shift = value | (message[at] & 127) << shift, at + 1, shift + 7
        if message[at - 1] < 128:
            break
    return value, at
