"""What is known at each node of the tree: how much of every successor list lies on its two sides, and what that says of the next token.

Shapes: C context sets, S = 2 sides, K kinds of sums, D depth of the tree, M match candidates.
All sums are integers, so they are the same in whatever order they were added up, along one path or over the whole tree: the
score of a target and its entry in a whole row agree to the last bit.
"""

import math
from typing import Any

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit
from ngram.mixture.successors import FIRST, PRUNED, SIZE

COUNT, ONES, TWOS, MORE, RECENT, KINDS = range(6)  # kinds of sums: counts, successors with count 1, 2, 3+, recent
LEVELS = 14  # of a sum, on a log scale
TOP_BIT = 31


_ZEROS = np.array([16 - value.bit_length() for value in range(1 << 16)], np.int64)  # leading zeros of 16 bits


@njit
def leading_zeros(x: int) -> int:
    """Of 32 bits."""
    return _ZEROS[x >> 16] if x >> 16 else 16 + _ZEROS[x & 0xFFFF]


@njit
def gather_path(
    lists: Any, slots_C: Array, code: Array, target: int, depth: int, sums_DCSK: Array, totals_CK: Array, places_C: Array
) -> None:
    """Sums on both sides of every node on the way to `target`; of each whole list; and the target's place in it or -1.

    slots_C: slot of each context, negative where it has none.  The arrays are taken out of `lists` once, because this is the busiest loop."""
    blocks, tokens, counts, recent, goal = lists.blocks, lists.tokens, lists.count, lists.recent, code[target]
    sums_DCSK[: depth + 1] = 0
    for c in range(len(slots_C)):
        places_C[c] = -1
        if slots_C[c] >= 0:
            first = np.int64(blocks[slots_C[c], FIRST])
            for j in range(first, first + np.int64(blocks[slots_C[c], SIZE])):
                differ = code[tokens[j]] ^ goal
                d, side = depth, 0  # the target itself: below all nodes of the way
                if differ > 0:
                    d = leading_zeros(differ)
                    side = 1 - ((goal >> (TOP_BIT - d)) & 1)
                else:
                    places_C[c] = j
                count = np.int64(counts[j])
                sums_DCSK[d, c, side, RECENT] += np.int64(recent[j])
                if count > 0:
                    sums_DCSK[d, c, side, COUNT] += count
                    sums_DCSK[d, c, side, min(count, 3)] += 1
        for k in range(KINDS):  # what lies below a node is on the target's side of all nodes above
            below = sums_DCSK[depth, c, 0, k]
            for d in range(depth - 1, -1, -1):
                bit = (goal >> (TOP_BIT - d)) & 1
                sums_DCSK[d, c, bit, k] = below
                below += sums_DCSK[d, c, 1 - bit, k]
            totals_CK[c, k] = below


@njit
def gather_tree(lists: Any, slots_C: Array, code: Array, length: Array, path: Array, sums_NCSK: Array, totals_CK: Array) -> None:
    """The same for every node of the tree: sums_NCSK (V-1, C, 2, K)."""
    blocks, tokens, counts, recents = lists.blocks, lists.tokens, lists.count, lists.recent
    sums_NCSK[:] = 0
    totals_CK[:] = 0
    for c in range(len(slots_C)):
        if slots_C[c] < 0:
            continue
        first = np.int64(blocks[slots_C[c], FIRST])
        for j in range(first, first + np.int64(blocks[slots_C[c], SIZE])):
            token, count, recent = tokens[j], np.int64(counts[j]), np.int64(recents[j])
            kind = min(count, 3)  # count 0: adds nothing to COUNT
            for d in range(length[token]):
                node, side = path[token, d], (code[token] >> (TOP_BIT - d)) & 1
                sums_NCSK[node, c, side, RECENT] += recent
                sums_NCSK[node, c, side, COUNT] += count
                sums_NCSK[node, c, side, kind] += 1 if count > 0 else 0
            totals_CK[c, RECENT] += recent
            totals_CK[c, COUNT] += count
            totals_CK[c, kind] += 1 if count > 0 else 0


@njit
def stretch(p: float) -> float:
    """ln(p / (1-p))."""
    return math.log(p / (1.0 - p))


@njit
def squash(x: float) -> float:
    """Inverse of stretch, its argument kept within ±30."""
    return 1.0 / (1.0 + math.exp(-min(max(x, -30.0), 30.0)))


@njit
def level(sum16: int) -> int:
    """A sum in sixteenths of an occurrence → 0…LEVELS-1, finer where it is small."""
    if sum16 <= 32:
        return (sum16 + 7) >> 3
    found = 5
    for edge in (48, 64, 96, 160, 320, 640, 1600, 6400):
        found += sum16 > edge
    return found


@njit
def kneser_ney(lists: Any, slots_C: Array, discounts: Array, sums_CSK: Array, totals_CK: Array, leaves: Array, x: Array) -> None:
    """x[n-1] = stretch of the probability of side 1 by interpolated Kneser–Ney of order n, for all orders.

    The mass of a side at order n is Σ(count - discount) / T + λ · its mass at order n-1, beginning with its share of
    the leaves: exactly the sum of the token probabilities below it (up to rounding)."""
    left, right = leaves[0], leaves[1]
    blocks = lists.blocks
    for c in range(len(discounts)):
        pruned = np.int64(blocks[slots_C[c], PRUNED]) if slots_C[c] >= 0 else 0
        total = totals_CK[c, COUNT] + pruned
        if total > 0:
            one, two, more = discounts[c, 0], discounts[c, 1], discounts[c, 2]
            back = one * totals_CK[c, ONES] + two * totals_CK[c, TWOS] + more * totals_CK[c, MORE] + pruned
            cut = one * sums_CSK[c, 0, ONES] + two * sums_CSK[c, 0, TWOS] + more * sums_CSK[c, 0, MORE]
            left = (max(sums_CSK[c, 0, COUNT] - cut, 0.0) + back * left) / total
            cut = one * sums_CSK[c, 1, ONES] + two * sums_CSK[c, 1, TWOS] + more * sums_CSK[c, 1, MORE]
            right = (max(sums_CSK[c, 1, COUNT] - cut, 0.0) + back * right) / total
        p = right / (left + right) if left + right > 0.0 else 0.5
        x[c] = stretch(min(max(p, 1e-6), 1.0 - 1e-6))
