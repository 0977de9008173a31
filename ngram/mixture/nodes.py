"""One node of the tree: turns evidence into a probability, and learns from the side that came.

Shapes: C context sets, M match candidates, F = order + 1 + 2·C + M inputs, Q mixers, D depth of the tree, B knots.
Each node's inputs are log-odds.  Q linear mixers turn them into log-odds again, each with weights chosen by another property of
the context; a second mixer joins these; two interpolated tables then correct the result by how often that side came when the
result was the same.  Weights move along the gradient of the code length.  (Gated logistic mixing and secondary estimation: Mahoney 2005, Mattern 2013.)
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit
from ngram.mixture.evidence import COUNT, LEVELS, MORE, ONES, RECENT, TOP_BIT, TWOS, kneser_ney, level, squash, stretch
from ngram.mixture.huffman import MAX_DEPTH
from ngram.mixture.successors import UNIT
from ngram.online.match import BUCKETS, length_bucket

MIXERS = 5
KNOTS = 33  # of a correction table: log-odds -8 … 8 by halves
DEPTHS = 12  # depths told apart by a mixer
MATCH_ROWS = 4  # depths told apart by the confidence of a match
PAIR_ROWS = 1 << 16  # correction table by (previous token, node), hashed
RATE_MIX, RATE_JOIN, RATE_MAP, RATE_CORRECT = range(4)  # entries of rates
LIMIT_P = 1e-6  # smallest probability of a decision, so that none costs more than 20 bits


class Learned(NamedTuple):
    """What is adapted.  maps (2, C, LEVELS, LEVELS) float64 probability of side 1, by what; [0] recent sums, [1] counts, with
    tries of that shape; match (2, BUCKETS, MATCH_ROWS) probability that a candidate is right, tries; weights
    (rows, F) of all mixers, mixer q from row first[q]; join (V-1, Q); by_node (V-1, B), by_pair (PAIR_ROWS, B); rates (4,)."""

    maps: Array
    map_tries: Array
    match: Array
    match_tries: Array
    weights: Array
    first: Array
    join: Array
    by_node: Array
    by_pair: Array
    rates: Array


class View(NamedTuple):
    """What is known before the token: slots (C,), totals (C, K), match tokens (M,) or -1, match lengths (M,),
    numbers (3,): longest matched set, previous token, selector of mixer 4."""

    slots: Array
    totals: Array
    match_token: Array
    match_length: Array
    numbers: Array


class Trace(NamedTuple):
    """What a prediction was made of, by depth: inputs x (D, F), places in maps (D, 2, C) and match (D, M) or -1, the side
    each candidate is on (D, M), weight rows (D, Q), log-odds z (D, Q) of the mixers, joined p (D,); of the correction, knot
    (D, 2): the knot below and the row by pair, and fraction (D,) of the way to the next knot."""

    x: Array
    map_at: Array
    match_at: Array
    match_side: Array
    rows: Array
    z: Array
    joined: Array
    knot: Array
    fraction: Array


def new_trace(inputs: int, contexts: int, matches: int, depths: int = MAX_DEPTH) -> Trace:
    """An empty one."""
    return Trace(
        np.zeros((depths, inputs)), np.zeros((depths, 2, contexts), np.int64), np.zeros((depths, matches), np.int64),
        np.zeros((depths, matches), np.int64), np.zeros((depths, MIXERS), np.int64), np.zeros((depths, MIXERS)),
        np.zeros(depths), np.zeros((depths, 2), np.int64), np.zeros(depths),
    )  # fmt: skip


@njit
def map_inputs(learned: Learned, view: View, sums_CSK: Array, x: Array, at: int, map_at_2C: Array) -> int:
    """Two inputs a context set: what came of such sums before, of recent ones and of counts; 0 without any sum."""
    maps = learned.maps.reshape(-1)
    contexts = len(view.slots)
    for c in range(contexts):
        for kind in range(2):
            scale, what = (1, RECENT) if kind == 0 else (UNIT, COUNT)
            left, right = scale * sums_CSK[c, 0, what], scale * sums_CSK[c, 1, what]
            place, value = -1, 0.0
            if left + right > 0:
                place = ((kind * contexts + c) * LEVELS + level(left)) * LEVELS + level(right)
                value = stretch(maps[place])
            map_at_2C[kind, c] = place
            x[at] = value
            at += 1
    return at


@njit
def match_inputs(learned: Learned, view: View, code: Array, prefix: int, d: int, x: Array, at: int, place_M: Array, side_M: Array) -> int:
    """One input a candidate, while the way down still leads to it.  prefix: the code so far, its lower bits 0."""
    match = learned.match.reshape(-1)
    shown = 0
    for m in range(len(view.match_token)):
        place_M[m], x[at] = -1, 0.0
        token = view.match_token[m]
        if token >= 0:
            bucket = length_bucket(view.match_length[m])
            if shown == 0:
                shown = 3 * (1 + bucket) + 1
            if d == 0 or (code[token] ^ prefix) >> (TOP_BIT + 1 - d) == 0:
                side = (code[token] >> (TOP_BIT - d)) & 1
                place_M[m], side_M[m] = (m * BUCKETS + bucket) * MATCH_ROWS + min(d, MATCH_ROWS - 1), side
                value = stretch(match[place_M[m]])
                x[at] = value if side == 1 else -value
                if shown % 3 == 1:
                    shown += 1
        at += 1
    return shown


@njit
def correct(learned: Learned, z: float, node: int, pair: int) -> tuple[float, int, float]:
    """(mean of what both tables say of log-odds z, knot below, fraction of the way to the next)."""
    u = (min(max(z, -7.99), 7.99) + 8.0) * 2.0
    knot = int(u)
    f = u - knot
    by_node = (1.0 - f) * learned.by_node[node, knot] + f * learned.by_node[node, knot + 1]
    by_pair = (1.0 - f) * learned.by_pair[pair, knot] + f * learned.by_pair[pair, knot + 1]
    return 0.5 * (by_node + by_pair), knot, f


@njit
def predict(
    learned: Learned, lists: Any, discounts: Array, code: Array, leaves: Array, view: View, node: int, d: int, prefix: int,
    sums_CSK: Array, trace: Trace, row: int,
) -> float:  # fmt: skip
    """Probability of side 1 at a node at depth d, with its making noted in `trace` at `row`."""
    x = trace.x[row]
    order = len(discounts)
    kneser_ney(lists, view.slots, discounts, sums_CSK, view.totals, leaves[node], x)
    x[order] = 0.3  # bias
    at = map_inputs(learned, view, sums_CSK, x, order + 1, trace.map_at[row])
    shown = match_inputs(learned, view, code, prefix, d, x, at, trace.match_at[row], trace.match_side[row])
    rows, first = trace.rows[row], learned.first
    rows[0] = first[0] + node
    rows[1] = first[1] + view.numbers[0] * DEPTHS + min(d, DEPTHS - 1)
    rows[2] = first[2] + shown
    rows[3] = first[3] + view.numbers[1]
    rows[4] = first[4] + view.numbers[2] * 8 + min(7, int(abs(x[order - 1]) * 1.5))
    joined = 0.0
    for q in range(MIXERS):
        w = learned.weights[rows[q]]
        even, odd = 0.0, 0.0
        for i in range(0, len(x) - 1, 2):
            even += w[i] * x[i]
            odd += w[i + 1] * x[i + 1]
        if len(x) % 2:
            even += w[len(x) - 1] * x[len(x) - 1]
        trace.z[row, q] = min(max(even + odd, -12.0), 12.0)
        joined += learned.join[node, q] * trace.z[row, q]
    pair = (view.numbers[1] * 31337 + node) & (PAIR_ROWS - 1)
    corrected, knot, fraction = correct(learned, joined, node, pair)
    trace.joined[row] = squash(joined)
    trace.knot[row, 0], trace.knot[row, 1], trace.fraction[row] = knot, pair, fraction
    p = 0.5 * trace.joined[row] + 0.5 * corrected
    return min(max(p, LIMIT_P), 1.0 - LIMIT_P)


@njit
def learn_node(learned: Learned, node: int, bit: int, trace: Trace, row: int) -> None:
    """Everything that took part in the prediction in `trace` moves towards the side that came."""
    came, rates = np.float64(bit), learned.rates
    x = trace.x[row]
    error = came - trace.joined[row]
    for q in range(MIXERS):
        learned.join[node, q] += rates[RATE_JOIN] * error * trace.z[row, q]
        step = rates[RATE_MIX] * (came - squash(trace.z[row, q]))
        w = learned.weights[trace.rows[row, q]]
        for i in range(len(x)):
            w[i] += step * x[i]
    maps, tries = learned.maps.reshape(-1), learned.map_tries.reshape(-1)
    for kind in range(2):
        for c in range(trace.map_at.shape[2]):
            if trace.map_at[row, kind, c] >= 0:
                nudge(maps, tries, trace.map_at[row, kind, c], came, rates[RATE_MAP])
    match, match_tries = learned.match.reshape(-1), learned.match_tries.reshape(-1)
    for m in range(trace.match_at.shape[1]):
        if trace.match_at[row, m] >= 0:
            hit = 1.0 if trace.match_side[row, m] == bit else 0.0
            nudge(match, match_tries, trace.match_at[row, m], hit, rates[RATE_MAP])
    knot, f = trace.knot[row, 0], trace.fraction[row]
    by_node, by_pair = learned.by_node[node], learned.by_pair[trace.knot[row, 1]]
    for j in range(2):
        step = rates[RATE_CORRECT] * (f if j else 1.0 - f)
        by_node[knot + j] += (came - by_node[knot + j]) * step
        by_pair[knot + j] += (came - by_pair[knot + j]) * step


@njit
def nudge(p: Array, tries: Array, i: int, came: float, least: float) -> None:
    """Moves p[i] towards what came: a running mean at first, then at the rate `least`.  Kept away from 0 and 1."""
    rate = max(1.0 / (tries[i] + 1.5), least)
    tries[i] += 1
    p[i] = min(max(p[i] + (came - p[i]) * rate, 1e-4), 1.0 - 1e-4)


@njit
def summarise(view: View, order: int) -> None:
    """Fills view.numbers[0] and [2]: the longest matched set, and how many successors two of the lists have."""
    longest = -1
    for c in range(order):
        if view.slots[c] >= 0:
            longest = c
    view.numbers[0] = longest + 1
    crowd = 0
    for most in (2, 4):
        c = min(max(longest, 0), most)
        distinct = view.totals[c, ONES] + view.totals[c, TWOS] + view.totals[c, MORE]
        crowd = crowd * 8 + min(int(math.log2(distinct + 1.0)), 7)
    view.numbers[2] = crowd
