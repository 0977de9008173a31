"""The match model copies what followed the longest verified repeat, as sure as it was right before."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram.online.columns import MatchColumns
from ngram.online.match import BUCKETS, FEATURES, MIN_LENGTHS, WINDOW, MatchModel, length_bucket, rows_of
from ngram.score_first import ScoreFirst
from tests.support.kernels import examples
from tests.support.mixture_oracle import bucket, past_of

pytestmark = pytest.mark.kernels

BOS, VOCAB = 1, 6
EXAMPLES = examples(40, 10)


@st.composite
def repetitive(draw):
    """Tokens cut from few phrases, so that repeats of all lengths come up."""
    phrases = draw(st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20), min_size=1, max_size=3))
    order = draw(st.lists(st.integers(0, len(phrases) - 1), min_size=1, max_size=8))
    return np.array([BOS, *(token for i in order for token in phrases[i])], np.uint16)


def by_definition(tokens, learned, t):
    """(token, length): the newest earlier place where the last k tokens stand, k from the longest of MIN_LENGTHS down.

    A place counts when the k tokens before it may be looked at from it and have been learned; `learned` positions 1…learned-1."""
    past = past_of(tokens, t, BOS)
    for least in MIN_LENGTHS:
        if len(past) < least:
            continue
        places = [
            j for j in range(1, learned) if past_of(tokens, j, BOS)[-least:] == past[-least:] and len(past_of(tokens, j, BOS)) >= least
        ]
        if places:
            at, length = places[-1], 0
            while length < min(at - 1, len(past)) and tokens[at - 1 - length] == past[-1 - length]:
                length += 1
            if length >= least:
                return int(tokens[at]), length
    return None, 0


def oracle(tokens):
    """Probability and confidence of every target, one-token chunks."""
    tried: defaultdict[int, list[float]] = defaultdict(lambda: [1.0, 2.0])
    for t in range(1, len(tokens)):
        token, length = by_definition(tokens, t, t)
        hits, tries = tried[bucket(length)]
        sure = hits / tries if token is not None else 0.0
        yield (1 - sure) / VOCAB + (sure if token == tokens[t] else 0), np.log1p(length), sure
        if token is not None:
            tried[bucket(length)] = [hits + (token == tokens[t]), tries + 1]


@given(repetitive())
@EXAMPLES
def test_it_is_what_a_search_through_the_text_finds(tokens):
    scores = MatchModel(VOCAB, BOS).score_then_update(tokens, 1, len(tokens))
    for i, (p, length, sure) in enumerate(oracle(tokens)):
        assert scores.prob[i] == pytest.approx(p, rel=1e-12)
        np.testing.assert_allclose(scores.features[i], [length, sure], rtol=1e-6)


@given(repetitive())
@EXAMPLES
def test_rows_sum_to_one_and_hold_the_scores(tokens):
    model = MatchModel(VOCAB, BOS)
    model.update(tokens, 1, len(tokens))
    before = model.digest()
    where = np.arange(1, len(tokens))
    rows = np.stack([model.row(tokens, t) for t in where.tolist()])
    assert np.array_equal(rows, rows_of(model.score(tokens, 1, len(tokens)).said, VOCAB))
    assert np.array_equal(model.row(tokens, len(tokens)), model.row(np.append(tokens, tokens[:1]), len(tokens)))  # the next one, which nobody knows
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=0, atol=1e-12)
    assert np.array_equal(model.score(tokens, 1, len(tokens)).prob, rows[where - 1, tokens[where]])
    assert model.digest() == before


@given(repetitive())
@EXAMPLES
def test_the_fused_loop_is_the_loop_of_score_and_update(tokens):
    fused, slow = MatchModel(VOCAB, BOS), MatchModel(VOCAB, BOS)
    scores = fused.score_then_update(tokens, 1, len(tokens))
    loop = ScoreFirst(tokens, {"match": slow}, paranoid=True)
    for start, stop in loop.chunks(1):
        one = loop.score(start, stop)["match"]
        assert one.prob[0] == scores.prob[start - 1]
        loop.update(start, stop)
    assert fused.digest() == slow.digest()


@given(repetitive())
@EXAMPLES
def test_one_column_of_streams_is_the_model_of_one_stream(tokens):
    columns, model = MatchColumns(tokens[None].copy(), BOS), MatchModel(VOCAB, BOS)
    row, features = np.empty((1, VOCAB)), np.empty((1, len(FEATURES)), np.float32)
    columns.fill(0, row, features)
    columns.learn(0, np.arange(1))
    model.update(tokens, 0, 1)
    for t in range(1, len(tokens)):
        columns.fill(t, row, features)
        assert np.array_equal(row[0], model.row(tokens, t))
        assert np.array_equal(features, model.score_then_update(tokens, t, t + 1).features)
        columns.learn(t, np.arange(1))
    assert np.array_equal(columns.state.indices, model.state.indices)


def test_a_token_that_knew_itself_would_break_the_sum():
    tokens = np.array([BOS, *([2, 3, 4, 5, 0, 2, 3] * 4)], np.uint16)
    total = 0.0
    for token in range(VOCAB):
        tokens[-1] = token
        total += MatchModel(VOCAB, BOS).score_then_update(tokens, 1, len(tokens)).prob[-1]
    assert total == pytest.approx(1, abs=1e-12)


def test_no_context_reaches_past_a_bos():
    head, tail = [2, 3, 4, 5, 0, 2, 3, 4], [5, 0, 2, 3]
    seen = np.array([BOS, *head, *tail, 5], np.uint16)
    model = MatchModel(VOCAB, BOS)
    model.update(seen, 1, len(seen))
    assert model.score(np.array([BOS, *head, *tail, 5], np.uint16), len(seen) - 1, len(seen)).features[0, 0] > 0
    broken = np.array([BOS, *head, BOS, *tail, 5], np.uint16)
    assert model.score(broken, len(broken) - 1, len(broken)).features[0, 0] == 0


def test_features_are_named_and_buckets_cover_all_lengths():
    assert MatchModel(VOCAB, BOS).score(np.array([BOS, 2], np.uint16), 1, 2).features.shape == (1, len(FEATURES))
    found = [length_bucket(length) for length in range(WINDOW + 1)]
    assert found == sorted(found)
    assert found[-1] == BUCKETS - 1


def test_a_place_that_only_shares_the_hash_is_not_believed():
    seen, other = np.array([BOS, *[2, 3, 4, 5, 0, 2, 3, 4, 5]], np.uint16), np.array([BOS, *[5, 5, 4, 3, 3, 2, 0, 0]], np.uint16)
    model = MatchModel(VOCAB, BOS)
    model.update(seen, 1, len(seen))
    model.state.indices[:] = 8  # every context collides with one
    assert np.allclose(model.score(other, 1, len(other)).prob, 1 / VOCAB)
