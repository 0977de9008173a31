"""splitmix64: 64 random bits as a function of two integers, the same on every machine.  Steele, Lea & Flood (2014).

Word `index` of the stream of `seed` is computed from these two numbers alone: shuffles and random matrices need no library's generator.
"""

from typing import Any

import numpy as np

from ngram.arrays import U64

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, made odd
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


def mix64(z: Any) -> Any:
    """The finaliser of splitmix64: a bijection of 64-bit integers whose every output bit depends on every input bit.

    z: uint64, an array or a scalar, also in kernels.  Multiplication wraps modulo 2^64."""
    z = (z ^ (z >> _SHIFTS[0])) * _FACTORS[0]
    z = (z ^ (z >> _SHIFTS[1])) * _FACTORS[1]
    return z ^ (z >> _SHIFTS[2])


def splitmix64(seed: int, index: U64) -> U64:
    """64 random bits for each index: uint64, same shape."""
    return mix64((index + np.uint64(1)) * GAMMA + np.uint64(seed % 2**64))
