"""The gate mixes experts by their context alone: normalised, deterministic, adapted in order, small."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngram.blending import fit
from ngram.blending.gate import FLOOR, MAX_BYTES, Gate, mix
from ngram.errors import FileFormatError
from tests.support.gate_oracle import oracle_weights
from tests.support.kernels import SLOW

pytestmark = pytest.mark.kernels

NAMES = ("a", "b", "c")


def random_gate(seed=0, experts=2, hidden=4, rate=0.5):
    random = np.random.default_rng(seed)
    f, o = len(NAMES), experts - 1
    shapes = [(hidden, f), (hidden,), (o, hidden), (o, f), (o,)]
    gate = Gate(NAMES, random.normal(size=f), random.uniform(0.5, 2, f), [random.normal(size=s) for s in shapes], rate)
    return Gate.from_bytes(gate.to_bytes(), NAMES)


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


def fitted(features, probs):
    return fit.fit(features, probs, fit.unfitted(features, NAMES, probs.shape[1]))


def test_fitting_finds_who_is_right_when(monkeypatch):
    random = np.random.default_rng(5)
    rows = 600 if SLOW else 12_000
    features = random.normal(size=(rows, 3)).astype(np.float32)
    first_is_right = features[:, 0] * features[:, 1] > 0  # not linear: needs the hidden units
    probs = np.where(first_is_right[:, None], [[0.5, 0.05]], [[0.05, 0.5]])
    for name, value in {"SMALLEST": 100, "BLOCK": 32 if SLOW else 256, "EPOCHS": 12 if SLOW else 30}.items():
        monkeypatch.setattr(fit, name, value)
    gate = fitted(features, probs)
    even = -math.log(0.275)
    loss = -float(np.mean(np.log(mix(gate.weights(features), probs))))
    assert loss < (even if SLOW else 0.75 * even)
    assert gate.to_bytes() == fitted(features, probs).to_bytes()


def test_without_any_text_the_weight_is_small_and_fixed():
    features, _ = sample(10)
    gate = fit.fallback(NAMES)
    assert np.allclose(gate.weights(features)[:, 1], (1 - FLOOR) * fit.FALLBACK + FLOOR / 2) and gate.kind == "constant"


def nats(gate, features, probs):
    return -float(np.mean(np.log(mix(gate.weights(features), probs))))


def of_two(rows, share_of_second):
    """Experts of which one is right and one is wrong at every position; share_of_second: the second one's chance, a row."""
    second = np.random.default_rng(2).random(rows) < share_of_second
    return np.where(second[:, None], [[0.02, 0.5]], [[0.5, 0.02]])


@pytest.mark.parametrize("scale", [0, 1])
def test_little_text_that_tells_nothing_of_the_features_gives_the_best_constants(scale, monkeypatch):
    monkeypatch.setattr(fit, "EPOCHS", 6 if SLOW else 30)
    features, _ = sample(300, 4)
    features *= scale
    probs = of_two(300, 0.8)
    gate = fitted(features, probs)
    best = min((nats(Gate.constant(NAMES, [1 - w, w]), features, probs), w) for w in np.linspace(0.01, 0.99, 99))
    assert gate.kind == "constant" or scale  # what noise there is may be followed a little
    assert nats(gate, features, probs) < best[0] + 0.01
    assert abs(gate.weights(features)[:, 1].mean() - best[1]) < 0.06  # the fallback, five in a hundred, would be far off
    assert gate.to_bytes() == fitted(features, probs).to_bytes()


def test_little_text_that_tells_who_is_right_when_gives_weights_linear_in_the_features():
    features, _ = sample(400, 4)
    probs = of_two(400, 0.5 + 0.45 * np.sign(features[:, 0]))
    gate = fitted(features, probs)
    unseen, _ = sample(400, 5)
    truth = of_two(400, 0.5 + 0.45 * np.sign(unseen[:, 0]))
    assert gate.kind == "linear" and len(gate.to_bytes()) < 500
    assert nats(gate, unseen, truth) < nats(Gate.constant(NAMES, [0.5, 0.5]), unseen, truth) - 0.15


@pytest.mark.parametrize("rows", [1, 3, fit.FOLDS])
def test_a_handful_of_positions_leaves_the_fallback_a_share(rows, monkeypatch):
    monkeypatch.setattr(fit, "EPOCHS", 3)
    features, _ = sample(rows)
    gate = fitted(features, of_two(rows, 1.0))
    assert fit.FALLBACK < gate.weights(features)[0, 1] < (rows + fit.FALLBACK) / (rows + fit.PRIOR)


def test_a_gate_of_two_hundred_positions_is_as_good_as_an_expert_that_is_always_the_best(monkeypatch):
    """The fallback's weights once counted as ten positions: 0.06 bits a token."""
    monkeypatch.setattr(fit, "EPOCHS", 3)
    features, _ = sample(200)
    gate = fitted(features, of_two(200, 1.0))
    unseen, _ = sample(2000, 6)
    truth = of_two(2000, 1.0)
    assert nats(gate, unseen, truth) + np.log(truth[:, 1]).mean() < 0.01


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
