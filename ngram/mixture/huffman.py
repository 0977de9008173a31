"""A binary tree over the vocabulary: each token is a leaf, so a token is a short walk of yes-or-no decisions.

Any choice of one probability a node gives a distribution over the tokens that sums to 1, whatever the probabilities are
made from.  The shape is Huffman's: frequent tokens are decided early.  Huffman (1952); decomposition into binary
decisions as in the paq compressors (Mahoney 2005) and hierarchical softmax (Morin & Bengio 2005).
"""

import heapq
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ngram.arrays import F64, I32, I64

MAX_DEPTH = 32  # codes are left-aligned in 32 bits; floored weights keep depths under 28
_FLOOR_BITS = 16  # no weight counts for less than 2^-16 of the total


class Tree(NamedTuple):
    """code (V,) int64: bits of the path from the root, first bit at 2^31.  length (V,) int64: number of bits.
    path (V, MAX_DEPTH) int32: the nodes passed, root first, -1 beyond.  leaves (V-1, 2) float64: share of all leaves below each side."""

    code: I64
    length: I64
    path: I32
    leaves: F64


def huffman_tree(weights: npt.ArrayLike) -> Tree:
    """The tree of minimal mean depth, the same on every machine (ties go to the lower id).

    weights: (V,) non-negative integers, V ≥ 1; how often each token is expected."""
    given = [int(weight) for weight in np.asarray(weights)]
    size, floor = len(given), max(1, sum(given) >> _FLOOR_BITS)
    heap = [(max(weight, floor), token) for token, weight in enumerate(given)]
    heapq.heapify(heap)
    children: list[tuple[int, int]] = []
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (first[0] + second[0], size + len(children)))
        children.append((first[1], second[1]))
    tree = Tree(
        np.zeros(size, np.int64),
        np.zeros(size, np.int64),
        np.full((size, MAX_DEPTH), -1, np.int32),
        np.ones((max(1, size - 1), 2)),
    )
    below = [1.0] * size
    for node, (left, right) in enumerate(children):
        tree.leaves[node] = below[left] / size, below[right] / size
        below.append(below[left] + below[right])
    _descend(tree, children, size)
    return tree


def _descend(tree: Tree, children: list[tuple[int, int]], size: int) -> None:
    """Fills code, length and path of every leaf."""
    stack: list[tuple[int, int, list[int]]] = [(size + len(children) - 1, 0, [])]
    while stack:
        name, code, nodes = stack.pop()
        if name < size:
            tree.code[name] = code << (32 - len(nodes))
            tree.length[name] = len(nodes)
            tree.path[name, : len(nodes)] = nodes
            continue
        node = name - size
        for bit, child in enumerate(children[node]):
            stack.append((child, code << 1 | bit, [*nodes, node]))
