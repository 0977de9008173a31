"""Which parts of the past a prediction is made from: hashes of the last tokens, of words and of pairs with gaps.

Set n < order is the last n tokens, as in Kneser–Ney.  Behind them come the EXTRAS: the word being written together with words before it, and
single tokens across a gap.  Which tokens begin words is a table over the vocabulary; without one, every token counts as a word.
No set looks past a BOS or further back than match.WINDOW tokens.  (Sparse and word contexts: paq8, Mahoney 2005 on.)
"""

from collections.abc import Sequence

import numpy as np

from ngram.arrays import U8, Array
from ngram.compiled import njit
from ngram.online.hashing import mix_hash

INSIDE, BEGINS, BETWEEN = 0, 1, 2  # classes: goes on with a word, begins one, is punctuation
EXTRAS = 9
_WORDS = 3  # finished words that contexts are made of
_SALT = 1 << 20  # keeps the hash of a set apart from those of other sets


def word_classes(pieces: Sequence[str]) -> U8:
    """(V,) uint8 classes of SentencePiece pieces: a piece that begins with ▁ or a newline begins a word."""

    def of(piece: str) -> int:
        if piece.startswith("▁") or piece == "\n":
            return BEGINS
        return INSIDE if piece[:1].isalpha() or piece.startswith("'") else BETWEEN

    return np.array([of(piece) for piece in pieces], np.uint8)


@njit
def ngram_hash(tokens: Array, t: int, size: int) -> int:
    """Hash (odd, so never 0) of the `size` tokens before position t, newest first: set `size`."""
    h = mix_hash(0, size + 1)
    for back in range(1, size + 1):
        h = mix_hash(h, np.int64(tokens[t - back]) + 1)
    return h | 1


@njit
def _words(tokens: Array, t: int, low: int, classes: Array, words: Array) -> tuple[int, int]:
    """Hash of the word being written, its beginning included; words (_WORDS,) int64: finished ones, newest first.

    Also how many of these 1 + _WORDS words are whole: that begin at `low` or after it, whatever stands before `low`."""
    j, now = t - 1, mix_hash(0, _SALT)
    while j > low and classes[tokens[j]] == INSIDE:
        now = mix_hash(now, np.int64(tokens[j]) + 1)
        j -= 1
    whole = 1 if classes[tokens[j]] != INSIDE else 0
    now = mix_hash(now, np.int64(tokens[j]) + 1)
    j -= 1
    for k in range(len(words)):
        h = mix_hash(0, 2 * _SALT)
        while j > low and classes[tokens[j]] != BEGINS:
            if classes[tokens[j]] == INSIDE:
                h = mix_hash(h, np.int64(tokens[j]) + 1)
            j -= 1
        if j >= low:
            whole += whole == k + 1 and classes[tokens[j]] == BEGINS
            h = mix_hash(h, np.int64(tokens[j]) + 1)
            j -= 1
        words[k] = h
    return now, whole


@njit
def fill_contexts(tokens: Array, t: int, low: int, order: int, classes: Array, hashes: Array) -> int:
    """hashes (order + EXTRAS,) int64 of position t, whose history begins at `low`; 0 where there is no such context.

    Returns how many words back, the one being written included, are whole."""
    for n in range(order):
        hashes[n] = ngram_hash(tokens, t, n) if t - low >= n else 0
    words = np.zeros(_WORDS, np.int64)
    now, whole = _words(tokens, t, low, classes, words)
    last = np.zeros(4, np.int64)  # 1 + token, by distance
    for back in range(1, 4):
        last[back] = np.int64(tokens[t - back]) + 1 if t - low >= back else 0
    h = mix_hash(now, 3 * _SALT)
    hashes[order] = h
    hashes[order + 1] = mix_hash(mix_hash(h, 1), words[0])
    hashes[order + 2] = mix_hash(mix_hash(mix_hash(h, 2), words[0]), words[1])
    hashes[order + 3] = mix_hash(mix_hash(h, 3), words[1])
    hashes[order + 4] = mix_hash(mix_hash(mix_hash(h, 4), words[1]), words[2])
    hashes[order + 5] = mix_hash(mix_hash(h, 5), words[2])
    gap = mix_hash(0, 4 * _SALT)
    hashes[order + 6] = mix_hash(mix_hash(gap, 6), last[2])
    hashes[order + 7] = mix_hash(mix_hash(mix_hash(gap, 7), last[2]), last[3])
    hashes[order + 8] = mix_hash(mix_hash(mix_hash(gap, 8), last[1]), last[3])
    for k in range(order, order + EXTRAS):
        hashes[k] |= 1
    return whole


# how many whole words, and tokens, each of the EXTRAS is made of
NEEDED_WORDS = np.array([1, 2, 3, 3, 4, 4, 0, 0, 0], np.int64)
NEEDED_TOKENS = np.array([0, 0, 0, 0, 0, 0, 2, 3, 3], np.int64)
