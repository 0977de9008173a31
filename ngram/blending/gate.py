"""Gate: how much each of K experts (network, n-grams, …) counts at a position, from features of the context alone.

A small softmax network: weights(x) = (1 - FLOOR) · softmax([0, W2 · tanh(W1 x + b1) + W3 x + b2]) + FLOOR / K over standardised,
clipped features x; docs/concepts.md says why the mixture Σ_k weight_k · p_k is a distribution, and how they are learned.
All is float64 in plain loops: a row's weights do not depend on its batch, and every rank computes the same bits.
The same features give the exponents of the expert that multiplies two others (product.py); those stay as fitted.

Shapes: N positions, F features, K experts, H hidden units.
Mixture of experts with a learned gate: Jacobs, Jordan, Nowlan & Hinton (1991); linear mixing: Jelinek & Mercer (1980).
"""

import json
import math
import struct
from collections.abc import Sequence
from functools import reduce

import numpy as np

from ngram.arrays import F32, F64, Array, digest
from ngram.compiled import njit
from ngram.errors import FileFormatError

MAX_BYTES = 20_000  # the gate's share of an artifact
FLOOR = 1e-3  # an expert never counts for less than FLOOR / K: an unexpected text costs at most ln(K / FLOOR) once
CLIP = 4.0  # standardised features end here: out of domain is not extrapolated to infinity
FALLBACK_EXPONENTS = (0.75, 0.25)  # of a product's two experts, where nothing was fitted
LEAST = 1e-30  # a smaller probability counts as this much in a product: no logarithm is infinite
STEEPEST = 8.0  # bound of such an exponent: whatever an artifact says, powers stay numbers
_MAGIC = b"SGGATE\0\2"  # 2: with exponents
_HEAD = struct.Struct("<8sHHHHd")  # magic, K, F, H, length of the names, learning rate


@njit
def _forward(x_F: Array, net: tuple[Array, ...], hidden_H: Array, weight_K: Array) -> None:
    """Fills hidden_H and weight_K (softmax, before the floor) for one standardised row.  net: Gate._net; w2, w3, b2 have K-1 rows."""
    w1_FH, b1_H, w2_KH, w3_KF, b2_K = net
    outputs = len(b2_K)
    for h in range(len(b1_H)):
        hidden_H[h] = b1_H[h]
    for f in range(len(x_F)):  # units innermost: their sums go on side by side, each in the order of the features
        for h in range(len(b1_H)):
            hidden_H[h] += w1_FH[f, h] * x_F[f]
    for h in range(len(b1_H)):
        hidden_H[h] = math.tanh(hidden_H[h])
    top = 0.0
    weight_K[0] = 0.0
    for k in range(outputs):
        total = b2_K[k]
        for h in range(len(hidden_H)):
            total += w2_KH[k, h] * hidden_H[h]
        for f in range(len(x_F)):
            total += w3_KF[k, f] * x_F[f]
        weight_K[k + 1] = total
        top = max(top, total)
    mass = 0.0
    for k in range(outputs + 1):
        weight_K[k] = math.exp(weight_K[k] - top)
        mass += weight_K[k]
    for k in range(outputs + 1):
        weight_K[k] /= mass


@njit
def _weights(x_NF: Array, net: tuple[Array, ...], out_NK: Array) -> None:
    hidden_H = np.empty(len(net[1]))
    for i in range(len(x_NF)):
        _forward(x_NF[i], net, hidden_H, out_NK[i])


@njit
def _gradient(x_NF: Array, p_NK: Array, net: tuple[Array, ...], gradients: tuple[Array, ...]) -> float:
    """Mean of -ln Σ_k weight_k p_k over rows; its gradient is added to the gradient arrays, which are zero."""
    w2_KH = net[2]
    g1_FH, gb1_H, g2_KH, g3_KF, gb2_K = gradients
    rows, features = x_NF.shape
    outputs, hidden = w2_KH.shape
    hidden_H, soft_K, back_H = np.empty(hidden), np.empty(outputs + 1), np.empty(hidden)
    loss = 0.0
    for i in range(rows):
        _forward(x_NF[i], net, hidden_H, soft_K)
        mean, average = 0.0, 0.0  # softmax mixture, and the plain average that the floor adds
        for k in range(outputs + 1):
            mean += soft_K[k] * p_NK[i, k]
            average += p_NK[i, k] / (outputs + 1)
        p = max((1.0 - FLOOR) * mean + FLOOR * average, 1e-300)
        loss -= math.log(p)
        back_H[:] = 0.0
        for k in range(outputs):
            delta = -(1.0 - FLOOR) * soft_K[k + 1] * (p_NK[i, k + 1] - mean) / p / rows
            gb2_K[k] += delta
            for h in range(hidden):
                g2_KH[k, h] += delta * hidden_H[h]
                back_H[h] += delta * w2_KH[k, h]
            for f in range(features):
                g3_KF[k, f] += delta * x_NF[i, f]
        for h in range(hidden):
            back_H[h] *= 1.0 - hidden_H[h] * hidden_H[h]
            gb1_H[h] += back_H[h]
        for f in range(features):
            for h in range(hidden):
                g1_FH[f, h] += back_H[h] * x_NF[i, f]
    return loss / max(rows, 1)


class Gate:
    """Weights of K experts from F named features; see the module for the formula.

    mean, scale (F,): standardisation.  parameters: W1 (H,F), b1 (H,), W2 (K-1,H), W3 (K-1,F), b2 (K-1,), float64.
    rate: step of `update` per 1,024 positions; 0 keeps the gate as it was fitted.  coefficients (2, F+1): of a product's
    exponents, the last ones constant; None: FALLBACK_EXPONENTS."""

    def __init__(self, names: Sequence[str], mean: F64, scale: F64, parameters: Sequence[F64], rate: float, coefficients: F64 | None = None) -> None:
        self.names = tuple(names)
        self.mean, self.scale, self.rate = mean, scale, rate
        self.parameters = [np.array(p, dtype=np.float64) for p in parameters]
        if coefficients is None:
            coefficients = np.zeros((2, len(self.names) + 1))
            coefficients[:, -1] = FALLBACK_EXPONENTS
        self.coefficients = coefficients

    @property
    def experts(self) -> int:
        return len(self.parameters[4]) + 1

    @property
    def kind(self) -> str:
        """What its weights are of the features: "network" with hidden units, "linear", or "constant"."""
        return "network" if len(self.parameters[1]) else "linear" if self.parameters[3].any() else "constant"

    @classmethod
    def constant(cls, names: Sequence[str], weights: Sequence[float], *, hidden: int = 0, rate: float = 0.0) -> "Gate":
        """A gate that gives `weights` (sum 1) whatever the features: the start of a fit, and the fallback without any text for one."""
        features, outputs = len(names), len(weights) - 1
        bias = np.array([math.log(w / weights[0]) for w in weights[1:]])
        zeros = [np.zeros((hidden, features)), np.zeros(hidden), np.zeros((outputs, hidden)), np.zeros((outputs, features))]
        return cls(names, np.zeros(features), np.ones(features), [*zeros, bias], rate)

    def standardise(self, features_NF: F32 | F64) -> F64:
        """(N, F) float64, clipped to ±CLIP standard deviations."""
        return np.ascontiguousarray(np.clip((features_NF - self.mean) / self.scale, -CLIP, CLIP))

    def _net(self) -> tuple[F64, ...]:
        """The parameters, W1 as (F,H)."""
        return np.ascontiguousarray(self.parameters[0].T), *self.parameters[1:]

    def weights(self, features_NF: F32 | F64) -> F64:
        """(N, K) float64, rows sum to 1; each at least FLOOR / K."""
        out_NK = np.empty((len(features_NF), self.experts))
        _weights(self.standardise(features_NF), self._net(), out_NK)
        return (1.0 - FLOOR) * out_NK + FLOOR / self.experts

    def exponents(self, features_NF: F32 | F64) -> F64:
        """(N, 2) float64: a product's exponents, each linear in the standardised features and within ±STEEPEST."""
        terms_F2N = self.standardise(features_NF).T[:, None] * self.coefficients.T[:-1, :, None]
        sums_2N = reduce(np.add, terms_F2N, self.coefficients[:, -1:])  # one order of additions, whatever the batch
        return np.clip(np.ascontiguousarray(sums_2N.T), -STEEPEST, STEEPEST)

    def gradient(self, x_NF: F64, probs_NK: F64) -> tuple[float, list[F64]]:
        """Mean nats a row of the mixture and its gradient; x_NF standardised, probs_NK (N, K) the experts' probabilities."""
        net = self._net()
        gradients = tuple(map(np.zeros_like, net))
        return _gradient(x_NF, np.ascontiguousarray(probs_NK), net, gradients), [gradients[0].T, *gradients[1:]]

    def update(self, features_NF: F32 | F64, probs_NK: F64) -> None:
        """One gradient step on a chunk that has been scored."""
        if self.rate and len(features_NF):
            _, gradients = self.gradient(self.standardise(features_NF), probs_NK)
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter -= self.rate * len(features_NF) / 1024 * gradient

    def digest(self) -> str:
        """xxh3_128 of every parameter."""
        return digest(self.mean, self.scale, *self.parameters, self.coefficients)

    def to_bytes(self) -> bytes:
        """float32 parameters behind a small header; same gate, same bytes."""
        names = json.dumps(self.names).encode()
        arrays = [self.mean, self.scale, *self.parameters, self.coefficients]
        data = _HEAD.pack(_MAGIC, self.experts, len(self.names), len(self.parameters[1]), len(names), self.rate) + names
        data += b"".join(array.astype("<f4").tobytes() for array in arrays)
        if len(data) > MAX_BYTES:
            raise ValueError(f"gate of {len(data)} bytes exceeds {MAX_BYTES}")
        return data

    @classmethod
    def from_bytes(cls, data: bytes, names: Sequence[str], experts: int = 0) -> "Gate":
        """Raises FileFormatError when malformed, or made for features other than `names` or for another number of experts (0: any)."""
        try:
            magic, found, features, hidden, length, rate = _HEAD.unpack_from(data)
            stored = tuple(json.loads(data[_HEAD.size : _HEAD.size + length]))
            with np.errstate(invalid="ignore"):  # what is no number is refused below
                flat = np.frombuffer(data, dtype="<f4", offset=_HEAD.size + length).astype(np.float64)
            outputs = found - 1
            net = (hidden, features), (hidden,), (outputs, hidden), (outputs, features), (outputs,)
            shapes = [(features,), (features,), *net, (2, features + 1)]
            sizes = [math.prod(shape) for shape in shapes]
            if magic != _MAGIC or outputs < 1 or len(flat) != sum(sizes) or not np.isfinite(flat).all() or not math.isfinite(rate):
                raise ValueError("wrong magic, size or values")
            arrays = [part.reshape(shape) for part, shape in zip(np.split(flat, np.cumsum(sizes)[:-1]), shapes, strict=True)]
            if not (arrays[1] > 0).all():
                raise ValueError("scale must be positive")
        except (struct.error, ValueError, TypeError) as error:
            raise FileFormatError(f"gate: malformed gate ({error}); pack the artifact again") from None
        if stored != tuple(names):
            raise FileFormatError(f"gate: gate made for features {', '.join(map(str, stored))}, this program has {', '.join(names)}; fit it again")
        if experts and found != experts:
            raise FileFormatError(f"gate: gate of {found} experts, this program has {experts}; pack the artifact again")
        return cls(stored, arrays[0], arrays[1], arrays[2:7], rate, arrays[7])


def mix(weights_NK: F64, probs_NK: F64) -> F64:
    """Linear mixture of K probabilities a row: (…, K), (…, K) → (…,) reversed, float64."""
    return reduce(np.add, (weights_NK * probs_NK).T)
