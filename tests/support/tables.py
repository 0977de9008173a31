"""Tables of small texts with structure, and what they hold as dictionaries."""

import numpy as np
from hypothesis import strategies as st

from ngram.counting.counter import NgramCache
from ngram.storing import table_codec
from tests.support.counting import BOS


def table_of(tokens, vocab=20, order=4, min_raw=None):
    cache = NgramCache(vocab, order, BOS, 64)
    cache.count_stream(np.array(tokens, np.uint16))
    return cache.table(min_raw)


def decoded(table):
    """The table that a reader of its bytes gets."""
    return table_codec.decode(table_codec.encode(table))


def text(size, vocab=20, seed=0):
    """Tokens with structure: a second-order chain of preferred successors under a Zipf law, BOS now and then."""
    rng = np.random.default_rng(seed)
    steps = np.minimum(rng.zipf(1.6, size), vocab) - 1
    tokens = [BOS]
    for t in range(1, size):
        tokens.append(BOS if t % 97 == 0 else int((tokens[-1] * 7 + tokens[max(0, t - 2)] * 3 + steps[t]) % vocab))
    return tokens


@st.composite
def tables(draw):
    vocab, order = draw(st.sampled_from([2, 5, 40])), draw(st.integers(1, 8))
    tokens = draw(st.lists(st.integers(0, vocab - 1), min_size=2, max_size=80))
    return table_of(tokens, vocab, order)


def ngrams(table):
    """[{n-gram: adjusted count}] an order, {context: T}: in dictionaries, the slow way."""
    grams, counts, totals = [()], [], {}
    for n in range(1, table.order + 1):
        exact = table.exact_counts(n).tolist()
        children = [((*grams[p], w), c) for p, w, c in zip(table.parents[n - 1].tolist(), table.tokens[n - 1].tolist(), exact, strict=True)]
        for context, pruned in zip(grams, table.pruned[n - 1].tolist(), strict=True):
            totals[context] = pruned
        for gram, count in children:
            totals[gram[:-1]] += count
        counts.append(dict(children))
        grams = [gram for gram, _ in children]
    return counts, totals
