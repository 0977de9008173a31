"""Loader: what a row holds, who sees it and when, against a plain-Python oracle."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.data.shards import DataError, Loader, ShardError, find_shards, permutation
from hybrid.data.write_shards import write_shards
from ngram.table import PAD


def corpus(folder: Path, count: int, bos_every: int = 17, shard_tokens: int = 100) -> np.ndarray:
    """A stream of `count` distinct-looking tokens over several shards, written to `folder`."""
    tokens = (np.arange(count) % 1000 + 2).astype(np.uint16)
    tokens[::bos_every] = 1
    write_shards(folder, "x", "train", tokens, shard_tokens)
    return tokens


def loader(folder: Path, **changes: Any) -> Loader:
    return Loader(find_shards(folder, "train"), **{"batch_rows": 4, "seq_len": 8, "history": 6, "seed": 3, **changes})


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(10, 230),
    seq_len=st.integers(1, 9),
    history=st.integers(1, 12),
    shard_tokens=st.integers(7, 300),
    holdout=st.integers(0, 40),
)
def test_rows_and_remainder_hold_every_training_target_once(
    tmp_path_factory: pytest.TempPathFactory, count: int, seq_len: int, history: int, shard_tokens: int, holdout: int
) -> None:
    folder = tmp_path_factory.mktemp("loader")
    tokens = corpus(folder, count, shard_tokens=shard_tokens)
    if holdout >= count - 1 - 2 * seq_len - 10:
        holdout = 0
    subject = loader(folder, seq_len=seq_len, history=history, holdout_tokens=holdout, batch_rows=3)
    padded = [PAD] * history + tokens.tolist()
    expected = [padded[t : t + history + 1] for t in range(1, subject.train_tokens)]  # each target behind its history
    seen = []
    rows = [row for step in range(-(-subject.rows_per_epoch // 3)) for row in subject.batch(step)[subject.is_first_epoch(step)]]
    assert len(rows) == subject.rows_per_epoch
    for row in [*rows, subject.remainder()]:
        seen += [row[t - history : t + 1].tolist() for t in range(history, len(row))]
    assert sorted(seen) == sorted(expected)
    assert np.array_equal(subject.holdout(), tokens[subject.train_tokens :])


def test_a_batch_is_a_function_of_the_step_alone(tmp_path: Path) -> None:
    corpus(tmp_path, 500)
    forward = [loader(tmp_path).batch(step) for step in range(40)]
    subject = loader(tmp_path)
    for step in reversed(range(40)):
        assert np.array_equal(subject.batch(step), forward[step])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_together_see_what_one_rank_sees(tmp_path: Path, world: int) -> None:
    corpus(tmp_path, 500)
    for step in (0, 7, 30):
        one = loader(tmp_path)
        parts = [loader(tmp_path, rank=rank, world=world) for rank in range(world)]
        assert np.array_equal(np.concatenate([part.batch(step) for part in parts]), one.batch(step))
        assert np.array_equal(np.concatenate([part.is_first_epoch(step) for part in parts]), one.is_first_epoch(step))


def test_each_epoch_is_a_permutation_and_epochs_differ(tmp_path: Path) -> None:
    corpus(tmp_path, 500)
    subject = loader(tmp_path, batch_rows=1)
    rows = subject.rows_per_epoch
    epochs = [[int(subject.row_indices(epoch * rows + i)[0]) for i in range(rows)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(rows)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(rows))
    assert epochs[0] != [int(loader(tmp_path, batch_rows=1, seed=4).row_indices(i)[0]) for i in range(rows)]


def test_later_epochs_cut_the_stream_elsewhere_and_the_first_covers_it_once(tmp_path: Path) -> None:
    corpus(tmp_path, 500)
    subject = loader(tmp_path, batch_rows=1)
    rows, length = subject.rows_per_epoch, subject.seq_len
    cuts = [sorted(int(subject.first_targets(epoch * rows + i)[0]) for i in range(rows)) for epoch in range(4)]
    assert cuts[0] == [1 + i * length for i in range(rows)]
    assert len({cut[-1] % length for cut in cuts}) > 1
    assert all(cut[0] == 1 and {b - a for a, b in pairwise(cut[1:])} == {length} for cut in cuts)


def test_a_batch_may_span_epochs_and_only_first_sights_are_marked(tmp_path: Path) -> None:
    corpus(tmp_path, 42)  # 41 targets: 5 rows of 8, 1 left over
    subject = loader(tmp_path, batch_rows=4)
    assert subject.rows_per_epoch == 5
    assert [subject.is_first_epoch(step).tolist() for step in range(3)] == [[True] * 4, [True, False, False, False], [False] * 4]
    assert len(subject.remainder()) == 6 + 1
    wide = loader(tmp_path, batch_rows=20)  # four epochs in one batch
    assert sorted(wide.row_indices(0).tolist()) == sorted(list(range(5)) * 4)


def test_the_first_row_is_padded_before_the_beginning(tmp_path: Path) -> None:
    tokens = corpus(tmp_path, 42)
    subject = loader(tmp_path, batch_rows=5)
    first = subject.batch(0)[subject.row_indices(0).tolist().index(0)]
    assert first.tolist() == [PAD] * 5 + tokens[:9].tolist()
    assert PAD not in first[subject.history - 1 : -1]  # what the network reads


def test_the_shuffle_is_pinned() -> None:
    assert permutation(10, 1337, 0).tolist() == [0, 3, 6, 9, 4, 8, 2, 7, 5, 1]


def test_the_holdout_begins_at_the_nearest_document(tmp_path: Path) -> None:
    tokens = corpus(tmp_path, 500)
    held = loader(tmp_path, holdout_tokens=100).holdout()
    assert held[0] == 1 and abs(len(held) - 100) <= 17 // 2 + 1
    assert np.array_equal(held, tokens[-len(held) :])


def test_one_long_document_is_held_out_exactly(tmp_path: Path) -> None:
    corpus(tmp_path, 500, bos_every=1000)
    assert len(loader(tmp_path, holdout_tokens=100).holdout()) == 100


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"seq_len": 500}, "no row of 500 targets"),
        ({"holdout_tokens": 499}, "leave nothing after holding out 499; lower --holdout-tokens, say to 5"),
    ],
)
def test_settings_that_do_not_fit_say_so(tmp_path: Path, changes: dict[str, int], said: str) -> None:
    corpus(tmp_path, 500)
    with pytest.raises(DataError, match=said):
        loader(tmp_path, **changes)


def test_a_token_outside_the_vocabulary_stops_the_loader(tmp_path: Path) -> None:
    corpus(tmp_path, 500)
    with pytest.raises(ShardError, match="outside the vocabulary of 64"):
        loader(tmp_path, vocab_size=64)
