"""The mixture once more, from its description: dictionaries, tuples and short loops, no hashes, no shared code but constants."""

import math
from collections import Counter
from typing import Any

import numpy as np

from ngram.online.match import BUCKETS, MIN_LENGTHS, WINDOW

INSIDE, BEGINS = 0, 1
UNIT, LEVELS, KNOTS, PAIRS = 16, 14, 33, 1 << 16
SIZES = (0, 0.3, 1, 1.5, 2, 3, 4, 6, 10, 20, 40, 100, 400, 1000)


def clip(value, low, high):
    return min(max(value, low), high)


def stretch(p):
    return math.log(p / (1 - p))


def squash(x):
    return 1 / (1 + math.exp(-clip(x, -30, 30)))


def level(value):
    edges = (0, 8, 16, 24, 32, 48, 64, 96, 160, 320, 640, 1600, 6400)
    return sum(value > edge for edge in edges)


def bucket(length):
    return length if length < 16 else min(16 + (length - 16) // 8, BUCKETS - 1)


def past_of(tokens, t, bos):
    """Tokens that position t may look at, oldest first."""
    low = t
    while low > 0 and t - low < WINDOW and (low == t or tokens[low] != bos):
        low -= 1
    return [int(token) for token in tokens[low:t]]


def contexts_of(past, order, classes):
    """One key a set, or None."""
    sets = [tuple(past[len(past) - n :]) if n <= len(past) else None for n in range(order)]
    rest, now = list(past), []
    while len(rest) > 1 and classes[rest[-1]] == INSIDE:
        now.append(rest.pop())
    now.append(rest.pop())
    words = []
    for _ in range(3):
        word = []
        while len(rest) > 1 and classes[rest[-1]] != BEGINS:
            token = rest.pop()
            if classes[token] == INSIDE:
                word.append(token)
        if rest:
            word.append(rest.pop())
        words.append(tuple(word))
    one, two, three = ([*reversed(past), None, None, None])[:3]
    w, last = tuple(now), words
    extras = [
        (w,),
        (w, last[0]),
        (w, last[0], last[1]),
        (w, last[1]),
        (w, last[1], last[2]),
        (w, last[2]),
        (two,),
        (two, three),
        (one, three),
    ]
    return [None if s is None else (i, s) for i, s in enumerate([*sets, *extras])]


class MixtureOracle:
    """Built like ngram.mixing.Mixture, from `adjusted` {n-gram: count} and `pruned` {context: mass}."""

    def __init__(self, mixture, adjusted, pruned, limits):
        self.order, self.vocab, self.bos = mixture.order, mixture.vocab_size, mixture.bos
        self.classes, self.limits, self.fade = mixture.state.classes, limits, int(mixture.state.settings[2])
        self.discounts, self.rates = mixture.state.discounts, mixture.state.learned.rates
        tree = mixture.state.tree
        self.bits = [[int(c) >> (31 - d) & 1 for d in range(n)] for c, n in zip(tree.code, tree.length, strict=True)]
        self.nodes = [[int(node) for node in row if node >= 0] for row in tree.path]
        self.count: dict[Any, dict[int, int]] = {}
        self.recent: dict[Any, dict[int, int]] = {}
        self.pruned = pruned
        for gram, c in adjusted.items():
            self.count.setdefault((len(gram) - 1, gram[:-1]), {})[gram[-1]] = c
        for key, children in self.count.items():
            total = sum(children.values())
            share = limits[key[0]] * UNIT * 0.6
            self.recent[key] = {w: int(min(c * min(UNIT, share / total), 60000)) for w, c in children.items() if total}
        self.read_long_ngrams(adjusted)
        sets, inputs = self.order + 9, self.order + 1 + 2 * (self.order + 9) + 2
        first = np.zeros(inputs)
        first[self.order + 1 :: 2] = 0.03
        for back, weight in zip((1, 2, 3), (0.4, 0.05, 0.2), strict=True):
            if back <= self.order:
                first[self.order - back] = weight
        self.first = first
        self.weights: dict[Any, Any] = {}
        self.join: dict[Any, Any] = {}
        guess = [[(b + 0.4) / (a + b + 0.8) for b in SIZES] for a in SIZES]
        self.maps = {(kind, c): np.array(guess) for kind in range(2) for c in range(sets)}
        self.tries: Counter[Any] = Counter()
        self.match: dict[Any, float] = {}
        self.tables: dict[Any, Any] = {}
        self.past: list[int] = []
        self.index: list[dict[Any, int]] = [{}, {}]

    def read_long_ngrams(self, adjusted):
        """Words and gaps from n-grams of the top order: those that would be the same whatever stood before."""
        strangers = np.append(self.classes, [0, 1, 2])  # three tokens that no text has, one a class
        for gram, c in adjusted.items():
            if self.order > 1 and len(gram) == self.order:
                keys = contexts_of(list(gram[:-1]), self.order, strangers)[self.order :]
                others = [contexts_of([self.vocab + i] * 8 + list(gram[:-1]), self.order, strangers)[self.order :] for i in range(3)]
                for k, key in enumerate(keys):
                    if gram[0] == self.bos or all(other[k] == key for other in others):
                        children = self.count.setdefault(key, {})
                        children[gram[-1]] = children.get(gram[-1], 0) + c

    def below(self, d, prefix):
        """Tokens under both sides of the node reached by `prefix`."""
        return [{w for w, bits in enumerate(self.bits) if bits[:d] == prefix and bits[d : d + 1] == [side]} for side in range(2)]

    def kneser_ney(self, keys, sides):
        mass = [len(side) / self.vocab for side in sides]
        out = []
        for n in range(self.order):
            children = self.count.get(keys[n], {}) if keys[n] else {}
            pruned = self.pruned.get(keys[n][1], 0) if keys[n] else 0
            total = sum(children.values()) + pruned
            if total:
                cut = {w: self.discounts[n][min(c, 3) - 1] if c else 0 for w, c in children.items()}
                back = sum(cut.values()) + pruned
                mass = [
                    (sum(children[w] - cut[w] for w in children if w in side) + back * m) / total
                    for side, m in zip(sides, mass, strict=True)
                ]
            out.append(stretch(clip(mass[1] / (mass[0] + mass[1]), 1e-6, 1 - 1e-6)))
        return out

    def node(self, keys, matches, previous, longest, crowd, node, d, prefix):
        """(p of side 1, what it was made of)."""
        sides = self.below(d, prefix)
        x, used = self.kneser_ney(keys, sides), []
        sure = x[-1]
        x.append(0.3)
        for c, key in enumerate(keys):
            for kind, store in ((0, self.recent), (1, self.count)):
                sums = [sum(v for w, v in store.get(key, {}).items() if w in side) * (UNIT if kind else 1) for side in sides]
                where = ((kind, c), level(sums[0]), level(sums[1])) if sum(sums) else None
                used.append(where)
                x.append(stretch(self.maps[where[0]][where[1:]]) if where else 0.0)
        shown, matched = 0, []
        for m, (token, length) in enumerate(matches):
            x.append(0.0)
            if token is not None:
                shown = shown or 3 * (1 + bucket(length)) + 1
                if self.bits[token][:d] == prefix:
                    cell, side = (m, bucket(length), min(d, 3)), self.bits[token][d]
                    z = stretch(self.match.get(cell, 0.9))
                    x[-1] = z if side else -z
                    matched.append((cell, side))
                    shown += shown % 3 == 1
        x = np.array(x)
        rows = [
            ("node", node),
            (longest, min(d, 11)),
            ("match", shown),
            ("token", previous),
            ("crowd", crowd, min(7, int(abs(sure) * 1.5))),
        ]
        z = [clip(float(self.weights.setdefault(row, self.first.copy()) @ x), -12, 12) for row in rows]
        joined = float(np.dot(self.join.setdefault(node, np.full(5, 0.2)), z))
        u = (clip(joined, -7.99, 7.99) + 8) * 2
        knot, f = int(u), u - int(u)
        tables = [("node", node), ("pair", (previous * 31337 + node) % PAIRS)]
        said = [(1 - f) * self.table(name)[knot] + f * self.table(name)[knot + 1] for name in tables]
        p = clip(0.5 * squash(joined) + 0.5 * sum(said) / 2, 1e-6, 1 - 1e-6)
        return p, (x, used, matched, rows, z, squash(joined), tables, knot, f)

    def table(self, name):
        return self.tables.setdefault(name, np.array([squash(j / 2 - 8) for j in range(KNOTS)]))

    def look(self, tokens, t):
        past = past_of(tokens, t, self.bos)
        keys = contexts_of(past, self.order, self.classes)
        seen = [key in self.count or key in self.recent or (key and key[1] in self.pruned) for key in keys[: self.order]]
        known = [n for n in range(self.order) if seen[n]]
        longest = known[-1] if known else -1
        crowd = 0
        for most in (2, 4):
            children = self.count.get(keys[clip(longest, 0, most)], {})
            crowd = crowd * 8 + min(int(math.log2(sum(c > 0 for c in children.values()) + 1)), 7)
        return past, keys, [self.candidate(past, m) for m in range(2)], longest + 1, crowd

    def candidate(self, past, m):
        at = self.index[m].get(tuple(past[len(past) - MIN_LENGTHS[m] :])) if len(past) >= MIN_LENGTHS[m] else None
        if at is None:
            return None, 0
        length = 0
        while length < min(at, len(past)) and self.past[at - 1 - length] == past[-1 - length]:
            length += 1
        return (self.past[at], length) if length >= MIN_LENGTHS[m] else (None, 0)  # token 0 is given: it is not in the past

    def score(self, tokens, t):
        """(p of tokens[t], what to learn from)."""
        past, keys, matches, longest, crowd = self.look(tokens, t)
        p, made, token = 1.0, [], int(tokens[t])
        for d, (bit, node) in enumerate(zip(self.bits[token], self.nodes[token], strict=True)):
            one, parts = self.node(keys, matches, past[-1], longest, crowd, node, d, self.bits[token][:d])
            p *= one if bit else 1 - one
            made.append((node, bit, parts))
        return p, (token, past, keys, made)

    def learn(self, token, past, keys, made):
        mix, join, least, correct = self.rates
        for node, bit, (x, used, matched, rows, z, joined, tables, knot, f) in made:
            self.join[node] += join * (bit - joined) * np.array(z)
            for row, zq in zip(rows, z, strict=True):
                self.weights[row] += mix * (bit - squash(zq)) * x
            for where in used:
                if where:
                    cell = self.maps[where[0]]
                    cell[where[1:]] = self.nudged(cell[where[1:]], where, bit, least)
            for where, side in matched:
                self.match[where] = self.nudged(self.match.get(where, 0.9), ("match", where), side == bit, least)
            for name in tables:
                table = self.table(name)
                table[knot] += (bit - table[knot]) * correct * (1 - f)
                table[knot + 1] += (bit - table[knot + 1]) * correct * f
        self.learn_counts(token, past, keys)

    def nudged(self, p, name, came, least):
        rate = max(1 / (self.tries[name] + 1.5), least)
        self.tries[name] += 1
        return clip(p + (came - p) * rate, 1e-4, 1 - 1e-4)

    def learn_counts(self, token, past, keys):
        going = True
        for c in [*range(self.order - 1, -1, -1), *range(self.order, len(keys))]:
            if keys[c] is None:
                continue
            counts, recent = self.count.setdefault(keys[c], {}), self.recent.setdefault(keys[c], {})
            if c >= self.order or going:
                going = going and not (c < self.order and counts.get(token, 0) > 0)
                counts[token] = counts.get(token, 0) + 1
            recent[token] = recent.get(token, 0) + UNIT
            if sum(recent.values()) > self.limits[c] * UNIT:
                for w, value in recent.items():
                    recent[w] = value - (value * (256 - self.fade) >> 9) if w == token else value * self.fade >> 8
        self.past.append(token)
        for m, least in enumerate(MIN_LENGTHS):
            if len(past) >= least:
                self.index[m][tuple(past[len(past) - least :])] = len(self.past) - 1
