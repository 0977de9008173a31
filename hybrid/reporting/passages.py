"""Passages worth reading: where the blend needs the fewest bits per byte, the most, and where it saves most over the network.

Shapes: n targets, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hybrid.reporting.groups import NEURAL, document_bounds
from hybrid.reporting.stretch import BLEND, Rows, Stretch
from ngram.arrays import F64

LENGTH = 48  # targets of a passage
EACH = 4  # passages of each kind
HEAD = 6  # likeliest tokens of a distribution that are kept
KINDS = ("best", "worst", "gain")
Bounds = tuple[int, int]


def choose(stretch: Stretch, length: int = LENGTH, each: int = EACH) -> dict[str, list[Bounds]]:
    """{kind: (first, end) entries of its passages}: at most one passage of a document a kind.

    A document is cut into passages from its beginning; a rest that fills none is left out, unless no document fills one."""
    documents = document_bounds(stretch)
    longest = max(end - first for first, end in documents)
    length = min(length, longest)
    found = [(at, at + length, number) for number, (first, end) in enumerate(documents) for at in range(first, end - length + 1, length)]
    sizes = np.array([stretch.size_bytes[a:b].sum() for a, b, _ in found])
    bpb = {name: np.array([stretch.bits[name][a:b].sum() for a, b, _ in found]) / np.maximum(sizes, 1) for name in (BLEND, NEURAL)}
    keys = {"best": bpb[BLEND], "worst": -bpb[BLEND], "gain": bpb[BLEND] - bpb[NEURAL]}
    return {kind: _first_of_each(found, key, sizes, each) for kind, key in keys.items()}


def _first_of_each(found: Sequence[tuple[int, int, int]], key: F64, sizes: Any, each: int) -> list[Bounds]:
    chosen, documents = list[Bounds](), set[int]()
    for place in np.argsort(key, kind="stable"):
        first, end, document = found[place]
        if sizes[place] and document not in documents and len(chosen) < each:
            chosen.append((first, end))
            documents.add(document)
    return chosen


def positions(chosen: dict[str, list[Bounds]]) -> list[int]:
    """The positions in the stream of all their targets, ascending."""
    return sorted({entry + 1 for bounds in chosen.values() for first, end in bounds for entry in range(first, end)})


def to_json(stretch: Stretch, chosen: dict[str, list[Bounds]], rows: Sequence[Rows]) -> dict[str, Any]:
    """{"pieces": texts, kind: [{"first", "bpb", "tokens": [{"piece", "bits", "heads"}]}]}; heads: {model: [[piece, probability], …]}."""
    at = {row.t: row for row in rows}
    pieces: dict[str, int] = {}

    def numbered(token: int) -> int:
        return pieces.setdefault(shown(stretch, token), len(pieces))

    def token(entry: int) -> dict[str, Any]:
        bits = {name: round(float(bits_n[entry]), 4) for name, bits_n in stretch.bits.items()}
        heads = {name: [[numbered(v), _rounded(row_V[v])] for v in _head(row_V)] for name, row_V in at[entry + 1].rows.items()}
        return {"piece": numbered(int(stretch.tokens[entry + 1])), "bits": bits, "heads": heads}

    def passage(first: int, end: int) -> dict[str, Any]:
        size = int(stretch.size_bytes[first:end].sum())
        bpb = {name: float(bits_n[first:end].sum()) / size for name, bits_n in stretch.bits.items()}
        return {"first": first + 1, "bytes": size, "bpb": bpb, "tokens": [token(entry) for entry in range(first, end)]}

    out: dict[str, Any] = {kind: [passage(*bounds) for bounds in found] for kind, found in chosen.items()}
    return {"pieces": list(pieces), **out}


def shown(stretch: Stretch, token: int) -> str:
    """What a token decodes to; "⟨BOS⟩", or its number in such brackets, where that is nothing; bytes that are no text as \\x escapes."""
    data = stretch.codec.piece_bytes[token]
    return data.decode("utf-8", "backslashreplace") if data else "⟨BOS⟩" if token == stretch.codec.bos else f"⟨{token}⟩"


def _head(row_V: F64) -> list[int]:
    top = np.argpartition(-row_V, min(HEAD, len(row_V) - 1))[:HEAD]
    return [int(v) for v in top[np.argsort(-row_V[top], kind="stable")]]


def _rounded(probability: float) -> float:
    return float(f"{probability:.3g}")
