"""Entropy-coded streams: what the coder is told about each symbol.  The coding itself is constriction's range coder.

One class serves both directions (`Coder`): every function takes the true symbols when writing and None when reading, and returns the
symbols either way, so writer and reader cannot drift apart.  Probabilities come from integers and IEEE sums, products and quotients only,
never from a math library's log or exp: the same bits on every machine.
"""

import math
from functools import partial
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from ngram.arrays import F64, I32, I64, U32, U32_MAX
from ngram.errors import FileFormatError

_LOG_MANTISSA = np.array([((256 + i) ** 16).bit_length() - 129 for i in range(256)], np.int32)
_FIRST_BLOCK = 16  # symbols coded before a class's own frequencies are looked at for the first time
_PRIOR_WEIGHT = 16.0  # symbols that the neighbouring classes' frequencies count for
_UNIFORM_SHARE = 0.02  # of the prior, so that no symbol becomes too expensive
_ESCAPE = 255
_DIRECT_BITS = 16
_categorical = partial(constriction.stream.model.Categorical, perfect=False)


def altered(problem: str) -> FileFormatError:
    return FileFormatError(f"n-gram data: {problem}; the file was altered or cut, make it again")


class Coder:
    """A range coder that reads `words`, or without them notes what is to be written: parts of a stream are prepared on several threads."""

    def __init__(self, words: U32 | None = None) -> None:
        self._reader: Any = None if words is None else constriction.stream.queue.RangeDecoder(words)
        self._noted: list[tuple[Any, I32]] = []

    def code(self, model: Any, count: int, symbols: I32 | None) -> I32:
        """Codes `count` symbols with one model: int32 (count,).  Raises FileFormatError on impossible data."""
        if count == 0:
            return np.empty(0, np.int32)
        if self._reader is None:
            assert symbols is not None
            self._noted.append((model, symbols))
            return symbols
        try:
            return self._reader.decode(model, count)
        except AssertionError:
            raise altered("impossible code words") from None

    def words(self, *others: "Coder") -> U32:
        """All that this coder has noted, then the others, as code words."""
        writer = constriction.stream.queue.RangeEncoder()
        for coder in (self, *others):
            for model, symbols in coder._noted:
                writer.encode(np.ascontiguousarray(symbols, np.int32), model)
        return writer.get_compressed()


def log16(values: npt.NDArray[Any]) -> I32:
    """0 for 0, else 16 + floor(16·log2(value)) (of the 9 leading bits): integers only, so equal on every machine."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    return np.where(values > 0, exponent * 16 + _LOG_MANTISSA[np.maximum((mantissa * 512).astype(np.int64) - 256, 0)], 0).astype(np.int32)


def level_values(fineness: int) -> I64:
    """The log scale of counts: 0, 1, 2, …, then in steps of √value/fineness, or of value/16 where that is more, up to 2^32 - 1."""
    values = [0]
    while (value := values[-1]) < U32_MAX:
        values.append(min(value + max(1, math.isqrt(value // fineness**2), value >> 4), U32_MAX))
    return np.array(values, np.int64)


def nearest_level(values: npt.NDArray[Any], levels: I64) -> I32:
    """Index of the nearest level, the lower one of two."""
    return np.searchsorted((levels[:-1] + levels[1:]) // 2, values).astype(np.int32)


def code_classed(coder: Coder, rows: npt.NDArray[Any], columns: npt.NDArray[Any], alphabet: int, symbols: I32 | None) -> I32:
    """Codes symbols 0…alphabet-1 whose distribution depends on a class (row, column): nothing but the symbols is stored.

    rows, columns: (n,) class of each symbol, known to the reader.  Classes go one after the other, in blocks that
    double; a block's model is what the class has shown so far, on a prior from the two neighbouring classes
    (prequential coding, Dawid 1984).  Returns int32 (n,)."""
    out = np.empty(len(rows), np.int32) if symbols is None else symbols
    if alphabet <= 1 or len(rows) == 0:
        out[:] = 0
        return out
    width = int(columns.max(initial=0)) + 1
    keys = rows.astype(np.int64) * width + columns
    tally = np.bincount(keys)
    present = np.flatnonzero(tally)
    order = np.argsort(keys.astype(np.uint16) if len(tally) <= 1 << 16 else keys, kind="stable")  # 16 bits: sorted by radix
    uniform = np.full(alphabet, 1 / alphabet)
    above: dict[int, F64] = {}
    left, last_row = uniform, -1
    for key, index in zip(present.tolist(), np.split(order, np.cumsum(tally[present])[:-1]), strict=True):
        row, column = divmod(key, width)
        near = above.get(column, left)
        prior = near if row != last_row else (left + near) * 0.5
        prior = prior * (1 - _UNIFORM_SHARE) + uniform * _UNIFORM_SHARE
        decoded, left = _code_class(coder, prior, len(index), None if symbols is None else symbols[index])
        if symbols is None:
            out[index] = decoded
        above[column], last_row = left, row
    return out


def _code_class(coder: Coder, prior: F64, count: int, symbols: I32 | None) -> tuple[I32, F64]:
    weights = prior * _PRIOR_WEIGHT
    parts, done = [], 0
    while done < count:
        size = min(max(done, _FIRST_BLOCK), count - done)
        part = coder.code(_categorical(weights / weights.sum()), size, None if symbols is None else symbols[done : done + size])
        weights = weights + np.bincount(part, minlength=len(weights))
        parts.append(part)
        done += size
    return np.concatenate(parts), weights / weights.sum()


def code_numbers(coder: Coder, classes: I32, numbers: I64 | None) -> I64:
    """Codes integers 0…2^48 as bit lengths (given a class of 0…63 each) and plain lower bits.  Returns int64 (n,)."""
    lengths = None if numbers is None else np.frexp(numbers.astype(np.float64))[1]
    lengths = code_classed(coder, np.zeros_like(classes), classes, 49, lengths)
    out = np.ldexp(0.5, lengths).astype(np.int64)  # 2^(length - 1), and 0 for a length of 0
    for low in range(0, 48, _DIRECT_BITS):
        bits = np.clip(lengths - 1 - low, 0, _DIRECT_BITS)
        for width in range(1, _DIRECT_BITS + 1):
            index = np.flatnonzero(bits == width)
            out[index] |= _code_bits(coder, low, width, len(index), None if numbers is None else numbers[index])
    return out


def _code_bits(coder: Coder, low: int, width: int, count: int, numbers: I64 | None) -> I64:
    """Codes `width` bits of each number, from bit `low` on, as they are; returned in their place."""
    bits = None if numbers is None else ((numbers >> low) & ((1 << width) - 1)).astype(np.int32)
    return coder.code(constriction.stream.model.Uniform(1 << width), count, bits).astype(np.int64) << low


def code_positions(coder: Coder, size: int, count: int, positions: I64 | None) -> I64:
    """Codes `count` ascending positions below `size`, 0 < count ≤ size/2, as geometric gaps.  Returns int64 (count,).

    A gap's low bits are all but uniform and coded as such; the rest is a truncated geometric symbol with an escape.
    Raises FileFormatError where the positions would pass the end."""
    shift = max(0, (size // count).bit_length() - 6)
    stay = 1.0 - count / size
    for _ in range(shift):
        stay *= stay
    probabilities = -np.diff(np.multiply.accumulate(np.append(1.0, np.full(_ESCAPE, stay))), append=0)
    gaps = None if positions is None else np.diff(positions, prepend=-1) - 1
    out = np.zeros(count, np.int64)
    open_ = np.arange(count)
    while len(open_):
        part = None if gaps is None else np.minimum((gaps[open_] - out[open_]) >> shift, _ESCAPE).astype(np.int32)
        part = coder.code(_categorical(probabilities), len(open_), part)
        out[open_] += part.astype(np.int64) << shift
        if int(out.sum()) + count > size:
            raise altered("a gap reaches past the end")
        open_ = open_[part == _ESCAPE]
    for low in range(0, shift, _DIRECT_BITS):
        out |= _code_bits(coder, low, min(_DIRECT_BITS, shift - low), count, gaps)
    out = np.cumsum(out + 1) - 1
    if out[-1] >= size:
        raise altered("a gap reaches past the end")
    return out
