"""How an n-gram becomes a key that sorts.

The history of a token begins at the nearest BOS to its left (and includes it) or at the start of the data, and is never longer
than order-1 tokens.  What lies beyond is PAD.

A key is an n-gram read backwards, 16 bits a token: the target in the most significant bits of `hi`, then the tokens to its left, `hi`
before `lo`.  Ones (PAD) fill the slots left of the beginning, zeros the slots beyond the order.  Vocabularies above 65,535 get 21 bits a
token, 18 at order 7.
"""

import numpy as np

from ngram.arrays import NARROW, U64
from ngram.errors import SeedgramError
from ngram.table import MAX_VOCAB, check_order


def slot_bits(vocab_size: int, order: int) -> int:
    """Bits of a token in a key.  Raises SeedgramError for vocabularies and orders that 128 bits do not hold."""
    if not 1 <= vocab_size <= MAX_VOCAB:
        raise SeedgramError(f"vocabulary of {vocab_size} is outside 1…{MAX_VOCAB}; choose another tokenizer")
    if vocab_size <= NARROW:
        return 16
    if check_order(order) > 7:
        raise SeedgramError(f"order {order}: with more than {NARROW} tokens keys hold orders up to 7; choose one of these")
    return 18 if order == 7 else 21


def slot_mask(slots: int, bits: int = 16) -> tuple[np.uint64, np.uint64]:
    """(hi, lo) masks that keep the first `slots` tokens of a key, target first."""
    mask = ((1 << (bits * slots)) - 1) << (128 - bits * slots)
    return np.uint64(mask >> 64), np.uint64(mask & (1 << 64) - 1)


def slot_shifts(bits: int, slots: int) -> tuple[U64, U64]:
    """What shifts out all that follows a slot, uint64: of the slots that end in `hi`, and of those that end in `lo`."""
    ends = 128 - bits * np.arange(1, slots + 1)
    return (ends[ends >= 64] - 64).astype(np.uint64), ends[ends < 64].astype(np.uint64)
