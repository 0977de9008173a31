"""Names for the types of arrays, what holds a token, and one digest of arrays for states, runs and tables.

A token is a uint16 where its vocabulary has at most 65,535 (`NARROW`), else a uint32; the type's largest value, `pad_of`, is none.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ngram.errors import SeedgramError

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Tokens = npt.NDArray[Any]  # uint16 or uint32: code that knows which, as networks do, says U16
Array = Any  # an argument of a compiled kernel: numba knows its type, the type checker does not
U32_MAX = (1 << 32) - 1
NARROW = 65535  # largest vocabulary whose tokens are uint16


def token_type(vocab_size: int) -> Any:
    return np.dtype(np.uint16 if vocab_size <= NARROW else np.uint32)


def pad_of(kind: Any) -> int:
    """"No token" among tokens of a dtype: fills a history before its beginning."""
    return int(np.iinfo(kind).max)


def as_tokens(tokens: npt.ArrayLike, vocab_size: int) -> Tokens:
    """Tokens as a contiguous array of the vocabulary's dtype.  Raises SeedgramError where one would not survive that."""
    array, kind = np.asarray(tokens), token_type(vocab_size)
    if array.dtype != kind and array.size:
        if array.dtype.kind not in "iu" or not 0 <= int(array.min()) <= int(array.max()) <= pad_of(kind):
            raise SeedgramError(f"tokens of type {array.dtype} do not fit a vocabulary of {vocab_size}; give whole numbers below it")
        if array.dtype == np.uint16 and int(array.max()) == NARROW:
            raise SeedgramError(f"65535 among 16-bit tokens can be a token or none; give uint32 for a vocabulary of {vocab_size}")
    return np.ascontiguousarray(array, kind)


def read_only(tokens: npt.ArrayLike, vocab_size: int | None = None) -> Tokens:
    """A read-only view: kernels are then compiled for one array type, whether the stream is a mapped file or lies in memory.

    vocab_size: says what type the tokens must have; without it, 32 bits stay and all else becomes 16."""
    is_wide = isinstance(tokens, np.ndarray) and tokens.dtype == np.uint32
    view = as_tokens(tokens, vocab_size or (NARROW + is_wide)).view()
    view.flags.writeable = False
    return view


def digest(*arrays: npt.NDArray[Any]) -> str:
    """xxh3_128 of the arrays' bytes, one after the other, as hex.  Shapes and dtypes are not part of it."""
    hasher = xxhash.xxh3_128()
    for array in arrays:
        hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()
