"""The codec gives back every n-gram, its counts on the log scale, and refuses everything it did not write."""

import functools
import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram.counting.counter import NgramCache
from ngram.errors import FileFormatError, SeedgramError
from ngram.storing import table_codec
from ngram.storing.prune import prune
from ngram.storing.symbols import Coder, code_classed, code_numbers, code_positions, level_values, log16, nearest_level
from ngram.table import PAD, NgramTable, suffix_rows
from tests.support.counting import BOS
from tests.support.kernels import SLOW, examples
from tests.support.kn_oracle import row
from tests.support.tables import decoded, ngrams, table_of, tables, text

pytestmark = pytest.mark.kernels

EXAMPLES = examples(50, 10)
LEVELS = level_values(table_codec.FINENESS)


@functools.cache
def nearest(value):
    return min(LEVELS.tolist(), key=lambda level: (abs(level - value), level))


def check_same(a, b):
    """Equal in every column, type and field."""
    assert (a.vocab_size, a.bos, a.raw) == (b.vocab_size, b.bos, b.raw) and np.array_equal(a.discounts, b.discounts)
    for name in ("tokens", "parents", "counts", "pruned"):
        for x, y in zip(getattr(a, name), getattr(b, name), strict=True):
            assert x.dtype == y.dtype and np.array_equal(x, y), name
    assert a.excess.keys() == b.excess.keys()
    for n in a.excess:
        assert all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a.excess[n], b.excess[n], strict=True))


def check_reading(table):
    data, read_back = table_codec.encode_read(table)
    read = table_codec.decode(data)
    check_same(read_back(), read)  # what the writer says a reader gets is what a reader gets
    (was, totals), (now, new_totals) = ngrams(table), ngrams(read)
    assert [{g: nearest(c) for g, c in order.items()} for order in was] == now
    assert np.array_equal(read.discounts, table.discounts) and (read.bos, read.vocab_size) == (table.bos, table.vocab_size)
    assert read.raw is None
    own = dict.fromkeys(totals, 0)
    for order in now:
        for gram, count in order.items():
            own[gram[:-1]] += count
    for context, total in new_totals.items():
        if context == ():
            assert total == own[()] + int(table.pruned[0][0])
        elif own[context]:
            nothing_lost = totals[context] == sum(c for order in was for g, c in order.items() if g[:-1] == context)
            assert total == own[context] if nothing_lost else total == max(own[context], nearest(totals[context]))
        else:
            assert total == 0
    assert table_codec.encode(read) == table_codec.encode(table)


@EXAMPLES
@given(tables(), st.floats(0, 1))
def test_a_reader_gets_the_same_ngrams_with_counts_at_the_nearest_level(table, share):
    check_reading(prune(table, table.vocab_size + int(share * (sum(table.sizes()) - table.vocab_size))))


@pytest.mark.parametrize("size", [100, 300, 500])
def test_a_reader_gets_the_masses_of_what_was_pruned(size):
    table = prune(table_of(text(600)), size)
    assert table.pruned[2].any()
    check_reading(table)


@EXAMPLES
@given(tables(), st.integers(0, 10**6))
def test_rows_of_a_pruned_and_read_table_sum_to_one(table, draw):
    size = table.vocab_size + draw % (sum(table.sizes()) - table.vocab_size + 1)
    read = decoded(prune(table, size))
    history = [draw % table.vocab_size, draw // 7 % table.vocab_size, draw // 49 % table.vocab_size][: table.order - 1]
    assert abs(row(read, history).sum() - 1) < 1e-12


def test_counts_to_sixteen_are_exact_and_others_within_an_eighth():
    assert LEVELS[:17].tolist() == list(range(17))
    values = np.unique(np.concatenate([np.arange(3000), 2 ** np.arange(33) - 1, 2 ** np.arange(32)]))
    error = np.abs(LEVELS[nearest_level(values, LEVELS)] - values)
    assert (error <= np.maximum(np.sqrt(values) / 4 + 0.5, values / 32 + 0.5) * (values > 16)).all()


def large_counts():
    """A bigram table with counts and masses up to 2^32 - 1."""
    counts = [[70_000, 4_000_000_000, 3], [65_535, 65_536, 2**32 - 1, 1]]
    return NgramTable(
        vocab_size=3,
        bos=1,
        tokens=[np.arange(3, dtype=np.uint16), np.array([0, 1, 0, 2], np.uint16)],
        parents=[np.zeros(3, np.uint32), np.array([0, 0, 1, 2], np.uint32)],
        counts=[np.minimum(c, 65535).astype(np.uint16) for c in counts],
        pruned=[np.array([100_000], np.uint32), np.array([2**30, 0, 7], np.uint32)],
        discounts=np.array([[0.5, 1, 1.5], [0, 2, 3]]),
        excess={
            1: (np.array([0, 1], np.uint32), np.array(counts[0][:2], np.uint32)),
            2: (np.array([1, 2], np.uint32), np.array(counts[1][1:3], np.uint32)),
        },
    )


def test_counts_past_16_bits_come_back_through_the_excess_table():
    table = large_counts()
    read = decoded(table)
    for n in (1, 2):
        assert read.exact_counts(n).tolist() == [nearest(c) for c in table.exact_counts(n).tolist()]
        index, values = read.excess[n]
        assert (values > 65535).all() and (read.counts[n - 1][index] == 65535).all()
    assert read.pruned[0].tolist() == [100_000] and read.pruned[1][1] == 0


@pytest.mark.parametrize(("vocab", "order"), [(1, 3), (2, 1), pytest.param(PAD, 2, marks=pytest.mark.compiled), (300, 8)])
def test_any_vocabulary_and_order_round_trips(vocab, order):
    rng = np.random.default_rng(vocab)
    table = table_of(np.append(rng.integers(0, vocab, 300), vocab - 1), vocab, order) if vocab > 1 else table_of_one_token(order)
    assert ngrams(decoded(table))[0] == [{g: nearest(c) for g, c in o.items()} for o in ngrams(table)[0]]


def table_of_one_token(order):
    cache = NgramCache(1, order, 0, 64)
    cache.count_stream(np.zeros(9, np.uint16))
    return cache.table(None)


def test_the_format_is_pinned():
    """Golden bytes: a change here is a new format version."""
    data = table_codec.encode(table_of(text(400), min_raw=[1, 1, 1, 2]))
    assert (len(data), hashlib.sha256(data).hexdigest()[:16]) == GOLDEN


GOLDEN = (560, "d4b88415fc9cc5c0")


@pytest.mark.compiled
def test_ngrams_cost_less_than_their_share_of_plain_columns():
    table = table_of(text(30_000), order=5)
    assert len(table_codec.encode(table)) * 8 < 6 * sum(table.sizes())


@pytest.fixture(scope="module")
def written():
    return table_codec.encode(table_of(text(300 if SLOW else 1500), min_raw=[1, 1, 1, 2]))


def read_or_refused(data):
    try:
        table = table_codec.decode(data)
    except FileFormatError:
        return
    suffix_rows(table)
    counts, totals = ngrams(table)
    assert all(count >= 1 for order in counts[1:] for count in order.values())
    assert np.isfinite(row(table, [0] * (table.order - 1))).all() and max(totals.values()) < 2**32


def test_cut_data_is_refused_or_a_sound_table(written):
    for size in [*range(0, 150, 7), *range(150, len(written), 131)]:
        read_or_refused(written[:size])


def test_altered_data_is_refused_or_a_sound_table(written):
    rng = np.random.default_rng(3)
    for _ in range(20 if SLOW else 300):
        data = bytearray(written)
        for place in rng.integers(0, min(len(data), int(rng.choice([20, 180, len(data)]))), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        read_or_refused(bytes(data))


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x5a"])
def test_noise_behind_a_true_header_is_refused_or_a_sound_table(written, fill):
    read_or_refused(written[:144] + fill * (len(written) - 144))


def test_a_header_that_promises_more_than_the_data_can_hold_is_refused(written):
    sizes = 16 + 24 * 4
    data = written[:sizes] + np.array([20, 2**32 - 1, 2**32 - 1, 5], "<u4").tobytes() + written[sizes + 16 :]
    with pytest.raises(FileFormatError, match="impossible sizes"):
        table_codec.decode(data)


def test_another_version_and_impossible_fields_are_named(written):
    with pytest.raises(FileFormatError, match="format version 3, this program reads 1 and 2"):
        table_codec.decode(b"\x03" + written[1:])
    for place, value in ((2, 9), (2, 0), (3, 0), (4, 0)):
        with pytest.raises(FileFormatError):
            table_codec.decode(written[:place] + bytes([value]) + written[place + 1 :])
    with pytest.raises(FileFormatError, match="impossible counts"):
        table_codec.decode(written[:132] + b"\xff\x01" + written[134:])
    with pytest.raises(FileFormatError, match="impossible discounts"):
        table_codec.decode(written[:16] + np.array([np.nan]).tobytes() + written[24:])


def test_a_table_that_is_not_closed_under_suffixes_is_refused():
    table = table_of([BOS, 2, 3, 4], vocab=5, order=3)
    keep = table.tokens[1] != 4
    holed = replace(
        table,
        tokens=[table.tokens[0], table.tokens[1][keep], table.tokens[2]],
        parents=[table.parents[0], table.parents[1][keep], table.parents[2]],
    )
    with pytest.raises(SeedgramError, match="not in order 2"):
        table_codec.encode(holed)


@EXAMPLES
@given(st.integers(2, 10**9), st.data())
def test_positions_come_back_whatever_their_density(size, data):
    count = data.draw(st.integers(1, min(size // 2, 40)))
    places = np.sort(np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=count, max_size=count, unique=True)), np.int64))
    writer = Coder()
    code_positions(writer, size, count, places)
    assert np.array_equal(code_positions(Coder(writer.words()), size, count, None), places)


@EXAMPLES
@given(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 2**48 - 1)), max_size=60))
def test_numbers_come_back(pairs):
    classes, numbers = np.array([c for c, _ in pairs], np.int32), np.array([x for _, x in pairs], np.int64)
    writer = Coder()
    code_numbers(writer, classes, numbers)
    assert np.array_equal(code_numbers(Coder(writer.words()), classes, None), numbers)


def test_classes_are_learned_without_a_header():
    """Skewed symbols of 20 classes, 500 each: within 4 % of their empirical entropy, class by class."""
    rng = np.random.default_rng(1)
    columns = np.repeat(np.arange(20, dtype=np.int32), 500)
    symbols = np.minimum(rng.geometric(0.3 + columns / 40), 12).astype(np.int32) - 1
    writer = Coder()
    code_classed(writer, np.zeros_like(columns), columns, 12, symbols)
    entropy = 0.0
    for column in range(20):
        share = np.bincount(symbols[columns == column]) / 500
        entropy -= 500 * float((share[share > 0] * np.log2(share[share > 0])).sum())
    assert len(writer.words()) * 32 < 1.04 * entropy
    assert np.array_equal(code_classed(Coder(writer.words()), np.zeros_like(columns), columns, 12, None), symbols)


def test_log16_is_sixteen_steps_an_octave():
    values = np.array([0, 1, 2, 3, 4, 1000, 65_535, 65_536, 2**32 - 1])
    assert log16(values).tolist() == [0, 16, 32, 41, 48, 175, 271, 272, 527]
    assert (np.diff(log16(np.arange(5000))) >= 0).all()
