"""What each token of some bytes costs, by the predictor and in the order of eval.py.

Shapes: n tokens after BOS.
"""

from dataclasses import dataclass

import numpy as np

from hybrid.coding.compress import with_bos
from hybrid.data.tokenizer import Tokenizer
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate
from hybrid.scoring.mixture import NGRAM
from hybrid.scoring.options import DEFAULTS, EvalOptions
from hybrid.storing.artifact import Artifact
from ngram.arrays import F64, U16


@dataclass(frozen=True)
class Score:
    """What a text costs, token by token; every token after BOS is a target.

    bits, network_bits, ngram_bits: (n,) float64, of the blend, of the network alone and of the n-gram cache alone (NaN without one).
    tokens: (n,) uint16.  pieces: the bytes of each token; joined they are the text.  size_bytes: of the text."""

    bits: F64
    network_bits: F64
    ngram_bits: F64
    tokens: U16
    pieces: list[bytes]
    size_bytes: int

    @property
    def total_bits(self) -> float:
        """Bits of the whole text."""
        return float(self.bits.sum())

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte; None for an empty text."""
        return self.total_bits / self.size_bytes if self.size_bytes else None


def score_bytes(art: Artifact, codec: Tokenizer, data: bytes, ranks: Ranks, options: EvalOptions = DEFAULTS) -> Score:
    """Scores one document.  codec: the artifact's tokenizer.  Raises LossError where it cannot hold these bytes."""
    tokens = with_bos(codec, data)
    if len(tokens) < 2:
        none = np.zeros(0)
        return Score(none, none, none, tokens[1:], [], len(data))
    scores = evaluate.score_tokens(art, tokens, options, ranks)
    ngram = -np.log2(scores.blend.probs[:, NGRAM]) if scores.has_cache else np.full(len(tokens) - 1, np.nan)
    pieces = [codec.piece_bytes[token] for token in tokens[1:].tolist()]
    return Score(scores.bits, scores.nll_nats / np.log(2), ngram, tokens[1:], pieces, len(data))
