"""Mixture: which experts there are, what the gate looks at, and how their distributions become one.

Every way to score goes through here: eval.py, the audit, and both orders of the coder.  The gate sees GATE_FEATURES, which depend on
the context alone, and gives each of EXPERTS a weight; an absent expert's share goes to the others.  The gate takes one step after
every chunk of targets, on what was scored in it.

Shapes: n targets, K experts, F features, V vocabulary.
"""

from functools import reduce

import numpy as np
import torch
from torch import Tensor

from ngram.arrays import F32, F64, digest
from ngram.blending import fit
from ngram.blending.gate import Gate, mix
from ngram.online import match, stream_cache

EXPERTS = ("neural", "product", "ngram", "match")
NEURAL, PRODUCT, NGRAM, MATCH = range(len(EXPERTS))
NEURAL_FEATURES = ("neural_entropy", "neural_max_logp")
GATE_FEATURES: tuple[str, ...] = (*NEURAL_FEATURES, *stream_cache.FEATURES, *match.FEATURES)

GATE_RATE = 0.5  # step of the gate per 1,024 positions at evaluation (docs/decisions.md)


def features_of(neural_n2: F32, *others: F32) -> F32:
    """(n, F) float32 in the order of GATE_FEATURES; others: those of the cache, then of the match model, which are 0 where there is none."""
    parts = [neural_n2, *others]
    missing = len(GATE_FEATURES) - sum(part.shape[1] for part in parts)
    return np.concatenate([*parts, np.zeros((len(neural_n2), missing), np.float32)], axis=1)


def load_gate(data: bytes | None = None, *, learning: bool = True) -> Gate:
    """The gate of an artifact, or the fallback where there was no text to fit one; `learning` False stops its updates.

    Raises FileFormatError where the gate was made for other features or another number of experts."""
    fallback = Gate.constant(GATE_FEATURES, fit.fallback(len(EXPERTS)), rate=GATE_RATE)
    gate = Gate.from_bytes(data, GATE_FEATURES, len(EXPERTS)) if data is not None else fallback
    gate.rate = gate.rate if learning else 0.0
    return gate


class Mixture:
    """The gate and what it has yet to learn.

    chunk_tokens: targets between two steps of the gate.  match, product, ngrams: whether these experts are there."""

    def __init__(self, gate: Gate, chunk_tokens: int, *, match: bool = True, product: bool = True, ngrams: bool = True) -> None:
        self.gate, self.chunk_tokens = gate, chunk_tokens
        self.there = {"match": match, "product": product, "ngrams": ngrams}
        self.absent = [k for k, there in ((PRODUCT, product), (NGRAM, ngrams), (MATCH, match)) if not there]
        self.present = [k for k in range(len(EXPERTS)) if k not in self.absent]
        self._chunk, self._fill = list[tuple[F32, F64]](), 0

    def weights(self, features_nF: F32) -> F64:
        """(n, K) float64: each row sums to 1, and absent experts have 0."""
        weights_nK = self.gate.weights(features_nF)
        if self.absent:
            weights_nK[:, self.absent] = 0.0
            weights_nK /= weights_nK.sum(axis=1, keepdims=True)
        return weights_nK

    def mixed(self, weights_nK: F64, probs_nK: F64) -> F64:
        """(n,) float64 probabilities of the targets.  An absent expert's column is set to the others' mixture, so that the gate
        gets no gradient from it."""
        mixed_n = mix(weights_nK[:, self.present], probs_nK[:, self.present])
        probs_nK[:, self.absent] = mixed_n[:, None]
        return mixed_n

    def mixed_rows(self, weights_nK: F64, rows_KnV: Tensor) -> Tensor:
        """(n, V) float64: whole distributions, by the same additions as `mixed`."""
        weights_nK1 = torch.from_numpy(weights_nK).to(rows_KnV.device)[:, :, None]
        return reduce(torch.add, (weights_nK1[:, k] * rows_KnV[k] for k in self.present))

    def note(self, features_nF: F32, probs_nK: F64) -> None:
        """Takes what was scored; once a chunk is full, the gate learns it."""
        self._chunk.append((features_nF, probs_nK))
        self._fill += len(features_nF)
        if self._fill >= self.chunk_tokens:
            self.gate.update(*map(np.concatenate, zip(*self._chunk, strict=True)))
            self._chunk, self._fill = [], 0

    def digest(self) -> str:
        """Of everything that a weight can depend on."""
        return self.gate.digest() + digest(*(array for piece in self._chunk for array in piece))
