"""Look-ups by buckets give what a dictionary of all n-grams gives, to the last bit."""

import math

import numpy as np
import pytest

from ngram.arpa import index
from ngram.arpa.from_table import static_model
from ngram.arpa.index import BUCKET, EMPTY, empty_state, step
from ngram.arpa.model import WORD_BITS, WORD_MASK, ArpaModel
from ngram.arrays import F64, Tokens
from tests.support.arpa_oracle import BOS, VOCAB, make_model, make_stream

pytestmark = pytest.mark.kernels


def listed(model: ArpaModel) -> dict[tuple[int, ...], tuple[float, float]]:
    """log10 probability and weight of each n-gram."""
    found, above = dict[tuple[int, ...], tuple[float, float]](), list[tuple[int, ...]]([()])
    for keys, log10_p, log10_b in zip(model.keys, model.log10_p, model.log10_b, strict=True):
        here = [(*above[int(key >> WORD_BITS)], int(key & WORD_MASK)) for key in keys]
        found |= dict(zip(here, zip(log10_p.tolist(), log10_b.tolist(), strict=True), strict=True))
        above = here
    return found


def plainly(model: ArpaModel, tokens: Tokens) -> tuple[F64, list[int]]:
    """(log10 probabilities, lengths) by backing off from the longest n-gram that is listed, weights added from short to long."""
    ngrams, log10_p, lengths = listed(model), [], []
    for t in range(len(tokens)):
        begin = t
        while begin > 0 and t - begin < model.order - 1 and (begin == t or tokens[begin] != BOS):
            begin -= 1
        history = tuple(tokens[begin:t].tolist())
        length = next(n for n in range(len(history) + 1, 0, -1) if (*history[len(history) - n + 1 :], int(tokens[t])) in ngrams)
        p = ngrams[(*history[len(history) - length + 1 :], int(tokens[t]))][0]
        for k in range(length, len(history) + 1):
            p += ngrams.get(history[len(history) - k :], (0.0, 0.0))[1]
        log10_p.append(p)
        lengths.append(length)
    return np.array(log10_p), lengths


@pytest.fixture(params=[0.6, 0.999])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ArpaModel:
    """Once with so few places that searches go on through full buckets and around the end."""
    monkeypatch.setattr(index, "LOAD", request.param)
    return static_model(make_model()[0])


def test_streams_score_as_by_the_definition(model: ArpaModel) -> None:
    tokens = np.array(make_stream(300, seed=5) + make_stream(200, seed=6), np.uint16)
    log10_p, lengths = model.log10_scores(tokens, 0, len(tokens))
    expected, expected_lengths = plainly(model, tokens)
    assert lengths.tolist() == expected_lengths
    assert log10_p.tobytes() == expected.tobytes()
    assert max(expected_lengths) == model.order and not any(map(math.isnan, log10_p))


def test_steps_are_the_stream_s_scores_and_equal_histories_equal_states(model: ArpaModel) -> None:
    tokens = np.array(make_stream(60, seed=7), np.uint16)
    log10_p, lengths = model.log10_scores(tokens, 0, len(tokens))
    states = [empty_state(model.order)]
    for t, token in enumerate(tokens.tolist()):
        after = np.empty_like(states[-1])
        assert step(model.index, states[-1], token, after) == (log10_p[t], lengths[t])
        states.append(after)
    fresh = empty_state(model.order)
    for token in tokens[-model.order :].tolist():
        step(model.index, fresh, token, fresh)
    assert fresh.tolist() == states[-1].tolist()


def test_places_fill_each_bucket_from_its_front(model: ArpaModel) -> None:
    """A search ends at the first bucket whose last place is empty."""
    found = model.index
    assert found.keys.ctypes.data % (8 * BUCKET) == 0
    for begin in range(int(found.begin[1]), len(found.keys), BUCKET):
        taken = (found.keys[begin : begin + BUCKET] != EMPTY).tolist()
        assert taken == sorted(taken, reverse=True)
    assert sum((found.keys != EMPTY).tolist()) == sum(len(keys) for keys in model.keys[1:]) and len(model.keys[0]) == VOCAB
