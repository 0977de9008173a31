"""The plain part of a coded table, and the bounds that a reader checks before it allocates anything.

2 bytes   format version (little-endian, as all)       1 byte    order        1 byte    fineness of the count scale
2 bytes   vocabulary size      2 bytes   BOS           8 bytes   pruned mass of the empty context
24·order  discounts, float64   4·order   n-grams of each order                4·order   symbols of counts, of totals: uint16 each
the rest  range-coded words, uint32
"""

import struct
from dataclasses import dataclass

import numpy as np

from ngram.code_models import level_values
from ngram.errors import FileFormatError
from ngram.table import F64, MAX_ORDER, PAD, U32

VERSION = 1
MAX_FINENESS = 4
_HEAD = struct.Struct("<HBBHHQ")
# No table is denser than this: what a reader allocates is bounded by what it was given.  A whole corpus takes 2.2 bits an n-gram.
_GRAMS_A_BYTE = 8
_SPARE_GRAMS = 1 << 18  # texts of a few repeated words cost next to nothing


@dataclass(frozen=True)
class Head:
    """sizes: n-grams of each order; alphabets: (levels of counts, levels of totals + 1) in use, an order each."""

    fineness: int
    vocab_size: int
    bos: int
    pruned: int
    discounts: F64
    sizes: list[int]
    alphabets: list[tuple[int, int]]


def pack_head(head: Head) -> bytes:
    """The header's bytes."""
    start = _HEAD.pack(VERSION, len(head.sizes), head.fineness, head.vocab_size, head.bos, head.pruned)
    columns = np.array(head.sizes, "<u4").tobytes() + np.array(head.alphabets, "<u2").tobytes()
    return start + head.discounts.astype("<f8").tobytes() + columns


def pad(data: bytes, ngrams: int) -> bytes:
    """Lengthens absurdly dense data until a reader will believe that it holds so many n-grams."""
    missing = max(0, ngrams - _SPARE_GRAMS - _GRAMS_A_BYTE * len(data))
    return data + bytes(-(-missing // (4 * _GRAMS_A_BYTE)) * 4)


def read_head(data: bytes) -> tuple[Head, U32]:
    """Header and code words.  Raises FileFormatError where a field is impossible or promises more than the data can hold."""
    problem = "n-gram data: {}; the file was altered or cut, make it again"
    if len(data) < _HEAD.size:
        raise FileFormatError(problem.format("shorter than its header"))
    version, order, fineness, vocab_size, bos, pruned = _HEAD.unpack_from(data)
    if version != VERSION:
        raise FileFormatError(f"n-gram data: format version {version}, this program reads {VERSION}; make the file again")
    body = _HEAD.size + 32 * order
    if not (1 <= order <= MAX_ORDER and 1 <= fineness <= MAX_FINENESS and 1 <= vocab_size <= PAD and bos < vocab_size and pruned < 2**32):
        raise FileFormatError(problem.format("impossible header"))
    if len(data) < body or (len(data) - body) % 4:
        raise FileFormatError(problem.format(f"{len(data)} bytes"))
    discounts = np.frombuffer(data, "<f8", 3 * order, _HEAD.size).reshape(order, 3).astype(np.float64)
    # D1 ≤ 1, D2 ≤ 2, D3+ ≤ 3 as in Chen & Goodman: a count never falls below 0, so rows stay distributions.
    if not ((discounts >= 0) & (discounts <= [1, 2, 3])).all():
        raise FileFormatError(problem.format("impossible discounts"))
    sizes = np.frombuffer(data, "<u4", order, _HEAD.size + 24 * order).tolist()
    alphabets = np.frombuffer(data, "<u2", 2 * order, _HEAD.size + 28 * order).reshape(order, 2).tolist()
    limit = len(level_values(fineness))
    if any(a > limit - (n > 0) or b > limit + 1 for n, (a, b) in enumerate(alphabets)):
        raise FileFormatError(problem.format("impossible counts"))
    if sizes[0] != vocab_size or sum(sizes) > vocab_size + _SPARE_GRAMS + _GRAMS_A_BYTE * len(data):
        raise FileFormatError(problem.format("impossible sizes"))
    words = np.frombuffer(data, "<u4", -1, body).astype(np.uint32)
    return Head(fineness, vocab_size, bos, pruned, discounts, sizes, [(a, b) for a, b in alphabets]), words
