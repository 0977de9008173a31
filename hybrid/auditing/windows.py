"""Windows of tokens that two streams share: text that a model may know by heart although no whole document is in both.

Windows are compared by 64-bit hashes.  Of 10^8 training windows and 10^6 validation windows about 5 in a million pairs of runs
would show one window by chance.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hybrid.data.overlap import document_starts
from hybrid.data.shards import Stream
from ngram.arrays import U64

BLOCK = 1 << 20  # positions hashed at a time
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True)
class SharedWindows:
    """Of a stream that is looked at: windows of `size` tokens inside one document, those of them that the other stream has too; tokens, those
    covered by such windows; documents, those with at least one, and those covered by more than half."""

    size: int
    windows: int
    of_windows: int
    tokens: int
    of_tokens: int
    documents: int
    mostly: int
    of_documents: int

    @property
    def share(self) -> float:
        """Of the tokens, 0 to 1."""
        return self.tokens / max(1, self.of_tokens)


def shared_windows(train: Stream, val: Stream, bos: int, size: int) -> SharedWindows:
    """Windows of `val` that `train` has too.  Memory: 8 bytes a token of `val`, whatever the size of `train`."""
    places, hashes = _all(val, bos, size)
    wanted = np.unique(hashes)
    known = np.zeros(len(wanted), np.bool_)
    for _, found in _windows(train, bos, size):
        at = np.searchsorted(wanted, found)
        at[at == len(wanted)] = 0
        if len(wanted):
            known[at[wanted[at] == found]] = True
    hit = places[known[np.searchsorted(wanted, hashes)]]
    edges = np.zeros(len(val) + 1, np.int64)
    np.add.at(edges, hit, 1)
    np.add.at(edges, hit + size, -1)
    covered = np.cumsum(edges[:-1]) > 0
    starts = document_starts(val, bos)
    inside = np.add.reduceat(covered, starts, dtype=np.int64) if len(val) else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, len(val)))
    counts = int((inside > 0).sum()), int((2 * inside > lengths).sum())
    return SharedWindows(size, len(hit), len(places), int(covered.sum()), len(val), *counts, len(starts))


def _all(stream: Stream, bos: int, size: int) -> tuple[np.ndarray, U64]:
    """(first positions, hashes) of all windows of a stream."""
    parts = list(_windows(stream, bos, size))
    return np.concatenate([part[0] for part in parts] or [np.zeros(0, np.int64)]), np.concatenate([part[1] for part in parts] or [np.zeros(0, np.uint64)])


def _windows(stream: Stream, bos: int, size: int) -> Iterator[tuple[np.ndarray, U64]]:
    """(first positions, hashes) of the windows that lie in one document; a BOS may stand at a window's beginning only."""
    for start in range(0, len(stream) - size + 1, BLOCK):
        tokens = stream.read(start, min(len(stream), start + BLOCK + size - 1))
        hashes = window_hashes(tokens, size)
        begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(tokens == bos)])
        whole = np.flatnonzero(begins[size:] == begins[1 : len(begins) - size + 1])  # no BOS after the first token
        yield start + whole, hashes[whole]


def window_hashes(tokens: np.ndarray, size: int) -> U64:
    """(n - size + 1,) uint64, the hash of the `size` tokens from each position on.

    By doubling: the hash of 2k tokens is that of the first k and of the next k, so a window costs about 2·log2(size) steps."""
    level = (tokens.astype(np.uint64) + np.uint64(1)) * _ODD
    level ^= level >> np.uint64(29)
    done, length, step = np.zeros(0, np.uint64), 0, 1
    while True:
        if size & step:  # append `step` tokens to what is done: from each position on, after `length` tokens
            done = level if length == 0 else _joined(done[: len(level) - length], level[length:])
            length += step
        if length == size:
            return done[: len(tokens) - size + 1]
        level, step = _joined(level[:-step], level[step:]), 2 * step


def _joined(first: U64, second: U64) -> U64:
    """Hashes of the first parts and of the parts after them, as hashes of both together."""
    joined = (first * _MIX) ^ (second + _ODD + (first << np.uint64(7)) + (first >> np.uint64(3)))
    joined = (joined ^ (joined >> np.uint64(31))) * _ODD
    return joined ^ (joined >> np.uint64(27))
