"""Overlap of shards: documents that both sides hold are found by their tokens, wherever shards end."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.data.overlap import SHORTEST_TOKENS, check_overlap, document_starts, overlap, repeats
from hybrid.data.shards import DataError, Stream
from hybrid.data.write_shards import write_shards

BOS = 2  # as Gemma has it


def stream_of(folder: Path, name: str, documents: Sequence[Sequence[int]], shard_tokens: int = 50) -> Stream:
    """Documents of token ids, BOS in front of each, in shards that end anywhere."""
    tokens = np.array([token for document in documents for token in (BOS, *document)], np.uint16)
    return Stream(write_shards(folder, name, "train", tokens, shard_tokens))


documents = st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=30), min_size=1, max_size=12)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(train=documents, val=documents, pick=st.lists(st.integers(0, 11)), size=st.integers(1, 60))
def test_shared_documents_are_those_a_plain_comparison_finds(
    tmp_path: Path, train: list[list[int]], val: list[list[int]], pick: list[int], size: int
) -> None:
    val = val + [train[place] for place in pick if place < len(train)]
    found = overlap(stream_of(tmp_path, "t", train, size), stream_of(tmp_path, "v", val, size + 1), BOS)
    expected = [document for document in val if document in train and len(document) + 1 >= SHORTEST_TOKENS]
    assert (found.documents, found.of_documents) == (len(expected), len(val))
    assert (found.tokens, found.of_tokens) == (sum(len(d) + 1 for d in expected), sum(len(d) + 1 for d in val))
    again = [d for place, d in enumerate(val) if d in val[:place] and len(d) + 1 >= SHORTEST_TOKENS]
    assert repeats(stream_of(tmp_path, "r", val, size), BOS).documents == len(again)


def test_a_stream_that_begins_inside_a_document_begins_one(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, "x", "val", np.array([7, 8, BOS, 9, BOS], np.uint16))
    assert document_starts(Stream(paths), BOS).tolist() == [0, 2, 4]


def test_overlap_is_an_error_unless_it_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared, other = list(range(10, 40)), list(range(50, 80))
    train, val = stream_of(tmp_path, "t", [shared, other[:20]]), stream_of(tmp_path, "v", [other, shared, shared])
    with pytest.raises(
        DataError, match="2 of 3 validation documents, 66.67% of the tokens, are training documents too; prepare .* --overlap drop"
    ):
        check_overlap(train, val, BOS)
    check_overlap(train, val, BOS, allowed=True)
    assert "2 of 3 validation documents" in capsys.readouterr().err
    check_overlap(train, stream_of(tmp_path, "n", [other]), BOS)
    assert capsys.readouterr().err == ""
