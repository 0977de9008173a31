"""Distributions as a range coder takes them: the bucket of 32 tokens first, then the token in it.

A symbol then costs two small searches instead of one over the vocabulary.  Both go through constriction with 24-bit probabilities.

Shapes: S streams, A active ones, V vocabulary, B buckets, K experts.
"""

from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from ngram.arrays import F64
from ngram.compiled import njit

Array = Any  # kernels are typed by numba
I64 = npt.NDArray[np.int64]
BUCKET = 32  # tokens


@dataclass
class Step:
    """The predictions of one step: mixed (S, V) float64, each row a distribution; mass (S, B) float64 of its buckets."""

    mixed: F64
    mass: F64


def empty_step(streams: int, vocab_size: int) -> Step:
    return Step(np.empty((streams, vocab_size)), np.empty((streams, -(-vocab_size // BUCKET))))


def step_of(row_V: F64) -> Step:
    """The same for one stream whose distribution is there already."""
    edges = np.arange(0, len(row_V), BUCKET)
    return Step(row_V[None], np.add.reduceat(row_V, edges)[None])


def fill_step(begin: int, end: int, rows_KSV: F64, weight_SK: F64, step: Step) -> None:
    """Mixes the experts' rows of streams begin … end-1 into `step`."""
    _mix_rows(begin, end, rows_KSV, weight_SK, step.mixed, step.mass)


@njit
def _mix_rows(begin: int, end: int, rows_KSV: Array, weight_SK: Array, mixed_SV: Array, mass_SB: Array) -> None:
    """Blends K experts' rows of streams begin … end-1, normalises in float64, sums the buckets: one fixed order of additions a row."""
    experts, _, vocab_size = rows_KSV.shape
    buckets = mass_SB.shape[1]
    for s in range(begin, end):
        for v in range(vocab_size):
            mixed_SV[s, v] = weight_SK[s, 0] * rows_KSV[0, s, v]
        for k in range(1, experts):
            for v in range(vocab_size):
                mixed_SV[s, v] += weight_SK[s, k] * rows_KSV[k, s, v]
        total = 0.0
        for b in range(buckets):
            mass = 0.0
            for v in range(b * BUCKET, min((b + 1) * BUCKET, vocab_size)):
                mass += mixed_SV[s, v]
            mass_SB[s, b] = mass
            total += mass
        for v in range(vocab_size):
            mixed_SV[s, v] /= total
        for b in range(buckets):
            mass_SB[s, b] /= total


class SymbolEncoder:
    """A range coder for tokens.  bits: what the probabilities promise for all that was given."""

    def __init__(self) -> None:
        self._coder, self._family, self.bits = constriction.stream.queue.RangeEncoder(), _family(), 0.0

    def give(self, step: Step, active: I64, came: I64) -> None:
        """Takes the tokens `came` (A,) of the streams `active`."""
        bucket = came // BUCKET
        self._coder.encode(bucket.astype(np.int32), self._family, np.ascontiguousarray(step.mass[active]))
        self._coder.encode((came % BUCKET).astype(np.int32), self._family, _inside(step, active, bucket))
        self.bits -= float(np.log2(step.mixed[active, came]).sum())

    def payload(self) -> bytes:
        return bytes(self._coder.get_compressed().astype("<u4").tobytes())


class SymbolDecoder:
    """Its inverse.  Raises ValueError where the payload is none that the encoder wrote."""

    def __init__(self, payload: bytes) -> None:
        words = np.frombuffer(payload, dtype="<u4").astype(np.uint32)
        self._decoder, self._family, self.bits = constriction.stream.queue.RangeDecoder(words), _family(), 0.0

    def take(self, step: Step, active: I64) -> I64:
        """The tokens (A,) of the streams `active`."""
        try:
            bucket = self._decoder.decode(self._family, np.ascontiguousarray(step.mass[active])).astype(np.int64)
            came = bucket * BUCKET + self._decoder.decode(self._family, _inside(step, active, bucket))
        except AssertionError:  # constriction's word for code words that no encoder writes
            raise ValueError("code words that no encoder writes") from None
        if came.max() >= step.mixed.shape[1]:
            raise ValueError("a token outside the vocabulary")
        self.bits -= float(np.log2(step.mixed[active, came]).sum())
        return np.asarray(came, np.int64)

    @property
    def exhausted(self) -> bool:
        """Whether nothing of the payload seems to be left."""
        return bool(self._decoder.maybe_exhausted())


def _family() -> Any:
    return constriction.stream.model.Categorical(perfect=False)


def _inside(step: Step, active: I64, bucket: I64) -> F64:
    """(A, BUCKET) probabilities of the tokens in each active stream's bucket; zero beyond the vocabulary."""
    vocab_size = step.mixed.shape[1]
    columns = bucket[:, None] * BUCKET + np.arange(BUCKET)
    inside = step.mixed[active[:, None], np.minimum(columns, vocab_size - 1)]
    inside[columns >= vocab_size] = 0.0
    return np.ascontiguousarray(inside)
