"""The n-gram cache and the match model in whole numbers: distributions that are the same on every machine.

Floating-point results may differ between machines in the last bit, and a decoder whose distributions differ by one bit returns
other text.  Here every distribution is a row of whole numbers that add up to ONE exactly, made by additions, products, shifts and
divisions of 64-bit integers alone.  The counts, the order in which they are learned and the smoothing (interpolated, three
discounts an order) are those of ngram/online; probabilities are floors of theirs.  Beside them stands the match model,
weighed against the counts by its posterior probability for that length of match.
"""

import numpy as np
import numpy.typing as npt

from hybrid.coding.symbols import Step, step_of
from ngram.arrays import F64, I64, U16, Array, digest, read_only
from ngram.compiled import njit
from ngram.online import match
from ngram.online.cache import OnlineCache
from ngram.online.stream_cache import walk
from ngram.online.trie import COUNT, DEPTH, FIRST, LOG, MORE, ONES, PRUNED, SIZE, TOKEN, TOTAL, TWOS, State, advance, resolve, touch
from ngram.score_first import Tokens
from ngram.table import NgramTable

BITS = 30
ONE = 1 << BITS  # what a row adds up to
SCALE = 12  # bits after the point of discounts
WEIGHT = 16  # bits of the match model's weight, which stays between 1/64 and 63/64


@njit(forceinline=True)
def share_of(part: int, whole: int) -> int:
    """floor(ONE · part / whole) for 0 ≤ part ≤ whole < 2^45, from 2^31 on to about 18 bits."""
    if whole >= 1 << 31:
        part, whole = part >> 14, whole >> 14
    return (part << BITS) // whole


@njit(forceinline=True)
def kept(count: int, discounts: Array, n: int) -> int:
    """What is left of a count of order n after its discount, in units of 2^-SCALE."""
    return max((count << SCALE) - discounts[n - 1, min(count, 3)], 0)


@njit(forceinline=True)
def left(ones: int, twos: int, more: int, pruned: int, discounts: Array, n: int) -> int:
    """What a context's discounts leave to the shorter one, in units of 2^-SCALE."""
    return discounts[n - 1, 1] * ones + discounts[n - 1, 2] * twos + discounts[n - 1, 3] * more + (pruned << SCALE)


@njit
def fill_whole_row(state: State, discounts: Array, tokens: Array, t: int, cursor: Array, place: Array, row: Array) -> None:
    """The n-grams' distribution of tokens[t] → row (V,) int64, which adds up to at most ONE - V.

    Reads tokens[max(0, t - order + 1):t]; cursor and place are room for the walk."""
    vocab = len(row)
    cursor[DEPTH] = 0
    for at in range(max(0, t - state.settings[0] + 1), t):
        touch(state, cursor, place, np.int64(tokens[at]))
        resolve(state, cursor, place, np.int64(tokens[at]))
        advance(state, cursor, place, np.int64(tokens[at]))
    root = state.root[0]
    for w in range(vocab):
        row[w] = (ONE - vocab) // vocab
    if root[TOTAL] > 0:
        whole = root[TOTAL] << SCALE
        share = share_of(left(root[ONES], root[TWOS], root[MORE], root[PRUNED], discounts, 1), whole)
        for w in range(vocab):
            row[w] = (row[w] * share >> BITS) + _scaled(share_of(kept(np.int64(state.unigrams[w]), discounts, 1), whole), vocab)
    for k in range(1, cursor[DEPTH] + 1):
        node = state.nodes[cursor[k]]
        if node[TOTAL] == 0:
            continue
        whole = np.int64(node[TOTAL]) << SCALE
        share = share_of(left(np.int64(node[ONES]), np.int64(node[TWOS]), np.int64(node[MORE]), np.int64(node[PRUNED]), discounts, k + 1), whole)
        for w in range(vocab):
            row[w] = row[w] * share >> BITS
        first = np.int64(node[FIRST])
        for at in range(first, first + (1 << np.int64(node[SIZE] >> LOG))):
            count = np.int64(state.pool[at, COUNT])
            if count > 0:
                row[np.int64(state.pool[at, TOKEN])] += _scaled(share_of(kept(count, discounts, k + 1), whole), vocab)


@njit(forceinline=True)
def _scaled(share: int, vocab: int) -> int:
    """A share of ONE as the same share of ONE - vocab: one unit a token is set aside, so that none is impossible."""
    return share * (ONE - vocab) >> BITS


@njit
def found_match(state: match.MatchState, past: Array, size: int, tokens: Array, t: int) -> tuple[int, int]:
    """(the token that followed the longest match of what stands before t, or -1; the match's length)."""
    candidate, length, _ = match.look(state, past, size, tokens, t, match.history_start(tokens, t, state.settings[0]))
    return candidate, length


@njit
def blend(row: Array, candidate: int, sure: int, weight: int) -> None:
    """Takes the match model into a row of `fill_whole_row`, gives each token its unit, and the first largest what floors have lost.

    candidate: the token that followed the match, or -1.  sure: how sure it is, of ONE.  weight: of the match model, of 2^WEIGHT."""
    vocab = len(row)
    moved = sure * weight >> WEIGHT if candidate >= 0 else 0
    total, best = 0, 0
    for w in range(vocab):
        row[w] = (row[w] * (ONE - moved) >> BITS) + 1
        if w == candidate:
            row[w] += _scaled(moved, vocab)
        total += row[w]
        if row[w] > row[best]:
            best = w
    row[best] += ONE - total


class WholeNumbers:
    """A part of ScoreFirst that scores and codes with the distributions above, one token after another.

    table: counts to begin with.  Its row of a position is a Step (hybrid/coding/symbols.py) whose entries are whole numbers over ONE,
    which float64 holds exactly."""

    def __init__(self, table: NgramTable) -> None:
        self.cache, self.match = OnlineCache(table), match.MatchModel(table.vocab_size, table.bos)
        self.discounts: I64 = np.round(self.cache.state.discounts * (1 << SCALE)).astype(np.int64)
        self.weights = np.full(match.BUCKETS, 1 << (WEIGHT - 1), np.int64)
        self.seconds: dict[str, float] = {}
        self._row: I64 = np.empty(table.vocab_size, np.int64)
        self._walk = walk()
        self._found = (-1, 0, 0, 0)  # candidate, length of its match, how sure, and what the n-grams alone gave it

    def active(self, _: int) -> npt.NDArray[np.int64]:
        """There is one stream."""
        return np.zeros(1, np.int64)

    def text(self, tokens: Tokens) -> Tokens:
        return tokens.copy()

    def row(self, tokens: Tokens, t: int) -> Step:
        """The distribution of tokens[t], from what is to its left."""
        whole = self.whole_row(tokens, t)
        return step_of(whole / ONE)

    def whole_row(self, tokens: Tokens, t: int) -> I64:
        """(V,) int64, adding up to ONE."""
        fill_whole_row(self.cache.state, self.discounts, tokens, t, *self._walk, self._row)
        candidate, length, sure = self._look(read_only(tokens, self.cache.vocab_size), t)
        self._found = (candidate, length, sure, int(self._row[candidate]) + 1)
        blend(self._row, candidate, sure, int(self.weights[match.length_bucket(length)]))
        return self._row

    def score(self, tokens: Tokens, start: int, stop: int) -> F64:
        """(1,) the probability of tokens[start], whose row was asked for just before."""
        return np.array([self._row[tokens[start]] / ONE])

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        """Learns tokens[start:stop], of which there is one."""
        self._weigh(int(tokens[start]))
        self.cache.update(tokens, start, stop)
        self.match.update(tokens, start, stop)

    def score_then_update(self, tokens: Tokens, start: int, stop: int) -> F64:
        scores = self.score(tokens, start, stop)
        self.update(tokens, start, stop)
        return scores

    def digest(self) -> str:
        return digest(np.frombuffer((self.cache.digest() + self.match.digest()).encode(), np.uint8), self.weights)

    def close(self) -> None:
        """There is nothing to close."""

    def _look(self, tokens: U16, t: int) -> tuple[int, int, int]:
        """(candidate or -1, length of the match, how sure, of ONE).  Hits and tries are whole numbers."""
        candidate, length = found_match(self.match.state, self.match.past, self.match.counted, tokens, t)
        bucket = match.length_bucket(length)
        hits, tries = int(self.match.state.hits[bucket]), int(self.match.state.tries[bucket])
        return candidate, length, ONE * hits // tries if candidate >= 0 else 0

    def _weigh(self, came: int) -> None:
        """Bayes' rule for the weight of this length of match, between the n-grams alone and the match as sure as it is."""
        candidate, length, sure, alone = self._found
        if candidate < 0:
            return
        # the n-grams' own share of the token cancels out of both sides unless the candidate came
        matched, counted = ((alone * (ONE - sure) >> BITS) + sure, alone) if came == candidate else (ONE - sure, ONE)
        bucket = match.length_bucket(length)
        weight, most = int(self.weights[bucket]), 1 << WEIGHT
        posterior = weight * matched * most // max(1, weight * matched + (most - weight) * counted)
        self.weights[bucket] = min(max(posterior, most >> 6), most - (most >> 6))
