"""From keys back to n-grams; keys.py explains keys."""

import numpy as np

from ngram.arrays import NARROW, U64, Tokens, token_type
from ngram.table import MAX_VOCAB


def unpack_keys(hi: U64, lo: U64, order: int, bits: int = 16) -> Tokens:
    """(M, order) n-grams written forwards, PAD on the left where the history was shorter; uint16, uint32 for more bits."""
    ngrams = np.empty((len(hi), order), token_type(NARROW if bits == 16 else MAX_VOCAB))
    ones = np.uint64((1 << bits) - 1)
    for slot in range(order):
        shift = 128 - bits * (slot + 1)  # of the slot, from the lowest bit of `lo`
        if shift >= 64:
            values = hi >> np.uint64(shift - 64)
        else:
            values = lo >> np.uint64(shift) | (hi << np.uint64(64 - shift) if shift + bits > 64 else np.uint64(0))
        ngrams[:, order - 1 - slot] = values & ones
    if bits > 16:
        ngrams[:, :-1][ngrams[:, :-1] == ones] = np.iinfo(ngrams.dtype).max
    return ngrams
