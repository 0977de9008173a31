"""A 63-bit hash of token contexts, for models that a collision can only make less accurate.

No file depends on it, and no count found by it is taken for a probability: whatever is found, every distribution still sums to 1.
"""

import numpy as np
from numba import config

from ngram.compiled import njit

_WORD = int if config.DISABLE_JIT else np.uint64  # plain integers: NumPy's would warn about the overflow that is wanted here
_FACTOR = _WORD(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)
_MASK63, _MASK64, _FOLD, _DROP = map(_WORD, ((1 << 63) - 1, (1 << 64) - 1, 29, 20))


@njit
def mix_hash(h: int, x: int) -> int:
    """Hash h with one more value in it: 0 … 2^63-1."""
    mixed = (_WORD(h) ^ _WORD(x)) * _FACTOR & _MASK64
    return np.int64((mixed ^ (mixed >> _FOLD)) & _MASK63)


@njit
def index_slot(h: int, slots: int) -> int:
    """Slot where the search for a hash begins, in a table of `slots`, a power of two."""
    return np.int64((_WORD(h) * _FACTOR & _MASK64) >> _DROP) & (slots - 1)
