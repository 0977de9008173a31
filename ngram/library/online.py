"""OnlineModel: an n-gram model that scores, then learns."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ngram.arrays import F64, Tokens
from ngram.mixture.context_sets import word_classes
from ngram.mixture.mixture import Mixture
from ngram.online.cache import OnlineCache, histories
from ngram.table import NgramTable
from ngram.vocabulary import Vocabulary


class OnlineModel:
    """Starts from a model's counts; the model itself stays as it is.  Texts are strings, or arrays of tokens with or without BOS.

    A word is always scored before it is learned, so what `score_then_learn` gives is a code length of the text."""

    def __init__(self, table: NgramTable, vocabulary: Vocabulary, encode: Callable[..., Tokens], *, mix: bool) -> None:
        self._encode, self._bos = encode, vocabulary.bos
        self._cache: OnlineCache | Mixture = Mixture(table, word_classes(vocabulary.pieces())) if mix else OnlineCache(table)

    def score(self, text: Any, eos: bool = True) -> F64:
        """(n,) log10 probabilities of a text's tokens; nothing is learned.  eos: of its end too, where the model knows one."""
        tokens = self._encode(text, True, eos)
        return np.log10(self._cache.score(tokens, 1, len(tokens), features=False).prob)

    def learn(self, text: Any, eos: bool = True) -> None:
        """Counts a text's tokens."""
        tokens = self._encode(text, True, eos)
        self._cache.update(tokens, 1, len(tokens))

    def score_then_learn(self, text: Any, eos: bool = True) -> F64:
        """(n,) log10 probabilities of a text's tokens, each learned before the next one is scored."""
        tokens = self._encode(text, True, eos)
        return np.log10(self._cache.score_then_update(tokens, 1, len(tokens), features=False).prob)

    def distribution(self, history: Any = "") -> F64:
        """(V,) float64 probabilities, which sum to 1, of the token that follows a text."""
        tokens = self._encode(history, True)
        if isinstance(self._cache, Mixture):
            return np.asarray(self._cache.rows(tokens, [len(tokens)])[0])
        return np.asarray(self._cache.rows(histories(tokens, [len(tokens)], self._cache.order, self._bos))[0])
