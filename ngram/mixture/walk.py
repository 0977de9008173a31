"""The mixture's loop over tokens: look at the context, score down the tree, and only then learn.

`score_range` with learn=False changes nothing; with learn=True each token is scored and then learned.  That no score has seen its
own token follows from the order of the calls in it."""

from typing import NamedTuple

import numpy as np

from ngram.arrays import Array
from ngram.compiled import njit
from ngram.mixture import successors
from ngram.mixture.context_sets import EXTRAS, NEEDED_TOKENS, NEEDED_WORDS, fill_contexts, ngram_hash
from ngram.mixture.evidence import COUNT, KINDS, MORE, ONES, RECENT, TOP_BIT, TWOS, gather_path, gather_tree
from ngram.mixture.huffman import MAX_DEPTH, Tree
from ngram.mixture.nodes import Learned, Trace, View, learn_node, new_trace, predict, summarise
from ngram.mixture.successors import PRUNED, Lists
from ngram.online.match import find_match, history_start, length_bucket, remember

BOS, VOCAB, FADE = range(3)  # settings


class State(NamedTuple):
    """lists, tree and learned: see there.  discounts (order, 3) float64; classes (V,) uint8; limits (C,) int64: sum of
    `recent` at which a list fades; settings (3,) int64: bos, V, fade / 256.
    past (cap,) tokens, size (1,) int64: the text learned; indices (M, slots) int64 and least (M,): match.py."""

    lists: Lists
    tree: Tree
    learned: Learned
    discounts: Array
    classes: Array
    limits: Array
    settings: Array
    past: Array
    size: Array
    indices: Array
    least: Array


class Scratch(NamedTuple):
    """Room to work in, overwritten for every token.  hashes, places (C,) int64; sums (D, C, 2, K) int64."""

    known: View
    trace: Trace
    hashes: Array
    places: Array
    sums: Array


@njit
def look(state: State, scratch: Scratch, tokens: Array, t: int) -> None:
    """Contexts and match candidates of position t: functions of what stands before it."""
    view = scratch.known
    low = history_start(tokens, t, state.settings[BOS])
    fill_contexts(tokens, t, low, len(state.discounts), state.classes, scratch.hashes)
    for c in range(len(view.slots)):
        view.slots[c] = successors.find_slot(state.lists.keys, scratch.hashes[c]) if scratch.hashes[c] else -1
    for m in range(len(state.least)):
        view.match_token[m], view.match_length[m] = find_match(state.indices[m], state.past, state.size[0], tokens, t, low, state.least[m])
    view.numbers[1] = tokens[t - 1]


@njit
def walk(state: State, scratch: Scratch, target: int) -> float:
    """p(target), the product over the nodes of its path; what is needed to learn it stays in scratch."""
    tree, view = state.tree, scratch.known
    depth, code = tree.length[target], tree.code[target]
    gather_path(state.lists, view.slots, tree.code, target, depth, scratch.sums, view.totals, scratch.places)
    summarise(view, len(state.discounts))
    p = 1.0
    for d in range(depth):
        prefix = code & ~((1 << (TOP_BIT + 1 - d)) - 1)
        one = predict(
            state.learned, state.lists, state.discounts, tree.code, tree.leaves, view, tree.path[target, d], d, prefix,
            scratch.sums[d], scratch.trace, d,
        )  # fmt: skip
        p *= one if (code >> (TOP_BIT - d)) & 1 else 1.0 - one
    return p


@njit
def count(state: State, scratch: Scratch, target: int) -> None:
    """Raises `recent` in every list; counts as Kneser–Ney does, from the longest order to the first already seen."""
    lists, order = state.lists, len(state.discounts)
    going = True
    for i in range(len(scratch.hashes)):
        c = order - 1 - i if i < order else i
        if scratch.hashes[c] == 0:
            continue
        slot, at = scratch.known.slots[c], scratch.places[c]
        if slot < 0:
            slot = successors.find_slot(lists.keys, scratch.hashes[c])  # a set of this very token may share the hash
            if slot < 0:
                slot = successors.add_context(lists, scratch.hashes[c], 1)
        if at < 0:
            at = successors.add_successor(lists, slot, target)
        if c >= order or going:
            going = going and not (c < order and lists.count[at] > 0)
            successors.raise_count(lists, at)
        successors.raise_recent(lists, slot, at, scratch.known.totals[c, RECENT], state.limits[c], state.settings[FADE])


@njit
def learn_token(state: State, scratch: Scratch, tokens: Array, t: int) -> None:
    """Everything learns token t, whose score has just been made by `walk`."""
    target = np.int64(tokens[t])
    for d in range(state.tree.length[target]):
        bit = (state.tree.code[target] >> (TOP_BIT - d)) & 1
        learn_node(state.learned, state.tree.path[target, d], bit, scratch.trace, d)
    count(state, scratch, target)
    low = history_start(tokens, t, state.settings[BOS])
    remember(state.indices, state.past, state.size[0], tokens, t, low, state.least)
    state.size[0] += 1


@njit
def fill_features(state: State, view: View, out: Array) -> None:
    """What a gate may look at (mixture.FEATURES) → out (len(FEATURES),) float32."""
    out[:] = 0.0
    longest = max(view.numbers[0] - 1, 0)
    totals = view.totals[longest]
    pruned = np.int64(state.lists.blocks[view.slots[longest], PRUNED]) if view.slots[longest] >= 0 else 0
    one, two, more = state.discounts[longest, 0], state.discounts[longest, 1], state.discounts[longest, 2]
    out[0] = longest
    out[1] = np.log1p(np.float64(totals[COUNT] + pruned))
    out[2] = np.log1p(np.float64(totals[ONES] + totals[TWOS] + totals[MORE]))
    out[3] = 1.0
    if totals[COUNT] + pruned > 0:
        out[3] = (one * totals[ONES] + two * totals[TWOS] + more * totals[MORE] + pruned) / (totals[COUNT] + pruned)
    for m in range(len(view.match_token)):
        if view.match_token[m] >= 0:
            out[4] = np.log1p(np.float64(view.match_length[m]))
            out[5] = state.learned.match[m, length_bucket(view.match_length[m]), 0]
            break


@njit
def score_range(state: State, scratch: Scratch, tokens: Array, start: int, stop: int, learn: bool, prob: Array, features: Array) -> int:
    """Scores tokens[start:stop] into prob (n,) and features (n or 0, len(FEATURES)); returns where it stopped for want of room."""
    contexts, vocab = len(scratch.hashes), state.settings[VOCAB]
    for t in range(start, stop):
        if learn and (not successors.has_room(state.lists, contexts, vocab) or state.size[0] >= len(state.past)):
            return t
        look(state, scratch, tokens, t)
        prob[t - start] = walk(state, scratch, np.int64(tokens[t]))
        if len(features):
            fill_features(state, scratch.known, features[t - start])
        if learn:
            learn_token(state, scratch, tokens, t)
    return stop


@njit
def fill_row(state: State, scratch: Scratch, sums: Array, tokens: Array, t: int, sides: Array, row: Array) -> None:
    """The whole distribution at position t → row (V,) float64.  sums (V-1, C, 2, K) and sides (V-1, 2) are room to work in."""
    tree, view = state.tree, scratch.known
    look(state, scratch, tokens, t)
    gather_tree(state.lists, view.slots, tree.code, tree.length, tree.path, sums, view.totals)
    summarise(view, len(state.discounts))
    sides[:] = -1.0
    for token in range(len(row)):
        p = 1.0
        for d in range(tree.length[token]):
            node = tree.path[token, d]
            if sides[node, 0] < 0.0:
                prefix = tree.code[token] & ~((1 << (TOP_BIT + 1 - d)) - 1)
                one = predict(
                    state.learned, state.lists, state.discounts, tree.code, tree.leaves, view, node, d, prefix,
                    sums[node], scratch.trace, 0,
                )  # fmt: skip
                sides[node, 0], sides[node, 1] = 1.0 - one, one
            p *= sides[node, (tree.code[token] >> (TOP_BIT - d)) & 1]
        row[token] = p


def new_scratch(contexts: int, matches: int, inputs: int) -> Scratch:
    """Room for a mixture of that many context sets, match candidates and inputs of a node."""
    view = View(
        np.zeros(contexts, np.int64), np.zeros((contexts, KINDS), np.int64), np.zeros(matches, np.int64), np.zeros(matches, np.int64), np.zeros(3, np.int64)
    )  # fmt: skip
    shape = (MAX_DEPTH + 1, contexts, 2, KINDS)
    return Scratch(
        view, new_trace(inputs, contexts, matches), np.zeros(contexts, np.int64), np.zeros(contexts, np.int64), np.zeros(shape, np.int64)
    )


@njit
def hash_rows(grams: Array) -> Array:
    """Hash of each row of grams (M, n) as a context of n tokens → (M,) int64."""
    out = np.empty(len(grams), np.int64)
    for i in range(len(grams)):
        out[i] = ngram_hash(grams[i], grams.shape[1], grams.shape[1])
    return out


@njit
def seed_extras(state: State, grams: Array, counts: Array, start: int) -> int:
    """Counts of the EXTRAS, read from all n-grams of the top order, (M, order) uint16, as the trained text itself is not stored.

    Only contexts that lie wholly inside an n-gram.  Returns the row where it stopped for want of room."""
    lists, order = state.lists, grams.shape[1]
    hashes = np.zeros(order + EXTRAS, np.int64)
    for i in range(start, len(grams)):
        if not successors.has_room(lists, EXTRAS, state.settings[VOCAB]):
            return i
        gram, t = grams[i], order - 1
        whole = fill_contexts(gram, t, 0, order, state.classes, hashes)
        for k in range(EXTRAS):
            complete = NEEDED_WORDS[k] <= whole and NEEDED_TOKENS[k] <= t
            if not (complete or gram[0] == state.settings[BOS]):
                continue
            slot = successors.find_slot(lists.keys, hashes[order + k])
            if slot < 0:
                slot = successors.add_context(lists, hashes[order + k], 1)
            at = successors.find_successor(lists, slot, gram[t])
            if at < 0:
                at = successors.add_successor(lists, slot, gram[t])
            lists.count[at] = min(np.int64(lists.count[at]) + counts[i], successors.U32_MAX)
    return len(grams)
