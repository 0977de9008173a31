"""The product of two experts is a distribution, says the same by every path, and its exponents are the likeliest ones."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybrid.scoring import product as product_scores
from hybrid.scoring.product import Kept, ProductScorer, rows_on
from ngram.blending.gate import FALLBACK_EXPONENTS, LEAST, STEEPEST, Gate
from ngram.blending.product import fill_product_rows
from ngram.counting.counter import NgramCache
from ngram.online.cache import OnlineCache, histories
from ngram.online.stream_cache import Block
from tests.support.kernels import SLOW

pytestmark = pytest.mark.kernels



def rows_of(random, count, size, spread=3.0):
    logits = random.normal(size=(count, size)) * spread
    rows = np.exp(logits - logits.max(1, keepdims=True))
    return rows / rows.sum(1, keepdims=True)


def product_of(first, second, exponents):
    out = np.empty_like(first)
    fill_product_rows(0, len(out), first, second, exponents, out)
    return out


@given(st.integers(1, 5), st.integers(2, 12), st.integers(0, 50))
def test_rows_are_the_formula_and_sum_to_one(count, size, seed):
    random = np.random.default_rng(seed)
    first, second, exponents = rows_of(random, count, size), rows_of(random, count, size), random.normal(size=(count, 2))
    found = product_of(first, second, exponents)
    for p, q, (a, b), row in zip(first, second, exponents, found, strict=True):
        powers = [math.pow(x, a) * math.pow(y, b) for x, y in zip(p, q, strict=True)]
        assert np.allclose(row, [power / sum(powers) for power in powers], rtol=1e-10)
    assert np.abs(found.sum(1) - 1).max() <= 1e-12


@pytest.mark.parametrize(("exponents", "which"), [((1.0, 0.0), 0), ((0.0, 1.0), 1)])
def test_an_exponent_of_one_alone_is_that_expert(exponents, which):
    random = np.random.default_rng(0)
    experts = rows_of(random, 4, 9), rows_of(random, 4, 9)
    assert np.allclose(product_of(*experts, np.tile(exponents, (4, 1))), experts[which], rtol=1e-12)


def test_impossible_tokens_count_as_the_least_and_never_as_nan():
    first, second = np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 0.5, 0.5]])
    found = product_of(first, second, np.array([[0.5, 0.5]]))
    expected = np.sqrt([LEAST, 0.5 * LEAST, 0.5 * LEAST])
    assert np.allclose(found, expected / expected.sum(), rtol=1e-12)
    assert np.isfinite(product_of(first, second, np.array([[-2.0, 3.0]]))).all()


def test_a_row_does_not_depend_on_the_rows_beside_it():
    random = np.random.default_rng(1)
    first, second, exponents = rows_of(random, 7, 20), rows_of(random, 7, 20), random.normal(size=(7, 2))
    whole = product_of(first, second, exponents)
    assert all(np.array_equal(product_of(first[i : i + 1], second[i : i + 1], exponents[i : i + 1])[0], whole[i]) for i in range(7))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))])
def test_the_path_to_the_targets_alone_says_the_same_in_double_and_nearly_so_in_float(device):
    random, size = np.random.default_rng(2), 11
    tokens = random.integers(2, size, 60).astype(np.uint16)
    tokens[0] = 1
    counts = NgramCache(size, 4)
    counts.count_stream(tokens[:30])
    cache, where = OnlineCache(counts.table()), np.arange(1, 60)
    first, exponents = rows_of(random, 59, size), random.normal(size=(59, 2))
    expected = product_of(first, cache.rows(histories(tokens, where, 4, 1)), exponents)[where - 1, tokens[1:]]
    scorer, logp = ProductScorer(), torch.from_numpy(np.log(first)).to(device)
    for kind, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        for begin, end, cut in ((1, 60, 30), (1, 51, 20), (21, 60, 22)):  # read in one go, scored in two; memory is used again
            neural, block = logp[begin - 1 : end - 1].to(kind), Block(cache, [begin], end - begin)
            for a, b in ((begin, cut), (cut, end)):
                cache.score(tokens, a, b, block=block)
                second = scorer.read(tokens, block, a, b, neural)
                found = scorer.score(tokens[a:b].astype(np.int64), neural[a - begin : b - begin], second, exponents[a - 1 : b - 1])
                np.testing.assert_allclose(found.cpu(), expected[a - 1 : b - 1], rtol=tolerance)
            for t in (begin, end - 1):
                logp_1V = neural[t - begin : t - begin + 1]
                second_1V = scorer.read_next(tokens, block, t, logp_1V)
                row = scorer.rows(logp_1V, second_1V, exponents[t - 1 : t])[0].cpu().numpy()
                assert abs(row.sum() - 1) <= 10 * tolerance
                assert row[tokens[t]] == scorer.score(tokens[t : t + 1].astype(np.int64), logp_1V, second_1V, exponents[t - 1 : t])[0]
            assert torch.equal(rows_on(block, begin, end, logp.device).cpu(), rows_on(block, begin, end, torch.device("cpu")))


def test_exponents_are_linear_in_clipped_standardised_features_whatever_the_batch():
    random = np.random.default_rng(3)
    nothing = [np.zeros(shape) for shape in ((0, 2), (0,), (1, 0), (1, 2), (1,))]
    gate = Gate(("a", "b"), np.array([1.0, -1.0]), np.array([2.0, 0.5]), nothing, 0.0, random.normal(size=(2, 3)) / 4)
    features = random.normal(size=(6, 2)).astype(np.float32) * 9
    found = gate.exponents(features)
    for x, pair in zip(features, found, strict=True):
        z = [max(-4.0, min(4.0, (x[0] - 1) / 2)), max(-4.0, min(4.0, (x[1] + 1) / 0.5)), 1.0]
        assert np.allclose(pair, [sum(c * v for c, v in zip(row, z, strict=True)) for row in gate.coefficients], rtol=1e-12)
    assert all(np.array_equal(gate.exponents(features[i : i + 1])[0], found[i]) for i in range(6))
    steep = Gate(gate.names, gate.mean, gate.scale, nothing, 0.0, gate.coefficients * 1e30)
    assert np.abs(steep.exponents(features)).max() == STEEPEST
    stored = Gate.from_bytes(gate.to_bytes(), ("a", "b"))
    assert np.array_equal(stored.coefficients, gate.coefficients.astype(np.float32))
    assert np.array_equal(Gate.constant(("a", "b"), [0.5, 0.5]).exponents(features), np.tile(FALLBACK_EXPONENTS, (6, 1)))


def planted(count, seed=0):
    """Targets drawn from a product whose exponents are 0.9 + 0.2 x and 0.5 - 0.3 x: (x, kept, coefficients)."""
    random, size, coefficients = np.random.default_rng(seed), 6, np.array([[0.2, 0.9], [-0.3, 0.5]])
    x = random.normal(size=(count, 1))
    first, second = rows_of(random, count, size, 1.5), rows_of(random, count, size, 1.5)
    product = product_of(first, second, np.concatenate([x, np.ones((count, 1))], axis=1) @ coefficients.T)
    targets = (product.cumsum(1) < random.random((count, 1))).sum(1)
    halves = slice(0, count // 3), slice(count // 3, count)  # kept comes in pieces
    return x, [Kept(torch.from_numpy(np.log(first[h])), torch.from_numpy(np.log(second[h])), torch.from_numpy(targets[h])) for h in halves], coefficients


def home(features):
    """Coefficients of the fallback's exponents."""
    return Gate.constant(("feature",) * features, [0.5, 0.5]).coefficients


def test_the_fit_finds_planted_exponents():
    x, kept, coefficients = planted(4000 if SLOW else 40_000)
    found = product_scores.fit(x, kept, home(1))
    assert np.abs(found - coefficients).max() < (0.15 if SLOW else 0.05)
    assert np.array_equal(found, product_scores.fit(x, kept, home(1)))


def test_no_other_exponents_near_the_fit_give_fewer_nats():
    x, kept, _ = planted(500)
    found = product_scores.fit(x, kept, home(1))
    design = np.concatenate([x, np.ones((500, 1))], axis=1)

    def cost(theta):
        first, second, targets = (torch.cat([getattr(part, name) for part in kept]) for name in ("first_SV", "second_SV", "targets_S"))
        away = theta - [[0, FALLBACK_EXPONENTS[0]], [0, FALLBACK_EXPONENTS[1]]]
        powers = torch.from_numpy(design @ theta.T)
        mixed = powers[:, :1] * first + powers[:, 1:] * second
        return float((torch.logsumexp(mixed, 1) - mixed.gather(1, targets[:, None])[:, 0]).sum()) + (away**2).sum() / 2

    best = cost(found)
    for place in np.ndindex(2, 2):
        for step in (-0.02, 0.02):
            other = found.copy()
            other[place] += step
            assert cost(other) > best


def test_without_any_text_the_fit_stays_at_the_fallback():
    found = product_scores.fit(np.zeros((0, 3)), [], home(3))
    assert np.array_equal(found, [[0, 0, 0, FALLBACK_EXPONENTS[0]], [0, 0, 0, FALLBACK_EXPONENTS[1]]])
