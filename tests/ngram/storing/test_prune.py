"""Pruning keeps what pays, stays closed, loses no mass; fit_bytes obeys."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram import threads
from ngram.errors import SeedgramError
from ngram.online.cache import OnlineCache
from ngram.storing import table_codec
from ngram.storing.fit_bytes import Stages
from ngram.storing.prune import fit_bytes, prune
from ngram.table import NgramTable
from tests.support.counting import BOS
from tests.support.kernels import SLOW, examples
from tests.support.kn_oracle import raw_counts, row
from tests.support.tables import ngrams, table_of, tables, text

pytestmark = pytest.mark.kernels

EXAMPLES = examples(50, 10)


@EXAMPLES
@given(tables(), st.floats(0, 1))
def test_exactly_as_many_ngrams_stay_as_asked_closed_under_prefix_and_suffix(table, share):
    size = table.vocab_size + int(share * (sum(table.sizes()) - table.vocab_size))
    small = prune(table, size)
    assert sum(small.sizes()) == size
    counts, _ = ngrams(small)
    for shorter, longer in itertools.pairwise(counts):
        assert all(g[1:] in shorter and g[:-1] in shorter for g in longer)


@EXAMPLES
@given(tables(), st.floats(0, 1))
def test_rows_of_a_pruned_table_sum_to_one(table, share):
    small = prune(table, table.vocab_size + int(share * (sum(table.sizes()) - table.vocab_size)))
    grams = [g for order in ngrams(small)[0][:-1] for g in order]
    for history in [(), *grams[:: max(1, len(grams) // 20)]]:
        assert abs(row(small, list(history)).sum() - 1) < 1e-12


def test_what_is_left_out_counts_in_full_in_its_suffix_and_in_its_contexts_mass():
    """Kneser pruning against dictionaries: c(g) = Σ over left neighbours of 1 where v g is kept, else of raw(v g)."""
    tokens = text(300)
    raw, left = raw_counts(tokens, 4, BOS)
    small = prune(table_of(tokens), 250)
    counts, totals = ngrams(small)
    for n, order in enumerate(counts, 1):
        for gram, count in order.items():
            if n == 4 or (n > 1 and gram[0] == BOS) or raw[gram] == 0:
                assert count == raw[gram]
            else:
                longer = [(v, *gram) for v in left[gram] if v != 65535]
                alone = raw[gram] - sum(raw[g] for g in longer)
                assert count == alone + sum(1 if n < 4 and g in counts[n] else raw[g] for g in longer)
    for context, total in totals.items():
        children = {w: raw[(*context, w)] for w in range(20) if raw[(*context, w)]}
        n = len(context) + 1
        kept = sum(c for g, c in counts[n - 1].items() if g[:-1] == context)
        assert total == kept + sum(c for w, c in children.items() if (*context, w) not in counts[n - 1])


def test_raw_counts_are_found_again_where_a_table_has_none():
    table = table_of(text(400))
    small = prune(table, 300)
    bare = NgramTable(**{**vars(table), "raw": None})
    assert ngrams(prune(bare, 300)) == ngrams(small)
    again = NgramTable(**{**vars(small), "raw": None})
    assert ngrams(prune(again, 150)) == ngrams(prune(small, 150))


def test_what_the_shorter_context_knows_already_goes_first():
    """After any token, 2 is as likely as in general (nothing to learn); after 5 comes 6 (much to learn)."""
    rng = np.random.default_rng(0)
    tokens = [BOS]
    for _ in range(600):
        tokens += [5, 6] if rng.random() < 0.2 else [int(rng.choice([2, 3, 4]))]
    kept = ngrams(prune(table_of(tokens, vocab=7, order=2), 8))[0][1]
    assert list(kept) == [(5, 6)]


@pytest.mark.compiled
def test_value_beats_count_thresholds_on_unseen_text():
    train, test = np.array(text(20_000), np.uint16), np.array(text(5_000, seed=9), np.uint16)
    full = table_of(train)
    by_count = table_of(train, min_raw=[1, 2, 3, 3])
    by_value = prune(full, sum(by_count.sizes()))
    bits = [-np.log2(OnlineCache(t).score(test, 1, len(test)).prob).sum() for t in (by_value, by_count)]
    assert bits[0] < bits[1]


@pytest.fixture(scope="module")
def corpus_table():
    return table_of(text(1_500 if SLOW else 30_000), order=5)


@pytest.mark.compiled
@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.05])
def test_fit_bytes_obeys_and_fills_to_one_percent(corpus_table, share):
    whole = len(table_codec.encode(corpus_table))
    limit = int(share * whole)
    table, data = fit_bytes(corpus_table, limit)
    assert 0.99 * limit <= len(data) <= limit
    assert ngrams(table) == ngrams(table_codec.decode(data))


def test_a_table_that_fits_is_kept_whole_and_too_few_bytes_name_the_minimum(corpus_table):
    data = table_codec.encode(corpus_table)
    assert fit_bytes(corpus_table, len(data))[1] == data
    with pytest.raises(SeedgramError, match=r"unigrams alone need (\d+)") as error:
        fit_bytes(corpus_table, 100)
    least = int(str(error.value).split()[-1])
    table, data = fit_bytes(corpus_table, least)
    assert len(data) <= least and table.sizes()[0] == 20
    with pytest.raises(SeedgramError, match="fewer than its 20 tokens"):
        prune(corpus_table, 19)


def test_the_same_table_gives_the_same_bytes(corpus_table):
    limit = len(table_codec.encode(corpus_table)) * 2 // 3
    assert fit_bytes(corpus_table, limit)[1] == fit_bytes(corpus_table, limit)[1]


@pytest.mark.parametrize("count", [2, 5])
def test_the_number_of_threads_changes_no_byte(corpus_table, monkeypatch, count):
    monkeypatch.setattr("ngram.table.PIECE", 64)  # so that even this table is looked up in pieces
    limit = len(table_codec.encode(corpus_table)) * 2 // 3
    monkeypatch.setattr(threads, "COUNT", 1)
    alone, data = fit_bytes(corpus_table, limit)
    monkeypatch.setattr(threads, "COUNT", count)
    beside, same = fit_bytes(corpus_table, limit)
    assert same == data and ngrams(beside) == ngrams(alone)


def test_the_first_guess_saves_the_coding_of_the_whole_table(corpus_table, monkeypatch):
    whole, sizes = table_codec.encode(corpus_table), []
    coded = table_codec.encode_read
    monkeypatch.setattr(table_codec, "encode_read", lambda table, suffixes: sizes.append(sum(table.sizes())) or coded(table, suffixes))
    fit_bytes(corpus_table, len(whole) // 2)
    assert len(sizes) <= 6 and max(sizes) < sum(corpus_table.sizes())


def test_parts_on_threads_come_back_in_order_and_raise_what_they_raise(monkeypatch):
    for count in (1, 4):
        monkeypatch.setattr(threads, "COUNT", count)
        assert threads.each(lambda n: n * n, range(50)) == [n * n for n in range(50)]
        with pytest.raises(ZeroDivisionError):
            threads.each(lambda n: 1 // n, [1, 0, 2])


@pytest.mark.compiled
def test_a_fit_that_was_begun_fills_its_bytes_after_one_more_coding(corpus_table, monkeypatch):
    stages, whole = Stages(corpus_table), len(table_codec.encode(corpus_table))
    stages.begin(whole // 2)
    sizes, coded = [], table_codec.encode_read
    monkeypatch.setattr(table_codec, "encode_read", lambda table, suffixes: sizes.append(sum(table.sizes())) or coded(table, suffixes))
    limit = whole * 49 // 100
    table, data = stages.fit(limit)
    assert 0.99 * limit <= len(data) <= limit and len(sizes) <= 2
    assert ngrams(table) == ngrams(table_codec.decode(data))


@pytest.mark.compiled
def test_nothing_is_left_out_where_the_guess_is_too_high():
    """N-grams that occur once cost much less than their price: the first stage that is tried fits with room to spare."""
    table = table_of(text(6_000, vocab=300), vocab=300, order=5)
    whole = table_codec.encode(table)
    assert fit_bytes(table, len(whole))[1] == whole
    limit = len(whole) * 97 // 100
    assert 0.99 * limit <= len(fit_bytes(table, limit)[1]) <= limit
