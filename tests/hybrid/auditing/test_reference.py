"""The auditor's reference counts as it says, and its other futures tell nothing of the real one."""

import math
from collections import Counter

import numpy as np
import pytest

from hybrid.auditing.documents import shuffled
from hybrid.auditing.reference import Futures, reference_bits

V = 7


def stream(size=300, seed=0):
    random = np.random.default_rng(seed)
    return random.choice(V, size, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05]).astype(np.uint16)


def test_the_reference_is_witten_and_bells_mixture_of_counts():
    tokens = stream()
    found, text = reference_bits(tokens, V), tokens.tolist()
    for t in (1, 2, 3, 50, 299):
        p = 1 / V
        for order in range(min(t, 2) + 1):
            context = text[t - order : t]
            places = [i for i in range(max(order, 1), t) if text[i - order : i] == context]
            followers = Counter(text[i] for i in places)
            if places:
                p = (followers[text[t]] + len(followers) * p) / (len(places) + len(followers))
        assert found[t] == pytest.approx(-math.log2(p))
    assert found[0] == 0


@pytest.mark.parametrize("seed", range(5))
def test_another_future_has_another_target_another_length_and_nothing_of_what_comes(seed):
    tokens = stream(seed=seed)
    changed = tokens.copy()
    changed[200:] = (changed[200:] + 1) % V
    for t, stop in ((1, 40), (150, 190), (199, 200), (299, 300)):
        pairs = [Futures(text, V, np.random.default_rng(seed)).pair(t, stop) for text in (tokens, tokens)]
        assert all(np.array_equal(a, b) for a, b in zip(*pairs, strict=True))
        for tail in pairs[0]:
            assert tail[0] != tokens[t]
            assert len(tail) >= stop - t and t + len(tail) != len(tokens)
            assert int(tail.max()) < V
    for t in range(1, 190):  # the future lies in both behind 200: what is made before it is the same
        ours, others = (Futures(text, V, np.random.default_rng(seed + t)) for text in (tokens, changed))
        assert all(np.array_equal(a, b) for a, b in zip(ours.pair(t, 195), others.pair(t, 195), strict=True))


def test_what_stands_behind_a_chunk_is_sometimes_nothing():
    futures = Futures(stream(), V, np.random.default_rng(0))
    lengths = [len(futures.behind(100)) for _ in range(100)]
    assert 0 in lengths and max(lengths) > 200 and 200 not in lengths
    assert min(len(futures.behind(300)) for _ in range(50)) > 0


def test_shuffled_documents_are_whole_and_cut_where_the_stream_was_cut():
    tokens = np.array([0, 1, 2, 0, 3, 4, 5, 0, 6, 0, 0, 1], np.uint16)
    chunks = [(1, 5), (5, 9), (9, 12)]
    found = shuffled(tokens, chunks, 0, np.random.default_rng(0))
    assert sorted(found.places[found.places > 0].tolist()) == [1, 2, 4, 5, 6, 8, 11]
    assert np.array_equal(tokens[found.places[found.places > 0]], found.tokens[found.places > 0])
    assert (found.tokens[found.places < 0] == 0).all()
    assert [a for a, _ in found.cuts] == [1, *(b for _, b in found.cuts[:-1])] and found.cuts[-1][1] == len(found.tokens)
    assert [found.places[a:b].tolist() for a, b in found.cuts if 4 in found.places[a:b]] == [[4]]
