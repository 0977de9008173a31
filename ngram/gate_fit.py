"""Fitting a gate by maximum likelihood, on held-out text: deterministic, stopped early by a split of that same text."""

from collections.abc import Sequence

import numpy as np

from ngram.gate import F32, F64, Gate

BLOCK = 2048  # every fifth block of so many positions only decides when to stop
HIDDEN = 16  # tanh units
SMALLEST = 4 * BLOCK  # less text than this cannot teach a gate: the fallback is used
FALLBACK = 0.05  # share of each expert after the first when there is no text to fit on
PATIENCE = 3  # epochs without improvement before stopping


def fallback(names: Sequence[str], experts: int = 2, rate: float = 0.0) -> Gate:
    """The gate of a run without held-out text: a small fixed weight, adapted only if `rate` says so."""
    others = [FALLBACK] * (experts - 1)
    return Gate.constant(names, [1 - sum(others), *others], rate=rate)


def fit(
    features_NF: F32,
    probs_NK: F64,
    names: Sequence[str],
    *,
    base: Gate | None = None,
    hidden: int = HIDDEN,
    rate: float = 0.0,
    epochs: int = 30,
    step: float = 0.02,
    batch: int = BLOCK,
    smallest: int = SMALLEST,
) -> Gate:
    """The gate that predicts held-out text best.

    features_NF (N, F): of the context only.  probs_NK (N, K): each expert's probability of the token that came.
    base: a gate of `unfitted` to begin with, whose standardisation and exponents stay; None: one made here.
    hidden: tanh units.  rate: stored for `Gate.update`.  step: first Adam step size; it falls to a tenth.
    Below `smallest` positions: `fallback`.  Adam: Kingma & Ba (2015)."""
    if len(features_NF) < smallest:
        return fallback(names, probs_NK.shape[1], rate)
    gate = base or unfitted(features_NF, names, probs_NK.shape[1], hidden=hidden, rate=rate)
    x_NF = gate.standardise(features_NF)
    stopping = (np.arange(len(x_NF)) // batch) % 5 == 4
    train, check = np.flatnonzero(~stopping), np.flatnonzero(stopping)
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in gate.parameters]
    best, best_loss, waited, t = [p.copy() for p in gate.parameters], gate.gradient(x_NF[check], probs_NK[check])[0], 0, 0
    for epoch in range(epochs):
        order = np.random.Generator(np.random.PCG64(epoch)).permutation(train)
        size = step * 0.1 ** (epoch / max(epochs - 1, 1))
        for start in range(0, len(order), batch):
            t += 1
            rows = order[start : start + batch]
            _, gradients = gate.gradient(x_NF[rows], probs_NK[rows])
            _adam(gate.parameters, gradients, moments, size, t)
        loss = gate.gradient(x_NF[check], probs_NK[check])[0]
        if loss < best_loss - 1e-6:
            best, best_loss, waited = [p.copy() for p in gate.parameters], loss, 0
        else:
            waited += 1
            if waited >= PATIENCE:
                break
    gate.parameters = best
    return Gate.from_bytes(gate.to_bytes(), names)  # what a reader of the artifact gets: float32 values


def unfitted(features_NF: F32, names: Sequence[str], experts: int, *, hidden: int = HIDDEN, rate: float = 0.0) -> Gate:
    """The gate that a fit begins with: the fallback's weights everywhere, standardised for these features, random hidden units."""
    others = [FALLBACK] * (experts - 1)
    gate = Gate.constant(names, [1 - sum(others), *others], hidden=hidden, rate=rate)
    wide = features_NF.astype(np.float64)
    gate.mean, gate.scale = wide.mean(0), np.maximum(wide.std(0), 1e-3)
    gate.mean, gate.scale = gate.mean.astype(np.float32).astype(np.float64), gate.scale.astype(np.float32).astype(np.float64)
    random = np.random.Generator(np.random.PCG64(0))
    gate.parameters[0][:] = random.standard_normal(gate.parameters[0].shape) / np.sqrt(len(names))
    return gate


def _adam(parameters: list[F64], gradients: list[F64], moments: list[tuple[F64, F64]], size: float, t: int) -> None:
    for p, g, (first, second) in zip(parameters, gradients, moments, strict=True):
        first += 0.1 * (g - first)
        second += 0.01 * (g * g - second)
        p -= size * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.99**t)) + 1e-9)
