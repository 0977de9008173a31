"""The distribution is Kneser–Ney's, computed from dictionaries, and sums to one whatever was left out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram.kneser_ney import smoothed_orders
from ngram.table import suffix_rows
from tests.support.counting import BOS, EXAMPLES, adjusted_of, count, ngrams_of, pruned_of, streams
from tests.support.kn_oracle import PAD, adjusted_counts, discounts_of, distribution, history_of, raw_counts, row

pytestmark = pytest.mark.kernels


@given(streams(max_size=30), st.integers(1, 5), st.integers(1, 3))
@EXAMPLES
def test_every_n_gram_has_the_probability_that_dictionaries_give_it(stream, order, least):
    vocab, tokens = stream
    table = count(vocab, tokens, order).table([1] + [least] * (order - 1))
    dictionaries = adjusted_of(table), pruned_of(table, order), table.discounts.tolist()
    contexts = [{(): 0}, *ngrams_of(table)]
    for n, smoothed in enumerate(smoothed_orders(table, suffix_rows(table)), 1):
        for gram, at in contexts[n].items():
            expected = distribution(*dictionaries, gram[:-1], vocab, n)[gram[-1]]
            assert smoothed.prob[at] == pytest.approx(expected, rel=1e-12)
        for context, at in contexts[n - 1].items():  # a token that never followed has λ times the shorter context's probability
            never = [token for token in range(vocab) if (*context, token) not in contexts[n]][:1]
            for token in never:
                long, short = (distribution(*dictionaries, context[cut:], vocab, n - cut)[token] for cut in (0, 1 if n > 1 else 0))
                assert long == pytest.approx(smoothed.backoff[at] * (short if n > 1 else 1 / vocab), rel=1e-12)


@given(streams(), st.integers(1, 7), st.data())
@EXAMPLES
def test_a_table_of_everything_is_the_model_of_the_counted_text(stream, order, data):
    vocab, tokens = stream
    raw, left = raw_counts(tokens, order, BOS)
    adjusted = adjusted_counts(raw, left, order, BOS)
    history = history_of(tokens, data.draw(st.integers(0, len(tokens))), order, BOS)
    expected = distribution(adjusted, {}, discounts_of(adjusted, order), history, vocab, order)
    np.testing.assert_allclose(row(count(vocab, tokens, order).table(), history), expected, rtol=1e-12)


@given(streams(), st.integers(2, 7), st.integers(1, 4), st.data())
@EXAMPLES
def test_rows_of_a_pruned_table_sum_to_one(stream, order, least, data):
    vocab, tokens = stream
    table = count(vocab, tokens, order).table([1] + [least] * (order - 1))
    history = history_of(tokens, data.draw(st.integers(0, len(tokens))), order, BOS)
    assert abs(row(table, history).sum() - 1) <= 1e-12


def test_what_lies_before_a_bos_or_is_padding_does_not_matter():
    table = count(6, [1, 2, 3, 4, 1, 2, 3, 5, 1, 2], 4).table()
    plain = row(table, [1, 2])
    assert np.array_equal(plain, row(table, [3, 1, 2]))
    assert np.array_equal(plain, row(table, [PAD, 1, 2]))
