"""Documents of a stream in another order: for scorers that say that their state begins anew at each.

Shapes: N tokens of the audited stream, M of the shuffled one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ngram.arrays import I64, U16

DOCUMENTS = 16  # as many are tried
MOST_TOKENS = 8192  # in all


@dataclass(frozen=True)
class Shuffled:
    """tokens (M,) uint16; places (M,): where each stands in the audited stream, -1 for a document's first token, which another document
    stands before; cuts: chunks of it that cut each document where the audited stream's chunks do."""

    tokens: U16
    places: I64
    cuts: list[tuple[int, int]]


def shuffled(tokens: U16, chunks: list[tuple[int, int]], first_token: int, random: np.random.Generator) -> Shuffled:
    """Some whole documents, which begin with `first_token`, in random order; the first of them stands alone at the beginning."""
    begins = np.flatnonzero(tokens == first_token)
    ends = np.append(begins[1:], len(tokens))
    chosen, size = list[tuple[int, int]](), 0
    for i in random.permutation(len(begins))[:DOCUMENTS].tolist():
        begin, end = int(begins[i]), int(ends[i])
        if end - begin >= 2 and (not chosen or size + end - begin <= MOST_TOKENS):
            chosen.append((begin, end))
            size += end - begin
    places, cuts, at = [np.zeros(0, np.int64)], list[tuple[int, int]](), 0
    for begin, end in chosen:
        places.append(np.arange(begin, end))
        places[-1][0] = -1
        if at:
            cuts.append((at, at + 1))
        cuts += [(at + a - begin, at + b - begin) for a, b in _inside(chunks, begin + 1, end)]
        at += end - begin
    stream = [tokens[:0], *(tokens[begin:end] for begin, end in chosen)]
    return Shuffled(np.concatenate(stream), np.concatenate(places), cuts)


def _inside(chunks: list[tuple[int, int]], start: int, stop: int) -> Iterator[tuple[int, int]]:
    for a, b in chunks:
        if a < stop and b > start:
            yield max(a, start), min(b, stop)
