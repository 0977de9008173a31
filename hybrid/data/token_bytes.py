"""Bytes a token stands for, and bits per byte: of the documents' own bytes where a manifest vouches for them, else by the challenge's accounting.

docs/data.md says how that counts each piece.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hybrid.data.manifest import CHALLENGE, LOSSLESS, LOSSY, check_shards
from ngram.arrays import I64, U16, Mask
from ngram.pieces import Pieces

BLOCK_TOKENS = 1 << 22  # tokens counted at a time by `total`: 100 MB of temporaries


@dataclass(frozen=True)
class TokenBytes:
    """Byte lengths of a vocabulary of V pieces.

    base (V,): bytes without a leading space; space (V,): has one; silent (V,): control, unknown or unused, after which a leading space does
    not count."""

    base: I64
    space: Mask
    silent: Mask

    @classmethod
    def from_model(cls, model: bytes | str | os.PathLike[str], *, spaces_after_bos: bool = False) -> "TokenBytes":
        """From a tokenizer's bytes or its path.  Raises TokenizerError.

        spaces_after_bos: a document that begins with a space really does (lossless encoding), so it counts there too."""
        pieces = Pieces(model)
        size = np.array([len(piece) for piece in pieces.piece_bytes])
        space = np.array([piece[:1] == b" " and token not in pieces.byte_tokens for token, piece in enumerate(pieces.piece_bytes)])
        return cls(size - space, space, (size == 0) & (not spaces_after_bos))

    def count(self, tokens: U16) -> I64:
        """Bytes of each target: tokens (N,) → (N-1,) int64, entry i for tokens[i+1]."""
        targets, previous = tokens[1:], tokens[:-1]
        return self.base[targets] + (self.space[targets] & ~self.silent[previous])

    def total(self, tokens: U16) -> int:
        """Bytes of all targets of a stream, (N,), a block at a time: corpora are larger than memory for `count`."""
        return sum(int(self.count(tokens[start : start + BLOCK_TOKENS + 1]).sum()) for start in range(0, len(tokens) - 1, BLOCK_TOKENS))


def accounting(paths: Sequence[str | os.PathLike[str]], model: bytes) -> tuple[TokenBytes, str]:
    """What scoring divides by for some shards, and the same in words, for every output beside a figure.

    Tokens of losslessly prepared shards decode to the documents' bytes, a space at the beginning included.
    Raises DataError as `check_shards`, which this calls."""
    encoding = check_shards(paths, model).get("encoding", "")
    how = {LOSSLESS: "bytes of the documents", LOSSY: "bytes that the tokenizer could hold", CHALLENGE: "bytes as the challenge counts them"}
    counter = TokenBytes.from_model(model, spaces_after_bos=encoding in (LOSSLESS, LOSSY))
    return counter, how.get(encoding, "bytes that the tokens decode to, as the challenge counts them")


def bits_per_byte(nats: float, total_bytes: int) -> float:
    """A code length of `nats` for `total_bytes` bytes, in bits per byte."""
    return nats / math.log(2) / total_bytes
