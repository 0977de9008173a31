"""Coded files that any machine can read: whole numbers that add up exactly, and the same bytes everywhere."""

import hashlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.coding import compress, portable
from hybrid.coding.stream_coder import artifact_sha256
from hybrid.coding.whole_numbers import ONE, SCALE, WholeNumbers
from hybrid.data import tokenizer
from hybrid.parallel.ranks import Ranks
from hybrid.storing import artifact
from ngram.errors import FileFormatError, SeedgramError
from tests.support import tiny

RANKS = Ranks(0, 1, torch.device("cpu"))
TEXT = (" ".join(tiny.WORDS) + ". ").encode() * 4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("artifact") / "a.bin"
    tiny.write_artifact(place)
    return place


def part_of(art: artifact.Artifact) -> WholeNumbers:
    assert art.table is not None
    return WholeNumbers(art.table)


def packed(data: bytes, path: Path) -> bytes:
    art = artifact.load(path)
    return portable.encode(art, artifact_sha256(path), compress.with_bos(tokenizer.load(art.tokenizer), data), data)[0]


@given(data=st.binary(max_size=80))
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_come_back(data: bytes, path: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(packed(data, path))
    compress.decompress(tmp_path / "packed", tmp_path / "out", path)
    assert (tmp_path / "out").read_bytes() == data


def test_every_row_adds_up_exactly_and_leaves_nothing_impossible(path: Path) -> None:
    art = artifact.load(path)
    tokens = compress.with_bos(tokenizer.load(art.tokenizer), TEXT)
    part = part_of(art)
    for t in range(1, len(tokens)):
        row = part.whole_row(tokens, t)
        assert row.sum() == ONE and row.min() >= 1
        part.update(tokens, t, t + 1)


def test_without_a_match_a_row_is_that_of_the_cache_within_rounding(path: Path) -> None:
    """Held against the floating-point rows of the cache, which tests hold against plain Python."""
    art = artifact.load(path)
    tokens = compress.with_bos(tokenizer.load(art.tokenizer), TEXT)
    part = part_of(art)
    for t in range(1, 60):
        row = part.whole_row(tokens, t).copy()
        if part._found[0] < 0:
            theirs = np.empty((1, len(row)))
            theirs = part.cache.ask(tokens, t, t + 1).rows()
            assert np.abs(row / ONE - theirs[0]).max() < 4 * len(row) / ONE + 2.0**-SCALE
        part.update(tokens, t, t + 1)


def test_the_match_model_gains_weight_where_it_was_right(path: Path) -> None:
    art = artifact.load(path)
    tokens = compress.with_bos(tokenizer.load(art.tokenizer), TEXT)
    part = part_of(art)
    for t in range(1, len(tokens)):
        part.whole_row(tokens, t)
        part.update(tokens, t, t + 1)
    assert part.weights.max() > 1 << 15


def test_the_weight_follows_bayes_rule(path: Path) -> None:
    part = part_of(artifact.load(path))
    sure, alone = ONE * 3 // 4, ONE // 8
    for came, matched, counted in ((5, Fraction(alone, ONE) / 4 + Fraction(3, 4), Fraction(alone, ONE)), (6, Fraction(1, 4), Fraction(1))):
        part.weights[:], part._found = 1 << 14, (5, 0, sure, alone)
        part._weigh(came)
        prior = Fraction(1, 4)
        expected = prior * matched / (prior * matched + (1 - prior) * counted)
        assert abs(Fraction(int(part.weights[0]), 1 << 16) - expected) < Fraction(1, 1 << 15)


def test_the_same_bytes_on_every_machine(path: Path) -> None:
    """Golden: a change of the distributions needs another VERSION, because files of the old ones would come back wrong."""
    art = artifact.load(path)
    tokens = compress.with_bos(tokenizer.load(art.tokenizer), TEXT)
    part, rows = part_of(art), hashlib.sha256()
    for t in range(1, len(tokens)):
        rows.update(part.whole_row(tokens, t).astype("<i8").tobytes())
        part.update(tokens, t, t + 1)
    assert (portable.VERSION, rows.hexdigest()[:16]) == (1, "622972b626b781a0")


def test_a_file_without_n_grams_to_code_with_is_refused(tmp_path: Path) -> None:
    tiny.write_artifact(tmp_path / "a.bin", cache=False)
    with pytest.raises(SeedgramError, match="leave --portable out"):
        packed(b"abc", tmp_path / "a.bin")


def test_damage_is_found_before_anything_is_written(path: Path, tmp_path: Path) -> None:
    data = packed(TEXT, path)
    for at in range(len(data) - 40, len(data), 7):
        (tmp_path / "packed").write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(FileFormatError):
            compress.decompress(tmp_path / "packed", tmp_path / "out", path)
        assert not (tmp_path / "out").exists()


def test_the_command_makes_a_file_that_says_so_and_reads_it_again(path: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(TEXT)
    compress.compress(tmp_path / "in", tmp_path / "packed", path, RANKS, anywhere=True)
    made = (tmp_path / "packed").read_bytes()
    assert made.startswith(portable.MAGIC) and len(made) < len(TEXT) // 2
    compress.decompress(tmp_path / "packed", tmp_path / "out", path)
    assert (tmp_path / "out").read_bytes() == TEXT
