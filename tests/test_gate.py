"""The gate mixes experts by their context alone: normalised, deterministic, adapted in order, small."""

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngram import gate_fit
from ngram.errors import FileFormatError
from ngram.gate import CLIP, FLOOR, MAX_BYTES, Gate, mix

SLOW = bool(os.environ.get("NUMBA_DISABLE_JIT"))  # plain Python kernels: keep the work small
NAMES = ("a", "b", "c")


def random_gate(seed=0, experts=2, hidden=4, rate=0.5):
    random = np.random.default_rng(seed)
    f, o = len(NAMES), experts - 1
    shapes = [(hidden, f), (hidden,), (o, hidden), (o, f), (o,)]
    gate = Gate(NAMES, random.normal(size=f), random.uniform(0.5, 2, f), [random.normal(size=s) for s in shapes], rate)
    return Gate.from_bytes(gate.to_bytes(), NAMES)


def oracle_weights(gate, row):
    w1, b1, w2, w3, b2 = gate.parameters
    x = [max(-CLIP, min(CLIP, (v - m) / s)) for v, m, s in zip(row, gate.mean, gate.scale, strict=True)]
    hidden = [math.tanh(b + sum(w * v for w, v in zip(ws, x, strict=True))) for ws, b in zip(w1, b1, strict=True)]
    logits = [0.0] + [b + float(np.dot(u, hidden)) + float(np.dot(v, x)) for u, v, b in zip(w2, w3, b2, strict=True)]
    soft = [math.exp(z - max(logits)) for z in logits]
    return [(1 - FLOOR) * s / sum(soft) + FLOOR / len(soft) for s in soft]


def sample(rows, seed=0, experts=2):
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, len(NAMES))).astype(np.float32) * 3, random.uniform(0.01, 1, (rows, experts))


@given(st.integers(0, 100), st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_weights_equal_the_formula_and_sum_to_one(seed, experts):
    gate = random_gate(seed, experts)
    features, _ = sample(5, seed)
    weights = gate.weights(features)
    assert np.allclose(weights, [oracle_weights(gate, row) for row in features], rtol=1e-12, atol=0)
    assert np.abs(weights.sum(1) - 1).max() < 1e-14
    assert weights.min() >= FLOOR / experts


def test_a_row_does_not_depend_on_its_batch():
    gate = random_gate()
    features, _ = sample(17)
    whole = gate.weights(features)
    assert all(np.array_equal(gate.weights(features[i : i + 1])[0], whole[i]) for i in range(17))


@pytest.mark.parametrize("experts", [2, 3])
def test_the_gradient_equals_finite_differences(experts):
    gate = random_gate(3, experts)
    features, probs = sample(6, 1, experts)
    x = gate.standardise(features)

    def loss():
        return -float(np.mean(np.log(mix(gate.weights(features), probs))))

    value, gradients = gate.gradient(x, probs)
    assert value == pytest.approx(loss(), rel=1e-12)
    for parameter, gradient in zip(gate.parameters, [g.copy() for g in gradients], strict=True):
        for place in list(np.ndindex(parameter.shape))[:4]:
            kept = parameter[place]
            sides = []
            for step in (1e-5, -1e-5):
                parameter[place] = kept + step
                sides.append(loss())
            parameter[place] = kept
            assert gradient[place] == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=1e-7)


def test_an_update_lowers_the_loss_of_its_chunk_and_changes_the_digest():
    gate = random_gate(rate=0.05)
    features, probs = sample(64)
    before, digest = gate.gradient(gate.standardise(features), probs)[0], gate.digest()
    for _ in range(8):
        gate.update(features, probs)
    assert gate.gradient(gate.standardise(features), probs)[0] < before
    assert gate.digest() != digest


def test_a_rate_of_zero_never_learns():
    gate = random_gate(rate=0.0)
    digest = gate.digest()
    gate.update(*sample(8))
    assert gate.digest() == digest


def test_same_chunks_in_the_same_order_give_the_same_bits():
    features, probs = sample(64)
    gates = [random_gate(), random_gate()]
    for gate in gates:
        for start in range(0, 64, 16):
            gate.update(features[start : start + 16], probs[start : start + 16])
    assert gates[0].digest() == gates[1].digest()


def test_fitting_finds_who_is_right_when():
    random = np.random.default_rng(5)
    rows = 600 if SLOW else 12_000
    features = random.normal(size=(rows, 3)).astype(np.float32)
    first_is_right = features[:, 0] * features[:, 1] > 0  # not linear: needs the hidden units
    probs = np.where(first_is_right[:, None], [[0.5, 0.05]], [[0.05, 0.5]])
    options = {"smallest": 100, "batch": 32 if SLOW else 256, "epochs": 12 if SLOW else 30}
    gate = gate_fit.fit(features, probs, NAMES, **options)
    even = -math.log(0.275)
    loss = -float(np.mean(np.log(mix(gate.weights(features), probs))))
    assert loss < (even if SLOW else 0.75 * even)
    assert gate.to_bytes() == gate_fit.fit(features, probs, NAMES, **options).to_bytes()


def test_without_enough_text_the_weight_is_small_and_fixed():
    features, probs = sample(10)
    gate = gate_fit.fit(features, probs, NAMES)
    weights = gate.weights(features)
    assert np.allclose(weights[:, 1], (1 - FLOOR) * gate_fit.FALLBACK + FLOOR / 2)


def test_what_is_stored_is_what_was_fitted_and_is_small():
    gate = random_gate(hidden=32)
    data = gate.to_bytes()
    assert len(data) < MAX_BYTES
    assert Gate.from_bytes(data, NAMES).digest() == gate.digest()
    assert Gate.from_bytes(data, NAMES).to_bytes() == data


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: b"x" + d[1:], lambda d: d + b"\0\0\0\0", lambda d: b"", lambda d: d[:-4] + b"\0\0\xc0\x7f"])
def test_a_malformed_gate_is_one_error(change):
    with pytest.raises(FileFormatError, match="malformed gate"):
        Gate.from_bytes(change(random_gate().to_bytes()), NAMES)


def test_a_gate_for_other_features_is_refused_by_name():
    with pytest.raises(FileFormatError, match="a, b, c.*a, b, d"):
        Gate.from_bytes(random_gate().to_bytes(), ("a", "b", "d"))
