"""History → context: which tokens may be looked at, and how an n-gram becomes a sortable key.

The one rule: a history begins at the nearest BOS to its left (and includes it) or at the start of the data, and is
never longer than order-1 tokens.  What lies beyond is PAD.

A key is an n-gram read backwards, 16 bits a token: the target in the most significant bits of `hi`, then the tokens to
its left, four to a word, `hi` before `lo`.  PAD (65535) fills the slots left of the beginning, zeros the slots
beyond the order.  Sorted by such keys, all n-grams with the same last k tokens lie side by side for every k at once.
"""

import numpy as np
import numpy.typing as npt

from ngram.errors import SeedgramError
from ngram.table import MAX_ORDER, PAD, U16

U64 = npt.NDArray[np.uint64]
SLOT_BITS = 16
ALL_ONES = (1 << 64) - 1


def check_orders(order: int) -> int:
    """`order` itself, or SeedgramError when it is outside 1…8."""
    if not 1 <= order <= MAX_ORDER:
        raise SeedgramError(f"order {order} is outside 1…{MAX_ORDER}; choose one inside")
    return order


def slot_mask(slots: int) -> tuple[np.uint64, np.uint64]:
    """(hi, lo) masks that keep the first `slots` tokens of a key, target first."""
    mask = ((1 << (SLOT_BITS * slots)) - 1) << (SLOT_BITS * (MAX_ORDER - slots))
    return np.uint64(mask >> 64), np.uint64(mask & ALL_ONES)


def pack_keys(ngrams: npt.ArrayLike) -> tuple[U64, U64]:
    """Keys of n-grams written forwards.  ngrams: (M, n) integers < 65,536, n ≤ 8 → hi, lo (M,) uint64."""
    tokens = np.atleast_2d(np.asarray(ngrams, dtype=np.uint64))
    words = [np.zeros(len(tokens), np.uint64), np.zeros(len(tokens), np.uint64)]
    for slot in range(tokens.shape[1]):
        shift = np.uint64(48 - SLOT_BITS * (slot % 4))
        words[slot // 4] |= tokens[:, tokens.shape[1] - 1 - slot] << shift
    return words[0], words[1]


def unpack_keys(hi: U64, lo: U64, order: int) -> U16:
    """(M, order) uint16 n-grams written forwards, PAD on the left where the history was shorter."""
    ngrams = np.empty((len(hi), order), np.uint16)
    for slot in range(order):
        word = hi if slot < 4 else lo
        ngrams[:, order - 1 - slot] = (word >> np.uint64(48 - SLOT_BITS * (slot % 4))) & np.uint64(0xFFFF)
    return ngrams


def histories(tokens: npt.ArrayLike, positions: npt.ArrayLike, order: int, bos: int) -> U16:
    """What may be looked at when predicting `tokens[position]`: (P, order-1) uint16, PAD on the left.

    tokens: (N,) uint16 stream; positions: (P,) integers in 0…N.  Never reaches past a BOS, which is its first token."""
    stream = np.asarray(tokens, dtype=np.uint16)
    ends = np.asarray(positions, dtype=np.int64)
    out = np.full((len(ends), check_orders(order) - 1), PAD, np.uint16)
    open_ = np.ones(len(ends), bool)  # histories that no BOS has closed yet
    for back in range(1, order):
        open_ &= ends - back >= 0
        token = stream[np.maximum(ends - back, 0)] if len(stream) else np.zeros(len(ends), np.uint16)
        out[open_, order - 1 - back] = token[open_]
        open_ &= token != bos
    return out
