"""Ranks: the sum of runs is the run of the whole stream, to the bit, on every rank, however the stream was split."""

from pathlib import Path

import numpy as np
import pytest

from ngram.counting.all_reduce import all_reduce_run
from ngram.counting.counter import NgramCache
from ngram.counting.run import Run
from tests.support import loaded
from tests.support.all_reduce_worker import ORDER, VOCAB
from tests.support.paths import ROOT
from tests.support.ranks import run_together

WORLD = 2


def make_stream() -> np.ndarray:
    """600 tokens of a small vocabulary with documents of several lengths."""
    random = np.random.default_rng(5)
    stream = random.integers(2, VOCAB, 600).astype(np.uint16)
    stream[np.concatenate([[0], random.integers(1, 600, 20)])] = 1
    return stream


def whole_run() -> Run:
    cache = NgramCache(VOCAB, ORDER, 1, buffer_positions=64)
    cache.count_stream(make_stream())
    return cache.run()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks have left the results of all scenarios; fails with their stderr."""
    folder = tmp_path_factory.mktemp("ranks")
    np.save(folder / "stream.npy", make_stream())
    command = [loaded.python(), str(ROOT / "tests" / "support" / "all_reduce_worker.py")]
    commands = [[*command, str(rank), str(WORLD), str(folder)] for rank in range(WORLD)]
    run_together(commands, timeout=150, OMP_NUM_THREADS="1")
    return folder


@pytest.mark.parametrize("scenario", ["even", "lopsided", "overflow"])
def test_every_rank_gets_the_run_of_the_whole_stream_to_the_bit(folder: Path, scenario: str) -> None:
    whole = whole_run()
    if scenario == "overflow":
        whole = Run.from_counts(ORDER, whole.hi, whole.lo, whole.exact_counts() * 40_000)
        assert len(whole.overflow_index) > 0
    for rank in range(WORLD):
        columns = np.load(folder / f"{scenario}-{rank}.npz").values()
        for got, expected in zip(columns, map(np.asarray, whole.columns()), strict=True):
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)


def test_ranks_that_counted_different_orders_all_say_so(folder: Path) -> None:
    messages = [(folder / f"orders-{rank}.txt").read_text() for rank in range(WORLD)]
    assert messages == ["ranks counted different orders [4, 5]; start every rank with the same --orders"] * WORLD


def test_without_other_ranks_the_run_is_returned_as_it_is() -> None:
    run = whole_run()
    assert all_reduce_run(run) is run
