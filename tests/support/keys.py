"""Keys of n-grams, for tests that write runs by hand."""

import numpy as np

SLOT_BITS = 16


def pack_keys(ngrams):
    """Keys of n-grams written forwards.  ngrams: (M, n) integers < 65,536, n ≤ 8 → hi, lo (M,) uint64."""
    tokens = np.atleast_2d(np.asarray(ngrams, dtype=np.uint64))
    words = [np.zeros(len(tokens), np.uint64), np.zeros(len(tokens), np.uint64)]
    for slot in range(tokens.shape[1]):
        shift = np.uint64(48 - SLOT_BITS * (slot % 4))
        words[slot // 4] |= tokens[:, tokens.shape[1] - 1 - slot] << shift
    return words[0], words[1]
