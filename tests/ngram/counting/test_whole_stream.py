"""A stream that is sorted as a whole gives the run that is counted row by row, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram.counting.counter import NgramCache
from ngram.counting.whole_stream import fits, run_of_stream
from ngram.errors import SeedgramError
from tests.support.counting import BOS, EXAMPLES, count, same_run, streams
from tests.support.kn_oracle import PAD

pytestmark = pytest.mark.kernels
WHOLE = "ngram.counting.counter.WHOLE_TOKENS"


@given(streams(), st.integers(2, 8), st.integers(1, 3))
@EXAMPLES
def test_a_stream_sorted_as_a_whole_has_the_run_of_its_rows(stream, order, threads):
    vocab, tokens = stream
    rows = count(vocab, tokens, order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WHOLE, order)
        patch.setattr("ngram.counting.whole_stream.COUNT", threads)
        whole = count(vocab, tokens, order)
        assert same_run(whole.run(), rows.run())
        assert whole.positions == rows.positions
        for cache in (whole, rows):  # beside what was counted before
            cache.count_stream(np.array(tokens[::-1], np.uint16))
        assert same_run(whole.run(), rows.run())


def test_a_stream_that_holds_no_token_in_places_is_counted_row_by_row(monkeypatch):
    tokens = [BOS, 5, 6, PAD, 5, 6, 7, PAD, PAD, BOS, 5, 6]
    rows = count(9, tokens, 3).run()
    monkeypatch.setattr(WHOLE, 3)
    assert same_run(count(9, tokens, 3).run(), rows)


@pytest.mark.compiled
@pytest.mark.parametrize("threads", [1, 3])
def test_counts_past_16_bits_are_exact_in_a_whole_stream(threads, monkeypatch):
    tokens = np.random.default_rng(1).choice(np.array([0, 2], np.uint16), 900_000, p=[0.7, 0.3])
    rows = count(3, tokens, 4, buffer_positions=1 << 15).run()
    monkeypatch.setattr(WHOLE, 4)
    monkeypatch.setattr("ngram.counting.whole_stream.COUNT", threads)
    whole = count(3, tokens, 4).run()
    assert len(whole.overflow_index) == 5  # 0 0 0 0, and with one 2 somewhere
    assert same_run(whole, rows)


def test_what_does_not_fit_one_number_is_said():
    assert fits(1024, 7)
    assert fits(65535, 5)
    assert not fits(1025, 7)
    assert not fits(65536, 2)  # keys of such vocabularies have other slots
    assert not fits(1024, 1)


def test_a_token_outside_the_vocabulary_is_refused(monkeypatch):
    monkeypatch.setattr(WHOLE, 3)
    with pytest.raises(SeedgramError, match="token 9 is outside the vocabulary of 9"):
        NgramCache(9, 3, BOS).count_stream([1, 2, 3, 4, 9, 2])
    assert len(run_of_stream(np.array([1, 2, 3], np.uint16), 9, 3, BOS, 2)) == 1
