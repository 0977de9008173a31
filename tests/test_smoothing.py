"""The distribution is Kneser–Ney's, computed from dictionaries, and sums to one whatever was left out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram import smoothing
from tests.kn_oracle import PAD, adjusted_counts, discounts_of, distribution, history_of, raw_counts
from tests.test_counts import BOS, EXAMPLES, adjusted_of, count, ngrams_of, streams


@given(streams(), st.integers(1, 7), st.data())
@EXAMPLES
def test_rows_are_those_of_brute_force_kneser_ney(stream, order, data):
    vocab, tokens = stream
    table = count(vocab, tokens, order).table()
    adjusted = adjusted_counts(*raw_counts(tokens, order, BOS), order, BOS)
    discounts = discounts_of(adjusted, order)
    history = history_of(tokens, data.draw(st.integers(0, len(tokens))), order, BOS)
    expected = distribution(adjusted, {}, discounts, history, vocab, order)
    np.testing.assert_allclose(smoothing.row(table, history), expected, rtol=1e-12)


@given(streams(), st.integers(2, 7), st.integers(1, 4), st.data())
@EXAMPLES
def test_a_pruned_table_still_gives_rows_that_sum_to_one(stream, order, least, data):
    vocab, tokens = stream
    table = count(vocab, tokens, order).table([1] + [least] * (order - 1))
    history = history_of(tokens, data.draw(st.integers(0, len(tokens))), order, BOS)
    row = smoothing.row(table, history)
    assert abs(row.sum() - 1) <= 1e-12
    grams = [{(): 0}, *ngrams_of(table)]
    pruned = {g: int(table.pruned[n][i]) for n in range(order) for g, i in grams[n].items()}
    expected = distribution(adjusted_of(table), pruned, table.discounts.tolist(), history, vocab, order)
    np.testing.assert_allclose(row, expected, rtol=1e-12)


def test_discounts_are_chen_and_goodmans():
    n1, n2, n3, n4 = 1000, 400, 200, 120
    y = n1 / (n1 + 2 * n2)
    expected = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    np.testing.assert_allclose(smoothing.estimate_discounts([[n1, n2, n3, n4]]), [expected])


@pytest.mark.parametrize("counts", [(0, 5, 5, 5), (5, 0, 5, 5), (5, 5, 0, 5), (10, 1, 10, 1), (0, 0, 0, 0)])
def test_discounts_that_cannot_be_estimated_fall_back(counts):
    assert tuple(smoothing.estimate_discounts(counts)[0]) == smoothing.FALLBACK_DISCOUNTS


def test_what_lies_before_a_bos_or_is_padding_does_not_matter():
    table = count(6, [1, 2, 3, 4, 1, 2, 3, 5, 1, 2], 4).table()
    plain = smoothing.row(table, [1, 2])
    assert np.array_equal(plain, smoothing.row(table, [3, 1, 2]))
    assert np.array_equal(plain, smoothing.row(table, [PAD, 1, 2]))
    assert smoothing.target_probability(table, [1, 2], 3) == plain[3]
