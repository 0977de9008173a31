"""Kneser–Ney counts and probabilities in plain Python dictionaries: slow, short, and written from the definition."""

from collections import Counter, defaultdict

import numpy as np

from ngram.counting.discounts import TYPICAL_DISCOUNTS

PAD = 65535


def history_of(tokens, position, order, bos):
    """Tokens back to and including the nearest BOS before `position`, at most order-1 of them."""
    history = list[int]()
    for back in range(1, order):
        if position - back < 0:
            break
        history.insert(0, tokens[position - back])
        if tokens[position - back] == bos:
            break
    return tuple(history)


def raw_counts(tokens, order, bos, positions=None):
    """{n-gram: raw count} of all orders, and {n-gram: set of left neighbours}; token 0 is given, not counted."""
    raw, left = Counter[tuple[int, ...]](), defaultdict[tuple[int, ...], set[int]](set)
    for t in range(1, len(tokens)) if positions is None else positions:
        history = history_of(tokens, t, order, bos)
        longest = (*history, tokens[t])
        for n in range(1, len(longest) + 1):
            ngram = longest[len(longest) - n :]
            raw[ngram] += 1
            left[ngram].add(longest[len(longest) - n - 1] if n < len(longest) else PAD)
    return raw, left


def adjusted_counts(raw, left, order, bos):
    """{n-gram: adjusted count}: raw at the top and after BOS, else distinct left neighbours."""
    return {g: c if len(g) == order or (len(g) > 1 and g[0] == bos) else len(left[g]) for g, c in raw.items()}


def discounts_of(adjusted, order, fallback=(0.5, 1.0, 1.5)):
    """Chen & Goodman's, or KenLM's fallback, or typical ones for an order with no count of 1…4."""
    result = []
    for n in range(1, order + 1):
        coc = Counter(c for g, c in adjusted.items() if len(g) == n)
        result.append(fallback if any(coc[c] for c in (1, 2, 3, 4)) else TYPICAL_DISCOUNTS[n - 1])
        if coc[1] and coc[2] and coc[3]:
            y = coc[1] / (coc[1] + 2 * coc[2])
            found = tuple(k - (k + 1) * y * coc[k + 1] / coc[k] for k in (1, 2, 3))
            if all(0 <= d <= k for k, d in enumerate(found, start=1)):
                result[-1] = found
    return result


def _interpolate(p, children, left_out, discounts):
    """One order more: p after the shorter context → p after the longer one, whose children {token: count} these are."""
    total = sum(children.values()) + left_out
    if not total:
        return p
    cut = {w: (discounts[min(c, 3) - 1] if c else 0.0) for w, c in children.items()}
    back = (sum(cut.values()) + left_out) / total
    p = [back * q for q in p]
    for w, c in children.items():
        p[w] += max(c - cut[w], 0) / total
    return p


def distribution(adjusted, pruned, discounts, history, vocab, order):
    """[p of each token] after `history`; pruned: {context: mass left out}."""
    children = defaultdict[tuple[int, ...], dict[int, int]](dict)
    for g, c in adjusted.items():
        children[g[:-1]][g[-1]] = c
    p = [1.0 / vocab] * vocab
    for n in range(1, min(order, len(history) + 1) + 1):
        context = tuple(history[len(history) - n + 1 :])
        p = _interpolate(p, children[context], pruned.get(context, 0), discounts[n - 1])
    return p


def row(table, history):
    """(V,) the same, read from a table; history: oldest first, PAD and all before a BOS is ignored."""
    known = [int(token) for token in history if token != PAD]
    known = known[max((i for i, token in enumerate(known) if token == table.bos), default=0) :]
    p = [1.0 / table.vocab_size] * table.vocab_size
    for n in range(1, min(table.order, len(known) + 1) + 1):
        index = _row_of(table, known[len(known) - n + 1 :])
        if index is None:
            break
        low, high = np.searchsorted(table.parents[n - 1], [index, index + 1])
        children = dict(zip(table.tokens[n - 1][low:high].tolist(), table.exact_counts(n)[low:high].tolist(), strict=True))
        p = _interpolate(p, children, int(table.pruned[n - 1][index]), table.discounts[n - 1])
    return np.array(p)


def _row_of(table, context):
    """Row of `context` among the n-grams of its length (0 for the empty one), None when it is not there."""
    index = 0
    for n, token in enumerate(context, start=1):
        low, high = np.searchsorted(table.parents[n - 1], [index, index + 1])
        found = low + int(np.searchsorted(table.tokens[n - 1][low:high], token))
        if found == high or table.tokens[n - 1][found] != token:
            return None
        index = found
    return index


class OnlineOracle:
    """Growing counts with update exclusion: from the longest n-gram down, stop at the first already seen."""

    def __init__(self, adjusted, pruned, discounts, vocab, order, bos):
        self.adjusted, self.pruned, self.discounts = dict(adjusted), pruned, discounts
        self.vocab, self.order, self.bos = vocab, order, bos

    def row(self, tokens, t):
        history = history_of(tokens, t, self.order, self.bos)
        return distribution(self.adjusted, self.pruned, self.discounts, history, self.vocab, self.order)

    def count(self, tokens, t):
        longest = (*history_of(tokens, t, self.order, self.bos), tokens[t])
        for n in range(len(longest), 0, -1):
            ngram = longest[len(longest) - n :]
            self.adjusted[ngram] = self.adjusted.get(ngram, 0) + 1
            if self.adjusted[ngram] > 1:
                break
