"""Compiling the kernels of a coder and a decoder of many streams; see warm_up.py."""

import numpy as np

from ngram.blending.warm_up import Work, gate, product, rows_of_histories, tiny_cache
from ngram.online.columns import MatchColumns, update_column


def _columns() -> None:
    update_column(tiny_cache(), np.zeros((2, 3), np.uint16), np.arange(2), 1)


def _match_columns() -> None:
    columns = MatchColumns(np.zeros((2, 3), np.uint16), 1)
    columns.fill(1, np.empty((2, 2)), np.empty((2, 2), np.float32))
    columns.learn(1, np.arange(2))


CODING: tuple[Work, ...] = (tiny_cache, _columns, rows_of_histories, _match_columns, product, gate)  # what a coder and a decoder run through
