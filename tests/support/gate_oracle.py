"""The weights of the gate from its formula, in plain Python."""

import math
from collections.abc import Iterable

import numpy as np

from ngram.blending.gate import CLIP, FLOOR, Gate


def oracle_weights(gate: Gate, row: Iterable[float]) -> list[float]:
    """The weight of each expert for one row of features; they sum to 1."""
    w1, b1, w2, w3, b2 = gate.parameters
    x = [max(-CLIP, min(CLIP, (v - m) / s)) for v, m, s in zip(row, gate.mean, gate.scale, strict=True)]
    hidden = [math.tanh(b + sum(w * v for w, v in zip(ws, x, strict=True))) for ws, b in zip(w1, b1, strict=True)]
    logits = [0.0] + [b + float(np.dot(u, hidden)) + float(np.dot(v, x)) for u, v, b in zip(w2, w3, b2, strict=True)]
    soft = [math.exp(z - max(logits)) for z in logits]
    return [(1 - FLOOR) * s / sum(soft) + FLOOR / len(soft) for s in soft]
