"""Keys sort n-grams from the target leftwards."""

from hypothesis import given
from hypothesis import strategies as st

from ngram.counting import keys
from ngram.counting.unpack_keys import unpack_keys
from tests.support.keys import pack_keys


@given(st.lists(st.lists(st.integers(0, 65535), min_size=7, max_size=7), min_size=2, max_size=20))
def test_keys_sort_as_reversed_n_grams_do_and_unpack_to_them(ngrams):
    hi, lo = pack_keys(ngrams)
    assert unpack_keys(hi, lo, 7).tolist() == ngrams
    by_key = sorted(range(len(ngrams)), key=lambda i: (int(hi[i]), int(lo[i]), i))
    assert by_key == sorted(range(len(ngrams)), key=lambda i: (ngrams[i][::-1], i))


def test_a_mask_keeps_the_tokens_nearest_to_the_target():
    hi, lo = pack_keys([[10, 11, 12, 13, 14, 15, 16, 17]])
    for n in range(1, 9):
        mask_hi, mask_lo = keys.slot_mask(n)
        expected = pack_keys([[10 + k for k in range(8 - n, 8)]])
        assert (hi & mask_hi, lo & mask_lo) == expected
