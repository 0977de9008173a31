"""A table's static probabilities as ARPA files have them, and in the form of such a file without its rounding."""

from collections.abc import Sequence

import numpy as np

from ngram.arpa.model import ArpaModel, row_keys
from ngram.kneser_ney import SmoothedOrder, smoothed_orders
from ngram.table import NgramTable, suffix_rows
from ngram.words import UNKNOWN


def predicted_orders(table: NgramTable, words: Sequence[bytes] | None = None) -> list[SmoothedOrder]:
    """The table's orders; of words, `<s>` has probability 0 and `<unk>` has what it had, after every context.

    `<s>` is given and never predicted, but it has its share of the uniform distribution below the 1-grams: readers of ARPA files leave it out of
    their sums, which would be below 1.  What other words have stays as it is.  Raises SeedgramError unless the table is closed under suffixes."""
    suffixes = suffix_rows(table)
    orders = list(smoothed_orders(table, suffixes))
    if words is None or UNKNOWN not in words:
        return orders
    unknown, more = words.index(UNKNOWN), np.zeros(table.vocab_size)
    more[unknown], orders[0].prob[table.bos] = orders[0].prob[table.bos], 0.0
    orders[0].prob[:] += more
    for n in range(2, table.order + 1):
        parents, ends_so = table.parents[n - 1], table.tokens[n - 1] == unknown
        more = np.where(ends_so, orders[n - 1].backoff[parents] * more[suffixes[n - 1]], 0.0)
        orders[n - 1].prob[:] += more
    return orders


def static_model(table: NgramTable, words: Sequence[bytes] | None = None, name: str = "model") -> ArpaModel:
    """Each n-gram with its probability, each context with its backoff weight.  Raises SeedgramError unless closed under suffixes."""
    orders = predicted_orders(table, words)
    with np.errstate(divide="ignore"):
        log10_p = [np.log10(order.prob) for order in orders]
        log10_b = [np.log10(order.backoff) for order in orders[1:]]
    keys = [row_keys(parents, tokens) for parents, tokens in zip(table.parents, table.tokens, strict=True)]
    return ArpaModel(table.vocab_size, table.bos, keys, log10_p, [*log10_b, np.zeros(len(log10_p[-1]))], name, decimals=15)
