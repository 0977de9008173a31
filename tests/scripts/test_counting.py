"""The bench of counting measures what it says: all orders of all tokens, and a table of the whole shard."""

import json
import sys
from itertools import pairwise

import numpy as np

from scripts.bench import counting


def test_the_published_way_counts_every_order_of_every_token_once():
    stream = np.random.default_rng(0).integers(0, 50, counting.STEP_TOKENS + 6).astype(np.uint16)
    tables = np.zeros((counting.ORDER - 1, 1 << counting.HASH_BITS), np.uint16)
    counting.hashed_counts(counting.steps_of(stream, 1)[0], tables)
    assert tables.sum(axis=1).tolist() == [counting.STEP_TOKENS] * 6
    pairs = set(pairwise(stream[5:].tolist()))
    assert np.count_nonzero(tables[0]) == len(pairs)


def test_a_run_over_a_shard_writes_both_tables(tmp_path, monkeypatch, capsys):
    tokens = np.random.default_rng(1).integers(0, 50, 70_000).astype(np.uint16)
    (tmp_path / "shard.bin").write_bytes(bytes(counting.HEADER_BYTES) + tokens.tobytes())
    command = ["counting.py", "--shard", tmp_path / "shard.bin", "--vocab", 50, "--json", tmp_path / "f.json", "--plot", tmp_path / "f.svg"]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    assert counting.main() == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    assert [row["method"] for row in figures["microsteps"]] == ["ours", "np.unique", "hashed", "increments"]
    assert {row["tokens"] for row in figures["corpus"]} == {70_000} and (tmp_path / "f.svg").exists()
    assert {row["vocab"] for row in figures["corpus"]} == {50}
    assert "million tokens/s" in capsys.readouterr().out


def test_a_wide_vocabulary_is_made_of_pairs_of_tokens():
    stream = np.array([2, 3, 2, 3, 4, 5, counting.BOS, 3, 3, 2, 4, 5, 4, 5, 6], np.uint16)
    assert counting.pairs_of(stream, 4).tolist() == [2, 2, 0, counting.BOS, 3, 0, 0]  # 4 5, 2 3, and the last id for all others
