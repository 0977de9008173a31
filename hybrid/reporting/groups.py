"""Bits of a stretch by what stood before them: matched order, place in the document, document, what the gate looked at.

A group of targets is {"tokens", "bytes", "bits": {model: sum}, "bpb": {model: bits per byte, None for no bytes}}.

Shapes: n targets, V vocabulary, P positions with whole distributions.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from hybrid.reporting.stretch import BLEND, Rows, Stretch
from hybrid.scoring.mixture import EXPERTS
from ngram.arrays import F64, I64, Mask

NEURAL = EXPERTS[0]
BINS = 10  # of a feature of the gate, each with about as many targets as the others
PROBABILITIES = (0.0, 1e-6, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.0)  # edges of calibration
TITLE_CHARS = 60

Group = dict[str, Any]


def group(stretch: Stretch, inside: Mask | slice) -> Group:
    size = int(stretch.size_bytes[inside].sum())
    bits = {name: float(bits_n[inside].sum()) for name, bits_n in stretch.bits.items()}
    tokens = int(inside.sum()) if isinstance(inside, np.ndarray) else inside.stop - inside.start
    return {"tokens": tokens, "bytes": size, "bits": bits, "bpb": {name: total / size if size else None for name, total in bits.items()}}


def by_order(stretch: Stretch) -> list[Group]:
    """By the length of the longest context that the cache had seen before, in tokens."""
    if "matched_order" not in stretch.features:
        return []
    order_n = stretch.features["matched_order"].round().astype(int)
    return [{"order": int(order), **group(stretch, order_n == order)} for order in np.unique(order_n)]


def places(stretch: Stretch) -> I64:
    """(n,) int64: tokens of its document before each target; 0 for a BOS itself."""
    starts = np.concatenate([[0], np.flatnonzero(stretch.tokens == stretch.codec.bos)])
    targets = np.arange(1, len(stretch.tokens))
    return targets - starts[np.searchsorted(starts, targets, side="right") - 1]


def by_position(stretch: Stretch) -> list[Group]:
    """By the number of tokens of the document before the target: 1, 2–3, 4–7, …; a BOS counts to none."""
    place_n = places(stretch)
    groups, low = list[Group](), 1
    while low <= int(place_n.max()):
        inside = (place_n >= low) & (place_n < 2 * low)
        if inside.any():
            groups.append({"low": low, "high": 2 * low - 1, **group(stretch, inside)})
        low *= 2
    return groups


def document_bounds(stretch: Stretch) -> list[tuple[int, int]]:
    """(first, end) of every document's targets, as entries of the arrays of a stretch: its BOS, where it is a target, goes with it."""
    starts = np.flatnonzero(stretch.tokens == stretch.codec.bos) - 1
    edges = sorted({0, *starts[starts > 0].tolist(), len(stretch.size_bytes)})
    return list(pairwise(edges))


def by_document(stretch: Stretch) -> list[Group]:
    """Every document with the beginning of its text; "gain": bits per byte that the blend saves over the network."""
    out = []
    for number, (first, end) in enumerate(document_bounds(stretch), 1):
        found = group(stretch, slice(first, end))
        if found["bytes"]:
            text = stretch.codec.decode(stretch.tokens[first + 1 : min(end + 1, first + 1 + TITLE_CHARS)].tolist())
            title = " ".join(text.split())[:TITLE_CHARS]
            out.append({"document": number, "title": title, "gain": found["bpb"][NEURAL] - found["bpb"][BLEND], **found})
    return out


def by_feature(stretch: Stretch) -> dict[str, list[dict[str, Any]]]:
    """{feature: groups of targets in the order of its values}: mean value, targets, and the experts' mean weights there."""
    return {name: _weights_over(stretch, values) for name, values in stretch.features.items() if np.ptp(values) > 0}


def _weights_over(stretch: Stretch, values: Any) -> list[dict[str, Any]]:
    edges = np.unique(values)  # few values: a group each
    if len(edges) > BINS:
        edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)))[:-1]
    bin_n = np.searchsorted(edges, values, side="right")
    out = []
    for place in np.unique(bin_n):
        inside = bin_n == place
        weights = {name: float(weight_n[inside].mean()) for name, weight_n in stretch.weights.items()}
        out.append({"mean": float(values[inside].mean()), "tokens": int(inside.sum()), "weights": weights})
    return out


def calibration(tokens: Any, rows: Sequence[Rows]) -> dict[str, dict[str, Any]]:
    """{model: "bins" of all probabilities that it gave at some positions, and "error"}.

    A bin: how many times tokens in it were expected to come (the sum of their probabilities), how often one came, and how many
    probabilities lie in it.  error: half the sum of the differences a position: the share of tokens that came from another bin than
    the model says, 0 for a calibrated one (and a little more by chance)."""
    if not rows:
        return {}
    edges, out = np.array(PROBABILITIES), {}
    for name in rows[0].rows:
        expected, count, came = np.zeros((3, len(edges) - 1))
        for at in rows:
            row_V: F64 = at.rows[name]
            bin_V = np.clip(np.searchsorted(edges, row_V, side="right") - 1, 0, len(edges) - 2)
            expected += np.bincount(bin_V, row_V, len(expected))
            count += np.bincount(bin_V, minlength=len(expected))
            came[bin_V[int(tokens[at.t])]] += 1
        bins = [
            {"low": float(edges[i]), "high": float(edges[i + 1]), "expected": float(expected[i]), "came": int(came[i]), "count": int(count[i])}
            for i in range(len(expected))
            if count[i]
        ]
        out[name] = {"bins": bins, "error": float(np.abs(expected - came).sum()) / 2 / len(rows), "positions": len(rows)}
    return out
