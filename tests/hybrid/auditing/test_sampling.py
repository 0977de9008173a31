"""The power that an audit states is what happens, and its plan is as large as that needs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.auditing.sampling import GAIN, LN2, MISS, SLACK_BITS, chances, plan


def bits(size=3000, seed=0):
    """(claimed, reference) of a scorer that is a little better than the reference."""
    random = np.random.default_rng(seed)
    claimed = random.gamma(1.5, 2.0, size)
    claimed[0] = 0
    return claimed, claimed * random.uniform(0.7, 1.6, size)


def test_by_default_a_gain_of_half_a_per_cent_stays_unseen_once_in_ten_thousand_audits():
    claimed, reference = bits(40_000)
    made = plan(claimed, reference, 64)
    assert made.power(GAIN) == pytest.approx(1 - MISS, abs=1e-9)
    assert made.power(GAIN) >= 0.999
    assert made.chance[0] == 0 and made.chance[1:].min() > 0


def test_the_number_of_positions_does_not_grow_with_the_stream():
    sizes = [plan(claimed, reference, 64).chance.sum() for claimed, reference in (bits(60_000), bits(600_000))]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


@pytest.mark.parametrize("positions", [10, 300, 2999, 5000])
def test_about_as_many_positions_are_drawn_as_were_asked_for(positions):
    claimed, reference = bits()
    made = plan(claimed, reference, 64, positions)
    assert made.chance.sum() == pytest.approx(min(positions, 2999), abs=1)
    drawn = made.draw(np.random.default_rng(1))
    assert abs(len(drawn) - made.chance.sum()) <= 5 * math.sqrt(made.chance.sum() + 1)
    assert 0 not in drawn and (np.diff(drawn) > 0).all()


def found(made, gain_N, random, audits):
    """Share of audits in which a cheat that gains gain_N (N,) bits is seen: where a position is drawn and the substitute has another value
    of what the scorer has looked at, which has the probability 2^-gain."""
    seen = (random.random((audits, len(gain_N))) < made.chance) & (random.random((audits, len(gain_N))) < 1 - 0.5**gain_N)
    return seen.any(axis=1).mean()


@pytest.mark.parametrize("way", ["least likely to be drawn", "most room", "a little everywhere", "half of the room"])
@pytest.mark.parametrize("gain", [0.002, 0.01])
def test_no_way_to_gain_is_seen_more_rarely_than_stated(way, gain):
    claimed, reference = bits(600)
    made = plan(claimed, reference, 64, 60)
    room = np.maximum(np.maximum(reference, 6) + SLACK_BITS - claimed, 0) * (np.arange(600) > 0)
    wanted, gain_N = gain * made.claimed, np.zeros(600)
    if way == "a little everywhere":
        gain_N = room * wanted / room.sum()
    else:
        for t in np.argsort(-room if way == "most room" else made.chance / np.maximum(room, 1e-9)):
            gain_N[t] = min(room[t] * (0.5 if way == "half of the room" else 1), wanted - gain_N.sum())
    assert gain_N.sum() == pytest.approx(wanted)
    share = found(made, gain_N, np.random.default_rng(2), 4000)
    assert share >= made.power(gain) - 3 * math.sqrt(made.power(gain) * (1 - made.power(gain)) / 4000)


@given(st.floats(0, 30), st.floats(0, 1), st.floats(1e-6, 1))
@settings(deadline=None, max_examples=200)
def test_a_gained_bit_is_seen_at_the_same_rate_everywhere(room, share, rate):
    """The bound of the docstring, at every gain up to the room, and met where all of the room is gained."""
    (q,) = chances(np.array([room]), rate * LN2)
    assert 0 < q <= 1
    missed = 1 - q * (1 - 0.5 ** (share * room))
    assert missed <= math.exp(-rate * LN2 * share * room) + 1e-12
    assert 1 - q * (1 - 0.5**room) == pytest.approx(math.exp(-rate * LN2 * room), abs=1e-8)


def test_a_short_stream_is_asked_everywhere_and_a_gained_bit_missed_every_other_time():
    claimed, reference = bits(50)
    made = plan(claimed, reference, 64)
    assert (made.chance[1:] == 1).all()
    assert made.power(0.05) == pytest.approx(1 - 0.5 ** (0.05 * claimed.sum()))
    assert (plan(np.zeros(50), reference, 64).chance[1:] == 1).all()
