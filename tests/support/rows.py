"""Features of histories, as the online cache gives them beside its rows."""

import numpy as np

from ngram.arrays import F32, U16
from ngram.online.cache import OnlineCache
from ngram.online.stream_cache import FEATURES


def row_features(cache: OnlineCache, past: U16) -> F32:
    """(P, len(FEATURES)) float32 of histories (P, order-1)."""
    features = np.empty((len(past), len(FEATURES)), np.float32)
    cache.fill(past, np.empty((len(past), cache.vocab_size)), features)
    return features
