"""What scoring gives: FullScores of a text, and the State between two words of a decoder."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ngram.arrays import F64, I64, U8, Mask


@dataclass(frozen=True)
class FullScores:
    """What each token of a text scored; looped over, (log10 probability, n-gram length, whether unknown) of each, as KenLM gives them.

    log10 (n,) float64; length (n,) uint8: tokens of the longest n-gram found, the token itself among them; unknown (n,) bool."""

    log10: F64
    length: U8
    unknown: Mask

    def __len__(self) -> int:
        return len(self.log10)

    def __iter__(self) -> Iterator[tuple[float, int, bool]]:
        return zip(self.log10.tolist(), self.length.tolist(), self.unknown.tolist(), strict=True)


class State:
    """What a model remembers of the words so far, for decoders.  Two hypotheses with equal states score all that follows alike.

    It belongs to the model that filled it."""

    __slots__ = ("places",)

    def __init__(self, places: I64 | None = None) -> None:
        self.places = places

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, State) or self.places is None or other.places is None:
            return self is other
        return np.array_equal(self.places, other.places)

    def __hash__(self) -> int:
        return hash(None if self.places is None else self.places.tobytes())
