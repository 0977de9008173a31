"""The header of a coded table (docs/formats.md), and the bounds that a reader checks before it allocates anything."""

import struct
from dataclasses import dataclass

import numpy as np

from ngram.arrays import F64, NARROW, U32
from ngram.errors import FileFormatError
from ngram.storing.symbols import altered, level_values
from ngram.table import MAX_ORDER, MAX_VOCAB

VERSION, WIDE_VERSION = 1, 2
MAX_FINENESS = 4
_HEAD, _WIDE_HEAD = struct.Struct("<HBBHHQ"), struct.Struct("<HBBIIQ")
# No table is denser, so the data's size bounds what a reader allocates.  A whole corpus takes 2.2 bits an n-gram.
_GRAMS_A_BYTE = 8
_SPARE_GRAMS = 1 << 18  # allowed beyond that: the n-grams of a few words repeated over and over take almost no bytes


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
    version, layout = (VERSION, _HEAD) if head.vocab_size <= NARROW else (WIDE_VERSION, _WIDE_HEAD)
    start = layout.pack(version, len(head.sizes), head.fineness, head.vocab_size, head.bos, head.pruned)
    columns = np.array(head.sizes, "<u4").tobytes() + np.array(head.alphabets, "<u2").tobytes()
    return start + head.discounts.astype("<f8").tobytes() + columns


def pad(data: bytes, ngrams: int) -> bytes:
    """Lengthens very dense data by zeros until `read_head` accepts that it holds so many n-grams."""
    missing = max(0, ngrams - _SPARE_GRAMS - _GRAMS_A_BYTE * len(data))
    return data + bytes(-(-missing // (4 * _GRAMS_A_BYTE)) * 4)


def read_head(data: bytes) -> tuple[Head, U32]:
    """Header and code words.  Raises FileFormatError where a field is impossible or promises more than the data can hold."""
    layout = _WIDE_HEAD if data[:2] == WIDE_VERSION.to_bytes(2, "little") else _HEAD
    if len(data) < layout.size:
        raise altered("shorter than its header")
    version, order, fineness, vocab_size, bos, pruned = layout.unpack_from(data)
    if version not in (VERSION, WIDE_VERSION):
        raise FileFormatError(f"n-gram data: format version {version}, this program reads {VERSION} and {WIDE_VERSION}; make the file again")
    body, least, most = layout.size + 32 * order, *((1, NARROW) if version == VERSION else (NARROW + 1, MAX_VOCAB))
    if not (1 <= order <= MAX_ORDER and 1 <= fineness <= MAX_FINENESS and least <= vocab_size <= most and bos < vocab_size and pruned < 2**32):
        raise altered("impossible header")
    if len(data) < body or (len(data) - body) % 4:
        raise altered(f"{len(data)} bytes")
    discounts = np.frombuffer(data, "<f8", 3 * order, layout.size).reshape(order, 3).astype(np.float64)
    # D1 ≤ 1, D2 ≤ 2, D3+ ≤ 3 as in Chen & Goodman: a count never falls below 0, so rows stay distributions.
    if not ((discounts >= 0) & (discounts <= [1, 2, 3])).all():
        raise altered("impossible discounts")
    sizes = np.frombuffer(data, "<u4", order, layout.size + 24 * order).tolist()
    alphabets = np.frombuffer(data, "<u2", 2 * order, layout.size + 28 * order).reshape(order, 2).tolist()
    limit = len(level_values(fineness))
    if any(a > limit - (n > 0) or b > limit + 1 for n, (a, b) in enumerate(alphabets)):
        raise altered("impossible counts")
    if sizes[0] != vocab_size or sum(sizes) > vocab_size + _SPARE_GRAMS + _GRAMS_A_BYTE * len(data):
        raise altered("impossible sizes")
    words = np.frombuffer(data, "<u4", -1, body).astype(np.uint32)
    return Head(fineness, vocab_size, bos, pruned, discounts, sizes, [(a, b) for a, b in alphabets]), words
