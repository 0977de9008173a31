"""The order of scoring and learning cannot be broken without an error that names the positions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngram.errors import LeakageError
from ngram.score_first import ScoreFirst


class Counts:
    """The smallest honest stateful scorer: add-one smoothed unigram counts of what was learned."""

    def __init__(self, vocab_size=4):
        self.counts = np.ones(vocab_size)

    def score(self, tokens, start, stop):
        return self.counts[tokens[start:stop]] / self.counts.sum()

    def update(self, tokens, start, stop):
        np.add.at(self.counts, tokens[start:stop], 1)

    def score_then_update(self, tokens, start, stop):
        scores = []
        for t in range(start, stop):
            scores.append(self.score(tokens, t, t + 1))
            self.update(tokens, t, t + 1)
        return np.concatenate(scores)

    def digest(self):
        return self.counts.tobytes().hex()


class Peeking(Counts):
    """Counts its targets while scoring them: the leak that digests must show."""

    def score(self, tokens, start, stop):
        self.update(tokens, start, stop)
        return super().score(tokens, start, stop)


STREAM = np.array([1, 0, 2, 2, 3, 0, 1, 2, 2, 3], dtype=np.uint16)


def order(part=None, **options):
    return ScoreFirst(STREAM, {"part": part or Counts()}, **options)


def test_every_target_is_scored_once_tail_included():
    scorer = order()
    seen = []
    for start, stop in scorer.chunks(4):
        seen += list(range(start, stop))
        scorer.score(start, stop)
        scorer.update(start, stop)
    assert seen == list(range(1, len(STREAM)))
    assert scorer.mark == len(STREAM)


def test_the_last_chunk_needs_no_update():
    scorer = order()
    scorer.score(1, 10)
    assert scorer.mark == len(STREAM)


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([("score", 0, 3)], "positions 0…2: position 0 is given"),
        ([("score", 1, 4), ("update", 1, 4), ("score", 3, 6)], "positions 3…5: positions up to 3 were already scored"),
        ([("score", 1, 4), ("update", 1, 4), ("score", 1, 4)], "positions 1…3: positions up to 3 were already scored"),
        ([("score", 2, 4)], "positions 2…3: scoring would skip positions 1…1"),
        ([("score", 1, 4), ("score", 4, 6)], "the chunk 1…3 was scored but not learned yet"),
        ([("update", 1, 4)], "positions 1…3: update with a chunk that was not scored yet"),
        ([("score", 1, 4), ("update", 1, 5)], "positions 1…4: update out of order, the scored chunk is 1…3"),
        ([("score", 1, 4), ("update", 1, 3)], "positions 1…2: update out of order, the scored chunk is 1…3"),
        ([("score", 1, 4), ("update", 4, 6)], "positions 4…5: update out of order"),
        ([("score", 1, 4), ("update", 1, 4), ("update", 1, 4)], "positions 1…3: update with a chunk that was already learned"),
        ([("score", 1, 11)], "not a chunk of the targets 1…9"),
        ([("score", 3, 3)], "not a chunk"),
        ([("score_then_update", 1, 4), ("update", 1, 4)], "already learned"),
        ([("score_then_update", 1, 4), ("score", 2, 5)], "already scored"),
        ([("score", 1, 4), ("score_then_update", 4, 6)], "not learned yet"),
    ],
)
def test_calls_out_of_order_raise_and_name_the_positions(calls, message):
    scorer = order()
    *good, bad = calls
    for name, start, stop in good:
        getattr(scorer, name)(start, stop)
    with pytest.raises(LeakageError, match=message):
        getattr(scorer, bad[0])(*bad[1:])


def test_a_refused_call_changes_nothing():
    scorer = order()
    scorer.score(1, 4)
    before = scorer.digests()
    with pytest.raises(LeakageError):
        scorer.update(1, 5)
    assert scorer.digests() == before
    scorer.update(1, 4)
    assert scorer.digests() != before


def test_a_frozen_scorer_never_learns():
    scorer = order(frozen=True)
    scorer.score(1, 4)
    scorer.score(4, 6)
    for call in (scorer.update, scorer.score_then_update):
        with pytest.raises(LeakageError, match="frozen"):
            call(4, 6)


def test_paranoid_mode_catches_a_part_that_learns_while_scoring():
    order(Peeking()).score(1, 4)  # nobody looks: nothing is seen
    with pytest.raises(LeakageError, match="positions 1…3: scoring changed the state of part"):
        order(Peeking(), paranoid=True).score(1, 4)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.integers(1, 50))
def test_the_fused_call_equals_the_loop_of_one_token_chunks(values, block):
    tokens = np.array(values, dtype=np.uint16)
    fused, loop = (ScoreFirst(tokens, {"part": Counts()}, paranoid=True) for _ in range(2))
    left = [fused.score_then_update(a, b)["part"] for a, b in fused.chunks(block)]
    right = []
    for a, b in loop.chunks(1):
        right.append(loop.score(a, b)["part"])
        loop.update(a, b)
    assert np.array_equal(np.concatenate(left), np.concatenate(right))
    assert fused.digests() == loop.digests()
