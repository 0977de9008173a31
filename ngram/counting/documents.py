"""Documents of any vocabulary → one run of counts."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from ngram.arrays import Tokens, pad_of
from ngram.counting.counter import NgramCache
from ngram.counting.run import Run
from ngram.vocabulary import Vocabulary
from ngram.words import WordVocabulary


def count_documents(documents: Iterable[Tokens], vocabulary: Vocabulary, order: int) -> Run:
    """Counts documents, each BOS and its tokens, (n,); each by itself, so that counts of parts add up to counts of the whole.

    Of words, each sentence is counted by itself, and `<s>` is never counted, since nothing predicts it."""
    cache = NgramCache(vocabulary.vocab_size, order, vocabulary.bos)
    count_into(cache, documents, vocabulary)
    keep = predicted(vocabulary)
    return cache.run() if keep is None else keep(cache.run())


def count_into(cache: NgramCache, documents: Iterable[Tokens], vocabulary: Vocabulary) -> None:
    """As `count_documents`, but leaves the counts where they are; `<s>` is among them, see `predicted`."""
    for tokens in documents:
        if isinstance(vocabulary, WordVocabulary):
            tokens = np.insert(tokens, np.flatnonzero(tokens == vocabulary.bos)[1:], pad_of(tokens.dtype))
        cache.count_stream(tokens)


def predicted(vocabulary: Vocabulary) -> Callable[[Run], Run] | None:
    """What takes away the n-grams that nothing predicts; None where there are none of them."""
    return partial(without_target, token=vocabulary.bos) if isinstance(vocabulary, WordVocabulary) else None


def without_target(run: Run, token: int) -> Run:
    """The run without the n-grams that end with a token."""
    first, last = (np.searchsorted(run.hi, np.uint64(end << (64 - run.bits))) for end in (token, token + 1))
    keep = np.r_[0:first, last : len(run)]
    return Run.from_counts(run.order, run.hi[keep], run.lo[keep], run.exact_counts()[keep], run.bits)
