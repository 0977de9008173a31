"""Random token streams, their counts, and tables as dictionaries."""

import numpy as np
from hypothesis import strategies as st

from ngram.counting.counter import NgramCache
from ngram.online.cache import OnlineCache
from tests.support.kernels import examples

BOS = 1
EXAMPLES = examples(80, 15)


@st.composite
def streams(draw, max_size=60):
    """(vocabulary, tokens): BOS anywhere, empty documents included."""
    vocab = draw(st.sampled_from([2, 3, 5, 20, 300]))
    tokens = st.one_of(st.just(BOS), st.integers(0, vocab - 1))
    return vocab, draw(st.lists(tokens, min_size=1, max_size=max_size))


def count(vocab, tokens, order, buffer_positions=64):
    cache = NgramCache(vocab, order, BOS, buffer_positions)
    cache.count_stream(np.array(tokens, np.uint16))
    return cache


def ngrams_of(table):
    """{n-gram: row of its order} per order, from the columns."""
    grams, result = [()], []
    for tokens, parents in zip(table.tokens, table.parents, strict=True):
        grams = [(*grams[p], int(w)) for p, w in zip(parents, tokens, strict=True)]
        assert grams == sorted(grams)
        result.append({g: i for i, g in enumerate(grams)})
    return result


def as_dict(table, columns):
    """{n-gram: value} of all orders without zeros."""
    found = {}
    for rows, column in zip(ngrams_of(table), columns, strict=True):
        found.update({g: int(column[i]) for g, i in rows.items() if column[i]})
    return found


def adjusted_of(table):
    return as_dict(table, [table.exact_counts(n) for n in range(1, table.order + 1)])


def same_table(a, b):
    pairs = zip((*a.tokens, *a.parents, *a.counts, *a.pruned, *a.raw), (*b.tokens, *b.parents, *b.counts, *b.pruned, *b.raw), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs) and np.array_equal(a.discounts, b.discounts)


def same_run(a, b):
    return a.order == b.order and all(np.array_equal(x, y) for x, y in zip(a.columns(), b.columns(), strict=True))


def pruned_of(table, order):
    """{context: mass of the children that were left out}."""
    grams, pruned = [()], {(): int(table.pruned[0][0])}
    for n in range(1, order):
        grams = [(*grams[p], int(w)) for p, w in zip(table.parents[n - 1], table.tokens[n - 1], strict=True)]
        pruned.update(zip(grams, table.pruned[n].tolist(), strict=True))
    return pruned


def seeded(vocab, trained, order, min_raw=None):
    return OnlineCache(count(vocab, trained, order).table(min_raw))


def array(tokens):
    return np.array(tokens, np.uint16)


def sample(vocab, size, seed=0, bos_share=0.05):
    rng = np.random.default_rng(seed)
    tokens = (vocab * rng.random(size) ** 2).astype(np.uint16)
    tokens[rng.random(size) < bos_share] = BOS
    return tokens
