"""splitmix64: the published numbers, the same from arrays, scalars and kernels."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ngram.compiled import njit
from ngram.splitmix import mix64, splitmix64

PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]  # of seed 1234567


def test_the_stream_is_the_published_one() -> None:
    assert splitmix64(1234567, np.arange(5, dtype=np.uint64)).tolist() == PUBLISHED


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_word_is_that_of_plain_integers_whatever_seed_and_index(seed: int, index: int) -> None:
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    assert int(splitmix64(seed, np.array([index], dtype=np.uint64))[0]) == z ^ (z >> 31)


def test_a_kernel_mixes_as_an_array_does_and_leaves_its_input() -> None:
    values = np.arange(100, dtype=np.uint64) ** np.uint64(9)
    before, compiled = values.copy(), njit(mix64)
    with np.errstate(over="ignore"):
        assert [int(compiled(v)) for v in values] == mix64(values).tolist()
    assert (values == before).all()
