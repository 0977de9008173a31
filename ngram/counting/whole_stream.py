"""A whole stream → its run, by sorting each token's histories as 64-bit numbers.

Nothing is merged: positions are put into one bucket for each token, with the tokens to their left as one number, and each bucket is sorted by NumPy, whose
sort of numbers uses the processor's vector instructions.  What lies to the left of a BOS decides nothing, so PAD needs no number of its own.
"""

from itertools import pairwise

import numpy as np

from ngram.arrays import I64, NARROW, U64, Array, Tokens, read_only
from ngram.compiled import njit
from ngram.counting.kernels import FULL
from ngram.counting.run import Run
from ngram.errors import SeedgramError
from ngram.threads import COUNT, each

SHARES = 4  # of the tokens, a thread, so that all have about as much to do


def fits(vocab_size: int, order: int) -> bool:
    """Whether the order-1 tokens to the left of any token fit 64 bits together."""
    return vocab_size <= NARROW and 1 < order and (order - 1) * _width(vocab_size) <= 64


def _width(vocab_size: int) -> int:
    return max(1, (vocab_size - 1).bit_length())


def run_of_stream(stream: Tokens, vocab_size: int, order: int, bos: int, first: int) -> Run:
    """The run of tokens first… of a stream (N,) without PAD, each with the tokens to its left; `fits` says whether it can.

    first: at least order-1, or 1 where the stream begins with a BOS.  Raises SeedgramError for a token outside the vocabulary."""
    stream, cuts = read_only(stream, vocab_size), np.linspace(first, len(stream), COUNT + 1).astype(int)
    tally = np.zeros((COUNT, vocab_size), np.int64)
    setting = np.array([vocab_size, _width(vocab_size), order, bos])
    for token in each(lambda share: int(count_tokens(stream[cuts[share] : cuts[share + 1]], tally[share])), range(COUNT)):
        if token >= 0:
            raise SeedgramError(f"token {token} is outside the vocabulary of {vocab_size}; use the tokenizer of the shards")
    ends = np.cumsum(tally.T.reshape(-1)).reshape(vocab_size, COUNT).T
    keys, places = np.empty(len(stream) - first, np.uint64), ends - tally
    each(lambda share: fill_buckets(stream, cuts[share], cuts[share + 1], setting, places[share], keys), range(COUNT))
    return _group(keys, np.concatenate([[0], ends[-1]]), setting)


def _group(keys: U64, edges: I64, setting: I64) -> Run:
    """The run of keys in buckets, one a token, whose memory becomes the run's."""
    lo, counts = np.empty(len(keys), np.uint64), np.empty(len(keys), np.uint16)
    parts = [*pairwise(np.unique(np.searchsorted(edges, np.linspace(0, len(keys), SHARES * COUNT + 1 if COUNT > 1 else 2))).tolist())]

    def sort(part: tuple[int, int]) -> tuple[int, I64]:
        start = size = int(edges[part[0]])
        over = np.empty(((edges[part[1]] - start) // FULL + 1, 2), np.int64)
        found = 0
        for token in range(*part):
            bucket = keys[edges[token] : edges[token + 1]]
            bucket.sort()
            size, found = group_sorted(bucket, token, setting, keys, lo, counts, size, over, found)
        return size - start, over[:found]

    size, overflow = 0, []
    for (first, _), (found, over) in zip(parts, each(sort, parts), strict=True):
        start = edges[first]
        if start > size:
            for column in (keys, lo, counts):
                column[size : size + found] = column[start : start + found]
        overflow.append(over - [start - size, 0])
        size += found
    over = np.concatenate([np.zeros((0, 2), np.int64), *overflow])
    for column in (keys, lo, counts):
        column.resize(size, refcheck=False)  # gives back what is behind
    return Run(int(setting[2]), keys, lo, counts, over[:, 0].copy(), over[:, 1].copy())


@njit
def count_tokens(stream: Array, tally: Array) -> int:
    """Adds the tokens to a tally (V,); returns the first token outside the vocabulary, or -1."""
    for t in range(len(stream)):
        if stream[t] >= len(tally):
            return int(stream[t])
        tally[stream[t]] += 1
    return -1


@njit
def fill_buckets(stream: Array, start: int, stop: int, setting: Array, places: Array, keys: Array) -> None:
    """Puts the tokens to the left of each token start…stop-1 into the token's bucket, the nearest in the highest bits, zeros behind a BOS.

    setting (4,): V, bits of a token, order, BOS.  places (V,): the next free place of each bucket.  A bucket holds numbers (n,) uint64."""
    _, bits, order, bos = setting
    width, top = np.uint64(bits), np.uint64(bits * (order - 2))
    past = np.uint64(0)
    for t in range(max(0, start - order + 1), start):
        past = np.uint64(stream[t]) << top | (np.uint64(0) if stream[t] == bos else past >> width)
    for t in range(start, stop):
        token = stream[t]
        place = places[token]
        places[token] = place + 1
        keys[place] = past
        past = np.uint64(token) << top | (np.uint64(0) if token == bos else past >> width)


@njit
def group_sorted(bucket: Array, token: int, setting: Array, hi: Array, lo: Array, counts: Array, size: int, over: Array, found: int) -> tuple[int, int]:
    """Appends a token's distinct keys to the `size` that are there, and overflow entries (index, count) to the `found` in `over` (·, 2).

    bucket (n,) rising; `hi` may be the memory of the buckets, as no key is written before it was read."""
    _, bits, order, bos = setting
    mask, i = np.uint64((1 << bits) - 1), 0
    while i < len(bucket):
        past, first = bucket[i], i
        i += 1
        while i < len(bucket) and bucket[i] == past:
            i += 1
        key_hi, key_lo, closed = np.uint64(token) << np.uint64(48), np.uint64(0), False
        for slot in range(1, order):
            value = past >> np.uint64(bits * (order - 1 - slot)) & mask | (np.uint64(NARROW) if closed else np.uint64(0))
            closed |= value == bos
            if slot < 4:
                key_hi |= value << np.uint64(48 - 16 * slot)
            else:
                key_lo |= value << np.uint64(112 - 16 * slot)
        hi[size], lo[size], counts[size] = key_hi, key_lo, min(i - first, FULL)
        if i - first >= FULL:
            over[found, 0], over[found, 1] = size, i - first
            found += 1
        size += 1
    return size, found
