"""Whatever vocabulary, order, documents and chunks: a blended score is the mixture of the oracles' whole distributions, chunk by chunk."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybrid.scoring.mixture import GATE_FEATURES, Mixture
from hybrid.scoring.network import NetworkAhead, NeuralScores
from hybrid.scoring.predictor import Predictor
from ngram.blending.gate import CLIP, Gate
from ngram.online.cache import OnlineCache, histories
from ngram.online.match import MatchModel
from ngram.score_first import ScoreFirst
from tests.support.counting import BOS, adjusted_of, count, pruned_of, streams
from tests.support.gate_oracle import oracle_weights
from tests.support.kernels import examples
from tests.support.kn_oracle import OnlineOracle
from tests.support.rows import row_features

pytestmark = pytest.mark.kernels

EXAMPLES = examples(40, 8)


def network(vocab, seed):
    """A distribution after each token: rows of a (V, V) table."""
    logits = np.random.default_rng(seed).normal(size=(vocab, vocab)) * 2
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True)


def neural_scores(table, tokens):
    rows = table[tokens[:-1]]
    entropy = -(rows * np.log(rows)).sum(1)
    nats, top = -np.log(rows[np.arange(len(rows)), tokens[1:]]), np.log(rows.max(1)).astype(np.float32)
    return NeuralScores(nats, entropy.astype(np.float32), top, rows=torch.from_numpy(np.log(rows)))


def random_gate(seed, rate):
    random, f = np.random.default_rng(seed), len(GATE_FEATURES)
    shapes = [(3, f), (3,), (3, 3), (3, f), (3,)]
    parameters = [random.normal(size=s) for s in shapes]
    return Gate(GATE_FEATURES, np.zeros(f), np.full(f, 2.0), parameters, rate, random.normal(size=(2, f + 1)) / 4)


def oracle_product(gate, features, first, second):
    """Powers and a division, nothing else."""
    x = [*np.clip((features - gate.mean) / gate.scale, -CLIP, CLIP), 1.0]
    a, b = (sum(c * v for c, v in zip(row, x, strict=True)) for row in gate.coefficients)
    powers = [math.exp(a * math.log(p) + b * math.log(q)) for p, q in zip(first, second, strict=True)]
    return np.array(powers) / sum(powers)


@given(streams(max_size=30), streams(max_size=30), st.integers(2, 5), st.integers(1, 40), st.integers(0, 5))
@EXAMPLES
def test_blended_scores_are_the_mixture_of_the_oracles_distributions(trained, test, order, chunk, seed):
    vocab, tokens = max(trained[0], test[0]), np.array(test[1], np.uint16)
    if len(tokens) < 2:
        return
    table, net, gate = count(vocab, trained[1], order).table(), network(vocab, seed), random_gate(seed, 0.3)
    oracle = OnlineOracle(adjusted_of(table), pruned_of(table, order), table.discounts.tolist(), vocab, order, BOS)
    shadow, copier, twin = OnlineCache(table), MatchModel(vocab, BOS), random_gate(seed, 0.3)  # match: by its own oracle elsewhere
    part = Predictor(NetworkAhead([neural_scores(net, tokens)]), OnlineCache(table), MatchModel(vocab, BOS), Mixture(gate, chunk), by_chunk=True)
    scorer = ScoreFirst(tokens, {"blend": part}, paranoid=True)
    for start, stop in scorer.chunks(chunk):
        found = scorer.score(start, stop)["blend"]
        seen, probs = [], []
        past = histories(tokens, np.arange(start, stop), order, BOS)
        for i, features in enumerate(row_features(shadow, past)):
            row_net, row_ngram = net[tokens[start + i - 1]], np.array(oracle.row(tokens.tolist(), start + i))
            told, row_match = copier.score(tokens, start + i, start + i + 1).features[0], copier.row(tokens, start + i)
            seen.append([-(row_net * np.log(row_net)).sum(), math.log(row_net.max()), *features, *told])
            weights = oracle_weights(twin, np.array(seen[-1], np.float32))
            row_product = oracle_product(twin, np.array(seen[-1], np.float32), row_net, row_ngram)
            experts = (row_net, row_product, row_ngram, row_match)
            row = sum(weight * expert for weight, expert in zip(weights, experts, strict=True))
            assert abs(row.sum() - 1) <= 1e-12
            np.testing.assert_allclose(found.mixed[i], row[tokens[start + i]], rtol=1e-6)  # entropies are float32
            probs.append([expert[tokens[start + i]] for expert in experts])
        if stop < len(tokens):
            scorer.update(start, stop)
            shadow.update(tokens, start, stop)
            copier.update(tokens, start, stop)
            twin.update(np.array(seen, np.float32), np.array(probs))
            for t in range(start, stop):
                oracle.count(tokens.tolist(), t)
    assert scorer.mark == len(tokens)
