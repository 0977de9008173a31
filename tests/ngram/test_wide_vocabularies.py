"""Vocabularies above 65,535 tokens: the same counts, scores and files as below, in tokens of 32 bits."""

import numpy as np
import pytest

from ngram.arrays import as_tokens, pad_of, token_type
from ngram.counting.build_table import build_table
from ngram.counting.counter import NgramCache
from ngram.counting.run import Run, merge
from ngram.counting.unpack_keys import unpack_keys
from ngram.errors import FileFormatError, SeedgramError
from ngram.mixture.mixture import Mixture
from ngram.online.cache import OnlineCache, histories
from ngram.online.match import MatchModel
from ngram.storing import table_codec
from ngram.storing.prune import prune
from ngram.table import MAX_VOCAB
from tests.support.kernels import SLOW
from tests.support.kn_oracle import row

pytestmark = pytest.mark.kernels
BOS, NARROW_VOCAB = 1, 40
PLAIN = pytest.mark.plain  # compiling the mixture for tokens of 32 bits takes a minute


def streams(vocab, size=400, seed=0):
    """A stream of a small vocabulary, and the same one whose upper tokens are the last ones of a wide vocabulary: in the same order."""
    draw = np.random.default_rng(seed)
    narrow = np.minimum(draw.zipf(1.4, size), NARROW_VOCAB - 1).astype(np.uint16)
    narrow[::37] = BOS
    narrow[200:260] = narrow[100:160]
    return narrow, widened(narrow, vocab)


def widened(tokens, vocab):
    wide = np.where(tokens < 8, tokens, tokens + np.int64(vocab - 1) - NARROW_VOCAB)  # not the very last, which no context of 7 holds
    return np.where(tokens == pad_of(np.uint16), pad_of(np.uint32), wide).astype(np.uint32)


def counted(tokens, vocab, order):
    cache = NgramCache(vocab, order, BOS, buffer_positions=256)
    cache.count_stream(tokens)
    return cache


@pytest.mark.parametrize(("vocab", "order"), [(65_536, 5), (MAX_VOCAB, 6), (MAX_VOCAB, 7), (70_000, 7), (70_000, 1), (70_000, 2)])
def test_a_wide_table_is_the_narrow_one_with_other_names(vocab, order):
    small, large = streams(vocab)
    narrow, wide = counted(small, NARROW_VOCAB, order).table(), counted(large, vocab, order).table()
    assert wide.sizes()[1:] == narrow.sizes()[1:] and wide.sizes()[0] == vocab
    assert all(column.dtype == np.uint32 for column in wide.tokens)
    for n in range(2, order + 1):
        assert np.array_equal(wide.tokens[n - 1], widened(narrow.tokens[n - 1], vocab))
        parents = widened(narrow.parents[n - 1], vocab) if n == 2 else narrow.parents[n - 1]
        assert np.array_equal(wide.parents[n - 1], parents)
        assert np.array_equal(wide.counts[n - 1], narrow.counts[n - 1]) and np.array_equal(wide.raw[n - 1], narrow.raw[n - 1])
    assert np.array_equal(wide.discounts, narrow.discounts)


def test_runs_of_wide_tokens_merge_and_unpack_to_what_was_counted():
    _, tokens = streams(MAX_VOCAB)
    whole = counted(tokens, MAX_VOCAB, 7).run()
    cut = [counted(part, MAX_VOCAB, 7).run() for part in (tokens[:186], tokens[185:])]
    assert merge(*cut).total() == whole.total() == len(tokens) - 1
    expected = {tuple(row) for row in histories(tokens, np.arange(1, len(tokens)), 7, BOS).tolist()}
    assert {tuple(gram[:-1]) for gram in unpack_keys(whole.hi, whole.lo, 7, whole.bits).tolist()} == expected
    with pytest.raises(SeedgramError, match="cannot be merged"):
        merge(whole, Run.empty(7))


def test_rows_with_histories_count_as_the_stream_does():
    _, tokens = streams(70_000)
    padded = np.concatenate([np.full(5, pad_of(np.uint32), np.uint32), tokens])
    rows = np.stack([padded[i : i + 6 + 40] for i in range(0, len(tokens) - 40, 40)])
    cache = NgramCache(70_000, 7, BOS)
    cache.update(rows)
    assert np.array_equal(cache.run().hi, counted(tokens[: 40 * len(rows) + 1], 70_000, 7).run().hi)


def test_the_last_of_two_to_the_18_tokens_is_counted_as_a_target_and_refused_as_context_of_seven():
    last = MAX_VOCAB - 1
    closed = np.array([BOS, 5, last], np.uint32)
    assert counted(closed, MAX_VOCAB, 7).table().raw[0][last] == 1
    with pytest.raises(SeedgramError, match="orders up to 6"):
        counted(np.array([BOS, last, 5], np.uint32), MAX_VOCAB, 7)
    assert counted(np.array([BOS, last, 5], np.uint32), MAX_VOCAB, 6).table().sizes()[1:3] == [2, 1]


@pytest.mark.parametrize(("vocab", "order", "message"), [(MAX_VOCAB + 1, 3, "outside 1…262144"), (70_000, 8, "orders up to 7")])
def test_what_keys_cannot_hold_is_refused(vocab, order, message):
    with pytest.raises(SeedgramError, match=message):
        NgramCache(vocab, order)


@pytest.mark.compiled
def test_scores_and_rows_of_a_wide_cache_are_those_of_the_definition():
    _, tokens = streams(70_000)
    table = build_table(counted(tokens, 70_000, 5).run(), 70_000, BOS)
    cache = OnlineCache(table)
    places = np.array([1, 2, 40, 150, 399])
    past = histories(tokens, places, 5, BOS)
    rows = cache.rows(past)
    for t, history, found in zip(places, past, rows, strict=True):
        known = [65535 if token == pad_of(np.uint32) else int(token) for token in history]
        assert np.allclose(found, row(table, known), rtol=1e-12, atol=0)
        assert cache.score(tokens, t, t + 1).prob[0] == found[tokens[t]]


@pytest.mark.parametrize("make", [OnlineCache, pytest.param(Mixture, marks=PLAIN)], ids=["cache", "mixture"])
def test_a_wide_model_learns_and_its_rows_sum_to_one(make):
    """A row of the mixture walks through every token, too much for plain kernels: there its scores alone are asked for."""
    _, tokens = streams(70_000)
    model = make(counted(tokens[:60], 70_000, 3).table())
    learned, scored = (60, 70) if make is OnlineCache else (82, 86)
    before = model.score(tokens, scored, 90).prob
    model.update(tokens, learned, 90)
    after = model.score(tokens, scored, 90).prob
    assert np.log(after).mean() > np.log(before).mean() and after.max() < 1
    if make is OnlineCache or not SLOW:
        rows = model.rows(histories(tokens, [95], 3, BOS)) if make is OnlineCache else model.rows(tokens, [95])
        assert abs(rows.sum() - 1) < 1e-9


def test_matches_of_wide_tokens_are_found_exactly():
    _, tokens = streams(70_000)
    match = MatchModel(70_000, BOS)
    match.update(tokens, 1, 240)
    narrow = MatchModel(NARROW_VOCAB, BOS)
    narrow.update(streams(70_000)[0], 1, 240)
    assert np.array_equal(match.score(tokens, 240, 260).features, narrow.score(streams(70_000)[0], 240, 260).features)
    assert match.score(tokens, 240, 260).features.max() > 0


@pytest.mark.compiled
def test_a_wide_table_comes_back_from_its_bytes_pruned_or_whole():
    table = counted(streams(MAX_VOCAB)[1], MAX_VOCAB, 7).table()
    for one in (table, prune(table, MAX_VOCAB + 100)):
        data = table_codec.encode(one)
        read = table_codec.decode(data)
        assert (read.vocab_size, read.bos, data[:2]) == (MAX_VOCAB, BOS, b"\x02\x00")
        for name in ("tokens", "parents"):
            assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(getattr(one, name), getattr(read, name), strict=True))
    with pytest.raises(FileFormatError, match="impossible header"):
        table_codec.decode(data[:4] + (65_535).to_bytes(4, "little") + data[8:])


@pytest.mark.parametrize("tokens", [[70_000], [-1], [1.5], np.array([2, 65_535], np.uint16)], ids=str)
def test_no_token_wraps_on_its_way_into_a_model(tokens):
    vocab = 70_000 if isinstance(tokens, np.ndarray) else 1000
    with pytest.raises(SeedgramError, match=r"fit|can be a token"):
        as_tokens(tokens, vocab)
    assert token_type(65_535) == np.uint16 and token_type(65_536) == np.uint32
