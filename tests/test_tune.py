"""Fitted discounts make unseen text more probable, under the model that scores it."""

import os

import numpy as np
import pytest

from ngram.errors import SeedgramError
from ngram.online import OnlineCache
from ngram.prune import prune
from ngram.tune import _log_probability, _statistics, tune_discounts
from tests.test_codec import table_of, text

SLOW = bool(os.environ.get("NUMBA_DISABLE_JIT"))


def bits(table, tokens):
    return -float(np.log2(OnlineCache(table).score(tokens, 1, len(tokens)).prob).sum())


def test_the_search_maximises_what_the_cache_scores():
    """Pruned, with BOS, unknown contexts and every order: the search's own sum is the scorer's."""
    table = prune(table_of(text(600)), 400)
    held_out = np.array(text(300, seed=4), np.uint16)
    own = _log_probability(_statistics(table, held_out.astype(np.int64)), table.discounts, table.vocab_size)
    assert own == pytest.approx(-bits(table, held_out) * np.log(2), rel=1e-12)


def test_fitted_discounts_carry_over_to_other_text_and_stay_in_range():
    if SLOW:
        pytest.skip("thousands of tokens are for compiled kernels")
    table = prune(table_of(text(20_000)), 2_000)
    tuned = tune_discounts(table, text(4_000, seed=1))
    other = np.array(text(4_000, seed=2), np.uint16)
    assert bits(tuned, other) < bits(table, other)
    assert ((tuned.discounts > 0) & (tuned.discounts <= [1, 2, 3])).all()
    assert all(a is b for a, b in zip(tuned.counts, table.counts, strict=True))


def test_too_little_text_or_foreign_tokens_are_refused():
    table = table_of(text(300))
    with pytest.raises(SeedgramError, match="at least 2000"):
        tune_discounts(table, text(1_999))
    with pytest.raises(SeedgramError, match="token 20 is outside"):
        tune_discounts(table, np.full(2_000, 20))
