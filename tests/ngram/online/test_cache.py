"""The online cache scores before it counts, exactly, and every row it promises sums to one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram.errors import SeedgramError
from ngram.online import trie
from ngram.online.cache import OnlineCache, histories
from ngram.online.columns import update_column
from ngram.online.stream_cache import FEATURES
from ngram.table import NgramTable
from tests.support.counting import BOS, adjusted_of, array, count, sample, seeded, streams
from tests.support.kernels import SLOW, examples
from tests.support.kn_oracle import PAD, OnlineOracle, history_of, row
from tests.support.rows import row_features

pytestmark = pytest.mark.kernels

EXAMPLES = examples(60, 10)


@given(streams(), streams(), st.integers(1, 7), st.integers(1, 3))
@EXAMPLES
def test_static_scores_are_the_rows_of_the_table(trained, test, order, least):
    vocab = max(trained[0], test[0])
    table = count(vocab, trained[1], order).table([1] + [least] * (order - 1))
    cache, tokens = OnlineCache(table), array(test[1])
    before = cache.digest()
    scores = cache.score(tokens, 1, len(tokens)) if len(tokens) > 1 else None
    past = histories(tokens, np.arange(1, len(tokens)), order, BOS)
    rows = cache.rows(past)
    for t in range(1, len(tokens)):
        np.testing.assert_allclose(rows[t - 1], row(table, past[t - 1]), rtol=1e-12)
        assert scores.prob[t - 1] == rows[t - 1, tokens[t]]
    assert cache.digest() == before


@given(streams(max_size=30), streams(), st.integers(1, 7), st.integers(1, 3))
@EXAMPLES
def test_score_then_update_is_kneser_ney_with_update_exclusion(trained, test, order, least):
    vocab = max(trained[0], test[0])
    table = count(vocab, trained[1], order).table([1] + [least] * (order - 1))
    cache, tokens = OnlineCache(table), test[1]
    grams, pruned = [()], {(): int(table.pruned[0][0])}
    for n in range(1, order):
        grams = [(*grams[p], int(w)) for p, w in zip(table.parents[n - 1], table.tokens[n - 1], strict=True)]
        pruned.update(zip(grams, table.pruned[n].tolist(), strict=True))
    oracle = OnlineOracle(adjusted_of(table), pruned, table.discounts.tolist(), vocab, order, BOS)
    expected = []
    for t in range(1, len(tokens)):
        row = oracle.row(tokens, t)
        assert abs(sum(row) - 1) <= 1e-12
        expected.append(row[tokens[t]])
        oracle.count(tokens, t)
    if len(tokens) > 1:
        found = cache.score_then_update(array(tokens), 1, len(tokens))
        np.testing.assert_allclose(found.prob, expected, rtol=1e-12)
    past = histories(array(tokens), [len(tokens)], order, BOS)
    np.testing.assert_allclose(cache.rows(past)[0], oracle.row(tokens, len(tokens)), rtol=1e-12)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 8))
def test_a_history_begins_at_the_nearest_bos_and_never_reaches_past_it(tokens, order):
    positions = np.arange(len(tokens) + 1)
    found = histories(np.array(tokens, np.uint16), positions, order, BOS)
    for t in positions:
        expected = history_of(tokens, t, order, BOS)
        assert tuple(found[t]) == (PAD,) * (order - 1 - len(expected)) + expected


@pytest.mark.parametrize("order", [0, 9, -1])
def test_an_order_outside_1_to_8_is_refused(order):
    with pytest.raises(SeedgramError, match="1…8"):
        histories([1, 2], [1], order, BOS)


@pytest.mark.parametrize("order", [1, 2, 3, 7])
def test_the_fused_kernel_is_the_slow_loop_bit_for_bit(order):
    vocab, size = 40, 60 if SLOW else 3000
    trained, tokens = sample(vocab, size, 1), sample(vocab, size, 2)
    fused, slow = seeded(vocab, trained, order), seeded(vocab, trained, order)
    together = fused.score_then_update(tokens, 1, size)
    for t in range(1, size):
        alone = slow.score(tokens, t, t + 1)
        slow.update(tokens, t, t + 1)
        assert alone.prob[0] == together.prob[t - 1]
        assert np.array_equal(alone.features[0], together.features[t - 1])
    assert slow.digest() == fused.digest()
    assert slow.counted == fused.counted == size - 1


@pytest.mark.parametrize("slack", [1, 1 << 20], ids=["tight", "roomy"])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_a_column_counts_what_one_update_a_stream_counts(order, slack, monkeypatch):
    """Streams of one column count in their order, each after those before it: to the last bit, though memory may have to grow."""
    monkeypatch.setattr("ngram.online.stream_cache.SLACK", slack)
    vocab, streams, length = 6, 7, 8 if SLOW else 60  # few tokens: what one stream makes, the next one finds in the same column
    trained, tokens = sample(vocab, 40, 1), sample(vocab, streams * length, 2).reshape(streams, length)
    fused, slow = seeded(vocab, trained, order), seeded(vocab, trained, order)
    for column in range(1, length):
        active = np.arange(streams if column < length // 2 else streams - 2)  # streams that end early
        update_column(fused, tokens, active, column)
        for s in active:
            slow.update(tokens[s], column, column + 1)
        assert fused.digest() == slow.digest()


@pytest.mark.parametrize("order", [1, 2, 6])
def test_rows_and_features_in_one_walk_are_those_of_single_histories(order):
    """Lanes and threads share out rows: each is what it is alone."""
    vocab, size = 30, 40 if SLOW else 500
    cache, tokens = seeded(vocab, sample(vocab, size, 1), order), sample(vocab, size, 2)
    cache.update(tokens, 1, size // 2)
    past = histories(tokens, np.arange(1, size), order, BOS)
    rows, features = np.empty((len(past), vocab)), np.empty((len(past), len(FEATURES)), np.float32)
    middle = len(past) // 3  # a part that does not divide into lanes
    for part in (slice(0, middle), slice(middle, None)):
        cache.fill(past[part], rows[part], features[part])
    for i in range(len(past)):
        assert np.array_equal(rows[i], cache.rows(past[i : i + 1])[0])
        assert np.array_equal(features[i], row_features(cache, past[i : i + 1])[0])


@pytest.mark.parametrize("changed", [0, 1, 5])
def test_no_score_sees_its_own_token_or_a_later_one(changed):
    """Changing the token at t, or any after it, leaves the distribution before it as it was."""
    vocab, size, t = 12, 120, 60
    trained, tokens = sample(vocab, size, 1), sample(vocab, size, 2)
    other = tokens.copy()
    other[t + changed :] = (other[t + changed :] + 3) % vocab
    scores = [seeded(vocab, trained, 5).score_then_update(stream, 1, size) for stream in (tokens, other)]
    stop = t + changed - 1  # scores[i] belongs to token i + 1
    assert np.array_equal(scores[0].prob[:stop], scores[1].prob[:stop])
    assert np.array_equal(scores[0].features[: stop + 1], scores[1].features[: stop + 1])
    # and the score of the changed token is what the rows of the frozen state at that moment say of both tokens
    cache = seeded(vocab, trained, 5)
    cache.score_then_update(tokens, 1, t + changed)
    row = cache.rows(histories(tokens, [t + changed], 5, BOS))[0]
    assert scores[0].prob[stop] == row[tokens[t + changed]]
    assert scores[1].prob[stop] == row[other[t + changed]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
@EXAMPLES
def test_chunks_change_scores_only_through_the_age_of_the_state(sizes):
    vocab, size = 15, 100
    trained, tokens = sample(vocab, 50, 1), sample(vocab, size, 2)
    cache, at = seeded(vocab, trained, 4), 1
    for chunk in sizes:
        stop = min(at + chunk, size)
        scores = cache.score(tokens, at, stop)
        rows = cache.rows(histories(tokens, np.arange(at, stop), 4, BOS))
        assert np.array_equal(scores.prob, rows[np.arange(stop - at), tokens[at:stop]])
        cache.update(tokens, at, stop)
        at = stop
    whole = seeded(vocab, trained, 4)
    whole.update(tokens, 1, at)
    assert whole.digest() == cache.digest()


def test_a_cut_range_scores_as_the_whole_does():
    """Lanes start in the middle of the stream: parts of any length give the same numbers."""
    vocab, size = 30, 40 if SLOW else 2000
    cache, tokens = seeded(vocab, sample(vocab, size, 1), 7), sample(vocab, size, 2)
    whole = cache.score(tokens, 1, size)
    single = [cache.score(tokens, t, t + 1) for t in range(1, size)]
    assert np.array_equal(whole.prob, [one.prob[0] for one in single])
    assert np.array_equal(whole.features, [one.features[0] for one in single])


@pytest.mark.parametrize("vocab", [2, 17, 300])
def test_rows_sum_to_one_after_much_growth(vocab):
    size = 80 if SLOW else 30_000
    tokens = sample(vocab, size, 3)
    cache = seeded(vocab, [BOS], 6)
    cache.update(tokens, 1, size)
    rows = cache.rows(histories(tokens, np.arange(1, min(size, 300)), 6, BOS))
    assert np.abs(rows.sum(axis=1) - 1).max() <= 1e-12
    assert rows.min() > 0


def test_a_state_that_outgrows_its_room_moves_and_stays_the_same(monkeypatch):
    vocab, size = 20, 150 if SLOW else 5000
    tokens = sample(vocab, size, 8)
    roomy = seeded(vocab, [BOS], 5)
    monkeypatch.setattr("ngram.online.stream_cache.SLACK", 1)
    tight = seeded(vocab, [BOS], 5)
    start = len(tight.state.nodes), len(tight.state.pool)
    together, apart = roomy.score_then_update(tokens, 1, size), tight.score_then_update(tokens, 1, size)
    assert len(tight.state.nodes) > start[0]
    assert len(tight.state.pool) > start[1]
    assert np.array_equal(together.prob, apart.prob)
    assert np.array_equal(together.features, apart.features)
    assert roomy.digest() == tight.digest()


def test_a_document_starts_afresh():
    vocab = 10
    cache = seeded(vocab, sample(vocab, 100, 4), 5)
    a, b = array([1, 2, 3, 4, BOS, 5, 6]), array([7, 7, 7, 7, BOS, 5, 6])
    assert np.array_equal(cache.score(a, 5, 7).prob, cache.score(b, 5, 7).prob)
    past = np.array([[2, 3, BOS, 5], [65535, 65535, BOS, 5]], np.uint16)
    rows, features = cache.rows(past), row_features(cache, past)
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(features[0], features[1])


def test_features_depend_on_the_context_alone():
    vocab, size = 9, 80
    cache, tokens = seeded(vocab, sample(vocab, 200, 5), 5), sample(vocab, size, 6)
    scored = cache.score(tokens, 1, size)
    assert scored.features.shape == (size - 1, len(FEATURES))
    assert np.array_equal(scored.features, row_features(cache, histories(tokens, np.arange(1, size), 5, BOS)))
    other = tokens.copy()
    other[40] = (other[40] + 1) % vocab
    assert np.array_equal(cache.score(other, 1, size).features[:40], scored.features[:40])


def test_an_update_that_skips_positions_makes_contexts_without_counts():
    vocab, tokens = 8, sample(8, 60, 7, 0.0)
    cache = seeded(vocab, [BOS], 5)
    cache.update(tokens, 30, 40)
    cache.update(tokens, 50, 60)
    rows = cache.rows(histories(tokens, np.arange(1, 60), 5, BOS))
    assert np.abs(rows.sum(axis=1) - 1).max() <= 1e-12
    assert cache.counted == 20
    assert row_features(cache, histories(tokens, [30], 5, BOS))[0, FEATURES.index("matched_order")] == 4


def heavy_table(count_a, count_b):
    """Order 2 over two tokens: token 0 is followed by 0 and 1 so many times."""
    counts = np.array([count_a, count_b], np.uint32)
    return NgramTable(
        vocab_size=2,
        bos=1,
        tokens=[array([0, 1]), array([0, 1])],
        parents=[np.zeros(2, np.uint32), np.zeros(2, np.uint32)],
        counts=[array([2, 1]), np.minimum(counts, 65535).astype(np.uint16)],
        pruned=[np.zeros(1, np.uint32), np.zeros(2, np.uint32)],
        discounts=np.tile([0.5, 1.0, 1.5], (2, 1)),
        excess={2: (np.arange(2, dtype=np.uint32), counts)},
    )


def test_online_counts_pass_65535_and_stop_below_2_to_the_32_without_wrapping():
    tokens = np.zeros(11, np.uint16)
    cache = OnlineCache(heavy_table(65530, 65535))
    cache.update(tokens, 1, 11)
    rest = (1.5 * 2) / (65540 + 65535)
    shorter = row(heavy_table(1, 1), [])
    expected = (np.array([65540, 65535]) - 1.5) / (65540 + 65535) + rest * shorter
    np.testing.assert_allclose(cache.rows(array([[0]]))[0], expected, rtol=1e-12)
    full = OnlineCache(heavy_table((1 << 32) - 10, 4))  # total 2^32 - 6: five more fit
    full.update(tokens, 1, 11)
    assert full.state.nodes[0, trie.TOTAL] == (1 << 32) - 1
    assert sorted(full.state.pool[1:3, trie.COUNT].tolist()) == [4, (1 << 32) - 5]
    assert abs(full.rows(array([[0]]))[0].sum() - 1) <= 1e-12
    with pytest.raises(SeedgramError, match="2\\^32"):
        OnlineCache(heavy_table((1 << 32) - 1, 1))


def test_nonsense_is_refused():
    cache = seeded(5, [1, 2, 3], 3)
    for tokens, start, stop in (([1, 2], 0, 1), ([1, 2], 2, 1), ([1, 2], 1, 3), ([1, 7], 1, 2), ([[1, 2]], 1, 1)):
        with pytest.raises(SeedgramError):
            cache.score(array(tokens), start, stop)
    for block, column in (([[1, 2]], 0), ([[1, 2]], 2), ([1, 2], 1), ([[1, 7]], 1)):
        with pytest.raises(SeedgramError):
            update_column(cache, array(block), np.arange(1), column)
    for past in ([[1]], [1, 2], [[1, 9]]):
        with pytest.raises(SeedgramError):
            cache.rows(array(past))
