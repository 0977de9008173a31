"""Fitting a gate by maximum likelihood, on held-out text: deterministic, stopped early by a split of that text."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from ngram.arrays import F32, F64
from ngram.blending.gate import Gate

BLOCK = 2048  # positions of a step; every fifth block of so many only decides when to stop
HIDDEN = 16  # tanh units
SMALLEST = 5 * BLOCK  # fewer positions cannot teach these units: a smaller gate is fitted
FALLBACK = 0.05  # share of each expert after the first when there is no text to fit on
EPOCHS = 30  # at most
STEPS = 2000  # of Adam, about: more text needs fewer epochs
STEP = 0.02  # the first one's size; it falls to a tenth
PATIENCE = 5  # epochs without improvement before stopping: after 3, 33,000 positions lost 0.06 nats (LOG.md)
FOLDS = 5  # stretches of little text, each held out once
LITTLE_BATCH = 128  # positions of a step on little text
PRIOR = 1.0  # positions for which the fallback's weights count beside those of little text


def fallback(experts: int) -> list[float]:
    """The weights of a gate without held-out text: small ones beside the first expert's."""
    return [1 - FALLBACK * (experts - 1), *[FALLBACK] * (experts - 1)]


def fit(features_NF: F32, probs_NK: F64, gate: Gate) -> Gate:
    """The gate that predicts held-out text best.

    features_NF (N, F): of the context only.  probs_NK (N, K): each expert's probability of the token that came.
    gate: one of `unfitted` to begin with, which is used up; its standardisation, exponents and rate stay.
    Below SMALLEST positions: weights linear in the features, or constant (`_fit_little`).  Adam: Kingma & Ba (2015)."""
    x_NF = gate.standardise(features_NF)
    if len(x_NF) < SMALLEST:
        return _fit_little(x_NF, probs_NK, gate)
    stopping = (np.arange(len(x_NF)) // BLOCK) % 5 == 4
    train = np.flatnonzero(~stopping)
    epochs = min(EPOCHS, -(-STEPS * BLOCK // len(train)))
    best, best_loss, waited = gate.parameters, np.inf, 0
    for _ in _epochs(gate, x_NF, probs_NK, train, epochs, BLOCK):
        loss = gate.gradient(x_NF[stopping], probs_NK[stopping])[0]
        waited += 1
        if loss < best_loss - 1e-6:
            best, best_loss, waited = [p.copy() for p in gate.parameters], loss, 0
        elif waited >= PATIENCE:
            break
    gate.parameters = best
    return Gate.from_bytes(gate.to_bytes(), gate.names)  # what a reader of the artifact gets: float32 values


def _fit_little(x_NF: F64, probs_NK: F64, base: Gate) -> Gate:
    """A gate without hidden units.  Its weights learn from the features, beginning at the best constants, for as many epochs as predict
    stretches best that were held out in turn: none leaves the constants."""

    def training(rows: np.ndarray) -> Iterator[Gate]:
        gate = Gate.constant(base.names, fallback(base.experts))
        gate.mean, gate.scale, gate.rate, gate.coefficients = base.mean, base.scale, base.rate, base.coefficients
        gate.parameters[4][:] = _constants(probs_NK[rows])
        return _epochs(gate, x_NF, probs_NK, rows, EPOCHS, LITTLE_BATCH)

    everything, losses = np.arange(len(x_NF)), np.zeros(EPOCHS + 1)
    for fold in np.array_split(everything, FOLDS):
        losses += [len(fold) * gate.gradient(x_NF[fold], probs_NK[fold])[0] for gate in training(np.setdiff1d(everything, fold))]
    gate = next(islice(training(everything), int(losses.argmin()), None))
    return Gate.from_bytes(gate.to_bytes(), base.names)


def _constants(probs_NK: F64) -> F64:
    """(K-1,) logarithms of weights over the first one: those that predict best whatever the context, by expectation maximisation."""
    prior = weights_K = np.array(fallback(probs_NK.shape[1]))
    for _ in range(100):
        shares_NK = weights_K * np.maximum(probs_NK, 1e-300)
        shares_NK /= shares_NK.sum(axis=1, keepdims=True)
        weights_K = (shares_NK.sum(axis=0) + PRIOR * prior) / (len(probs_NK) + PRIOR)
    logs: F64 = np.log(weights_K[1:] / weights_K[0])
    return logs


def _epochs(gate: Gate, x_NF: F64, probs_NK: F64, rows: np.ndarray, epochs: int, batch: int) -> Iterator[Gate]:
    """Trains a gate on some positions by Adam, and yields it as it was and after each epoch."""
    yield gate
    moments, t = [(np.zeros_like(p), np.zeros_like(p)) for p in gate.parameters], 0
    for epoch in range(epochs):
        order = np.random.Generator(np.random.PCG64(epoch)).permutation(rows)
        size = STEP * 0.1 ** (epoch / max(epochs - 1, 1))
        for start in range(0, len(order), batch):
            t += 1
            chosen = order[start : start + batch]
            _, gradients = gate.gradient(x_NF[chosen], probs_NK[chosen])
            for p, g, (first, second) in zip(gate.parameters, gradients, moments, strict=True):
                first += 0.1 * (g - first)
                second += 0.01 * (g * g - second)
                p -= size * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.99**t)) + 1e-9)
        yield gate


def unfitted(features_NF: F32, names: Sequence[str], experts: int) -> Gate:
    """The gate that a fit begins with: the fallback's weights everywhere, standardised for these features, random hidden units."""
    gate = Gate.constant(names, fallback(experts), hidden=HIDDEN)
    wide = features_NF.astype(np.float64)
    gate.mean, gate.scale = (x.astype(np.float32).astype(np.float64) for x in (wide.mean(0), np.maximum(wide.std(0), 1e-3)))
    random = np.random.Generator(np.random.PCG64(0))
    gate.parameters[0][:] = random.standard_normal(gate.parameters[0].shape) / np.sqrt(len(names))
    return gate
