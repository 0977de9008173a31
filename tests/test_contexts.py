"""Histories stop at BOS; keys sort n-grams from the target leftwards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram import contexts
from ngram.errors import SeedgramError
from tests.kn_oracle import PAD, history_of

BOS = 1


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 8))
def test_a_history_begins_at_the_nearest_bos_and_never_reaches_past_it(tokens, order):
    positions = np.arange(len(tokens) + 1)
    found = contexts.histories(np.array(tokens, np.uint16), positions, order, BOS)
    for t in positions:
        expected = history_of(tokens, t, order, BOS)
        assert tuple(found[t]) == (PAD,) * (order - 1 - len(expected)) + expected


@given(st.lists(st.lists(st.integers(0, 65535), min_size=7, max_size=7), min_size=2, max_size=20))
def test_keys_sort_as_reversed_n_grams_do_and_unpack_to_them(ngrams):
    hi, lo = contexts.pack_keys(ngrams)
    assert contexts.unpack_keys(hi, lo, 7).tolist() == ngrams
    by_key = sorted(range(len(ngrams)), key=lambda i: (int(hi[i]), int(lo[i]), i))
    assert by_key == sorted(range(len(ngrams)), key=lambda i: (ngrams[i][::-1], i))


def test_a_mask_keeps_the_tokens_nearest_to_the_target():
    hi, lo = contexts.pack_keys([[10, 11, 12, 13, 14, 15, 16, 17]])
    for n in range(1, 9):
        mask_hi, mask_lo = contexts.slot_mask(n)
        expected = contexts.pack_keys([[10 + k for k in range(8 - n, 8)]])
        assert (hi & mask_hi, lo & mask_lo) == expected


@pytest.mark.parametrize("order", [0, 9, -1])
def test_an_order_outside_1_to_8_is_refused(order):
    with pytest.raises(SeedgramError, match="1…8"):
        contexts.check_orders(order)
