"""What a cache keeps of targets before it counts them: whole distributions, to the bit, in room that it uses again."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram.arrays import U32_MAX
from ngram.online import stream_cache
from ngram.online.cache import OnlineCache, histories
from ngram.online.kernels import fill_from_parts
from ngram.online.stream_cache import Block
from ngram.table import NgramTable
from tests.support.counting import BOS, array, count, sample, seeded, streams
from tests.support.kernels import examples

pytestmark = pytest.mark.kernels

EXAMPLES = examples(60, 10)


@given(st.integers(1, 7), st.integers(0, 20), st.data())
@EXAMPLES
def test_rows_along_a_stream_are_those_after_its_histories(order, seed, data):
    """To the bit, whatever parts threads take, with BOS in the way."""
    vocab, size = 9, 90
    cache, tokens = seeded(vocab, sample(vocab, 60, 1), order), sample(vocab, size, seed + 2)
    cache.update(tokens, 1, 30)
    start = data.draw(st.integers(1, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    cut = data.draw(st.integers(start, stop))
    rows, before = np.full((stop - start, vocab), np.nan), cache.digest()
    for begin, end in ((start, cut), (cut, stop)):
        rows[begin - start : end - start] = cache.ask(tokens, begin, end).rows()
    assert np.array_equal(rows, cache.rows(histories(tokens, np.arange(start, stop), order, BOS)))
    assert cache.digest() == before


@given(streams(max_size=30), st.integers(1, 7), st.integers(1, 3), st.integers(0, 20), st.sampled_from([0, 1, 10, 1 << 30]), st.booleans(), st.data())
@EXAMPLES
def test_what_a_block_keeps_while_it_is_counted_is_its_rows_before(trained, order, least, seed, left, learn, data):
    """To the bit, with pruned tables, wherever calls cut it, whatever is asked between them, and where the numbers of its lists run out."""
    vocab, size = max(trained[0], 9), 90
    table = count(vocab, trained[1], order).table([1] + [least] * (order - 1))
    cache, still, alone = OnlineCache(table), OnlineCache(table), OnlineCache(table)
    tokens = sample(vocab, size, seed)
    start = data.draw(st.integers(1, size - 1))
    cuts = sorted({start, size, *data.draw(st.lists(st.integers(start, size), max_size=3))})
    for one in (cache, still, alone):
        one.update(tokens, 1, start)
    earlier = Block(cache, [1], start)
    cache.score(tokens, 1, start + 1, block=earlier)
    if left:  # the next one uses its room again
        earlier.end()
    cache.serial = min(cache.serial, U32_MAX - left) if left > 10 else U32_MAX - left
    block = Block(cache, [start], size - start)
    for a, b in pairwise(cuts):
        aside = cache.ask(tokens, a, a + 1).rows()
        assert np.array_equal(aside, cache.rows(histories(tokens, [a], order, BOS)))
        step = "score_then_update" if learn else "score"
        told, expected = (getattr(one, step)(tokens, a, b, **more) for one, more in ((cache, {"block": block}), (alone, {})))
        assert np.array_equal(told.prob, expected.prob) and np.array_equal(told.features, expected.features)
    rows = np.empty((size - start, vocab))
    fill_from_parts(block.parts, 0, rows)
    assert np.array_equal(rows, still.rows(histories(tokens, np.arange(start, size), order, BOS)))
    assert cache.digest() == alone.digest()


def test_the_room_of_a_block_that_has_ended_goes_to_the_next_one_of_its_cache_and_to_no_other():
    """Caches count on threads of their own: two that took from one list could both want the last of it.  Rows that are asked for alone give nothing back."""
    table = count(5, [1, 2, 3, 2, 4], 3).table()
    cache, other = OnlineCache(table), OnlineCache(table)
    ended, alone, foreign, following = Block(cache, [1], 4), Block(cache, [2]), Block(other, [1], 4), Block(cache, [5], 4)
    ended.begin()
    cells, values = ended.parts.cells, ended.parts.values
    ended.end()
    alone.begin()
    foreign.begin()
    following.begin()
    assert following.parts.cells is cells and following.parts.values is values
    assert alone.parts.cells is not cells and foreign.parts.cells is not cells and not cache.spare


def test_a_context_that_a_block_makes_opens_no_longer_one_to_it():
    """A table that has (1, 2, 3) but not (2, 3), which the block counts: until it ends, 3 is the longest context there."""
    tokens = [np.array(column, np.uint16) for column in (range(5), [2], [3], [0])]
    parents = [np.array(column, np.uint32) for column in ([0] * 5, [1], [0], [0])]
    counts = [np.array(column, np.uint16) for column in ([2, 3, 3, 3, 1], [2], [2], [2])]
    pruned = [np.zeros(size, np.uint32) for size in (1, 5, 1, 1)]
    table = NgramTable(5, 4, tokens, parents, counts, pruned, np.tile([0.5, 1.0, 1.5], (4, 1)))
    cache, still, text = OnlineCache(table), OnlineCache(table), array([4, 0, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3])
    block, rows = Block(cache, [1], len(text) - 1), np.empty((len(text) - 1, 5))
    cache.score_then_update(text, 1, len(text), block=block)
    fill_from_parts(block.parts, 0, rows)
    assert np.array_equal(rows, still.rows(histories(text, np.arange(1, len(text)), 4, 4)))


def test_of_two_blocks_that_are_filled_at_once_only_the_one_without_room_grows(monkeypatch):
    """The parts of a whole block are megabytes, which took longer to copy than all that is watched takes to fill."""
    monkeypatch.setattr(stream_cache, "ENTRIES", 0)
    text = sample(40, 3000)
    cache, still = (seeded(40, text, 7) for _ in range(2))
    cache.spare.append((np.empty(1 << 20, np.int64), np.empty(1 << 20)))
    block, asked = Block(cache, [1], 100), Block(cache, [40, 50, 60, 70, 80])
    cache.score_then_update(text, 1, 101, block=block, asked=asked)
    assert len(block.parts.cells) == 1 << 20 and len(asked.parts.cells) > 4 * 40
    for place, t in enumerate(asked.begins.tolist()):
        still.update(text, still.counted + 1, t)
        assert np.array_equal(asked.rows()[place], still.ask(text, t, t + 1).rows()[0])
