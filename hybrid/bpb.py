"""Bytes a token stands for, by the challenge's accounting, and bits per byte.

A byte piece is 1 byte; any other piece is the UTF-8 length of its text without the leading `▁`, plus 1 for that `▁`
unless the previous token is control, unknown or unused; control, unknown and unused pieces are 0 bytes.  A `▁` further
inside a piece (the public tokenizers have none, ours may) is the one space it decodes to.
"""

import math
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sentencepiece as spm

from hybrid.tokenizer import SPACE, processor
from ngram.table import U16

BLOCK_TOKENS = 1 << 22  # tokens counted at a time by `total`: 100 MB of temporaries


@dataclass(frozen=True)
class TokenBytes:
    """Byte lengths of a vocabulary of V pieces.

    base (V,) int64: bytes without a leading space; space (V,) bool: has one; silent (V,) bool: control, unknown or unused,
    after which a leading space does not count."""

    base: npt.NDArray[np.int64]
    space: npt.NDArray[np.bool_]
    silent: npt.NDArray[np.bool_]

    @classmethod
    def from_model(cls, model: bytes | str | os.PathLike[str]) -> "TokenBytes":
        """From a SentencePiece model's bytes or its path.  Raises TokenizerError."""
        sp: spm.SentencePieceProcessor = processor(model)
        size = sp.get_piece_size()
        base, space, silent = np.zeros(size, np.int64), np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        for token in range(size):
            if sp.is_control(token) or sp.is_unknown(token) or sp.is_unused(token):
                silent[token] = True
            elif sp.is_byte(token):
                base[token] = 1
            else:
                piece: str = sp.id_to_piece(token)
                space[token] = piece.startswith(SPACE)
                base[token] = len(piece.removeprefix(SPACE).replace(SPACE, " ").encode())
        return cls(base, space, silent)

    def count(self, tokens: U16) -> npt.NDArray[np.int64]:
        """Bytes of each target: tokens (N,) → (N-1,) int64, entry i for tokens[i+1]."""
        targets, previous = tokens[1:], tokens[:-1]
        return self.base[targets] + (self.space[targets] & ~self.silent[previous])

    def total(self, tokens: U16) -> int:
        """Bytes of all targets of a stream, (N,), a block at a time: corpora are larger than memory for `count`."""
        return sum(int(self.count(tokens[start : start + BLOCK_TOKENS + 1]).sum()) for start in range(0, len(tokens) - 1, BLOCK_TOKENS))


def bits_per_byte(nats: float, total_bytes: int) -> float:
    """A code length of `nats` for `total_bytes` bytes, in bits per byte."""
    return nats / math.log(2) / total_bytes
