"""A 63-bit hash of token contexts, for models that a collision can only make less accurate.

No file depends on it, and no count found by it is taken for a probability: whatever is found, every distribution still sums to 1.
"""

import numpy as np
from numba import config

from ngram.compiled import njit

_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)
_MASK63 = (1 << 63) - 1

if config.DISABLE_JIT:  # plain integers: NumPy's would warn about the overflow that is wanted here

    def mix_hash(h: int, x: int) -> int:
        h = ((int(h) ^ int(x)) * _MULTIPLIER) & ((1 << 64) - 1)
        return (h ^ (h >> 29)) & _MASK63

    def index_slot(h: int, slots: int) -> int:
        return ((int(h) * _MULTIPLIER & ((1 << 64) - 1)) >> 20) & (slots - 1)

else:
    _FACTOR, _FOLD, _KEEP, _DROP = np.uint64(_MULTIPLIER), np.uint64(29), np.uint64(_MASK63), np.uint64(20)

    @njit
    def mix_hash(h: int, x: int) -> int:
        """Hash h with one more value in it: 0 … 2^63-1."""
        mixed = (np.uint64(h) ^ np.uint64(x)) * _FACTOR
        return np.int64((mixed ^ (mixed >> _FOLD)) & _KEEP)

    @njit
    def index_slot(h: int, slots: int) -> int:
        """Slot where the search for a hash begins, in a table of `slots`, a power of two."""
        return np.int64((np.uint64(h) * _FACTOR) >> _DROP) & (slots - 1)
