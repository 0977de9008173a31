"""Text drawn from an order-3 model follows that model, and what a device counts is the host's run."""

import numpy as np
import pytest

from ngram.counting.counter import NgramCache
from ngram.kneser_ney import smoothed_orders
from ngram.table import suffix_rows
from scripts.bench import drawn, gpu_counting
from tests.support.counting import BOS
from tests.support.kernels import SLOW

VOCAB = 6


@pytest.mark.skipif(SLOW, reason="200,000 tokens through a kernel")
def test_drawn_tokens_follow_the_interpolated_distribution_of_the_two_tokens_before():
    learner = NgramCache(VOCAB, 3, BOS)
    learner.count_stream(np.random.default_rng(0).choice(VOCAB, 400, p=[0.4, 0.1, 0.2, 0.15, 0.1, 0.05]).astype(np.uint16))
    table = learner.table()
    source = drawn.Source(table)
    text = source.document(7, 200_000)
    assert np.array_equal(text, source.document(7, 200_000)) and not np.array_equal(text, source.document(8, 200_000))
    assert text[0] == BOS and sum(map(len, source.documents(2_500))) == 2_500
    *_, pairs, triples = smoothed_orders(table, suffix_rows(table))
    for row in range(len(table.tokens[1])):
        context = int(table.parents[1][row]), int(table.tokens[1][row])
        children = np.flatnonzero(table.parents[2] == row)
        after = text[2:][(text[:-2] == context[0]) & (text[1:-1] == context[1])]
        if context[1] == BOS or len(after) < 1000 or not len(children):
            continue  # after BOS nothing of what stood before it counts
        share = np.array([(after == token).mean() for token in table.tokens[2][children]])
        prob = triples.prob[children]
        assert np.all(np.abs(share - prob) < 6 * np.sqrt(prob / len(after)) + 1e-3), context
    assert len(pairs.prob) == len(table.tokens[1])


@pytest.mark.parametrize("narrow", [False, True])
def test_a_device_s_keys_and_counts_are_the_host_s_run(narrow):
    stream = np.random.default_rng(1).choice(VOCAB, 3_000).astype(np.uint16)
    found, host = gpu_counting.measure(stream, VOCAB, "cpu", narrow), gpu_counting.host(stream, VOCAB)
    assert found["digest"] == host["host_digest"]
