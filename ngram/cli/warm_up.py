"""`python -m ngram warm-up`: fills the cache of compiled kernels, so that no later command waits for the compiler."""

import time

import numpy as np

from ngram.blending.warm_up import SCORING
from ngram.blending.warm_up_columns import CODING
from ngram.compiled import compile_seconds, store
from ngram.counting.counter import NgramCache
from ngram.counting.whole_stream import run_of_stream
from ngram.json_line import emit_json
from ngram.mixture.mixture import Mixture
from ngram.online.cache import OnlineCache
from ngram.storing import table_codec
from ngram.terminal import stage

VOCAB_SIZE = 8


def warm_up() -> None:
    """Runs every kernel of counting, storing, scoring and coding on a few tokens; one line of JSON says what it took and where it is kept."""
    started = time.perf_counter()
    tokens = (np.arange(64) ** 2 % 7 + 1).astype(np.uint16)
    with stage("loading or compiling kernels"):
        counter = NgramCache(VOCAB_SIZE, buffer_positions=64)
        counter.warm_up()
        counter.count_stream(tokens)
        run_of_stream(tokens, VOCAB_SIZE, counter.order, counter.bos, counter.order)
        table = table_codec.decode(table_codec.encode(counter.table()))
        for made in (OnlineCache, lambda table: Mixture(table, np.zeros(VOCAB_SIZE, np.uint8))):
            part = made(table)
            for features in (False, True):
                part.score(tokens, 1, 3, features=features)
                part.score_then_update(tokens, 1, 3, features=features)
            part.update(tokens, 3, 5)
        for work in dict.fromkeys((*SCORING, *CODING)):
            work()
    kept_in = store().folder
    emit_json(
        {
            "compile_s": round(compile_seconds(), 3),
            "wall_s": round(time.perf_counter() - started, 3),
            "kept_in": None if kept_in is None else str(kept_in),
        },
        None,
    )
