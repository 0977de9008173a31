"""Shards: the official format to the byte, and one line for every way a file can be wrong."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.data import shards
from hybrid.data.load_stream import load_stream
from hybrid.data.prepared import let_go
from hybrid.data.shards import DataError, Loader, ShardError, Stream, find_shards, read_shard
from hybrid.data.write_shards import write_shard, write_shards


def official(tokens: list[int], magic: int = 20240520, version: int = 1, promised: int | None = None) -> bytes:
    """A shard by the format's definition."""
    header = struct.pack("<256i", magic, version, len(tokens) if promised is None else promised, *[0] * 253)
    return header + struct.pack(f"<{len(tokens)}H", *tokens)


def test_a_shard_has_the_official_bytes(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.bin", [1, 5, 1023, 65534])
    assert (tmp_path / "x.bin").read_bytes() == official([1, 5, 1023, 65534])
    assert read_shard(tmp_path / "x.bin").tolist() == [1, 5, 1023, 65534]


@settings(max_examples=30, deadline=None)
@given(tokens=st.lists(st.integers(0, 65534), max_size=50))
def test_shards_round_trip(tmp_path_factory: pytest.TempPathFactory, tokens: list[int]) -> None:
    path = tmp_path_factory.mktemp("shard") / "x.bin"
    write_shard(path, np.array(tokens, dtype=np.uint16))
    assert read_shard(path, 65535).tolist() == tokens


def test_a_read_shard_is_a_read_only_memory_map(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.bin", [1, 2, 3])
    tokens = read_shard(tmp_path / "x.bin")
    assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16
    with pytest.raises(ValueError):
        tokens[0] = 9


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not say what of a file is in memory")
def test_what_a_stream_let_go_of_is_out_of_memory_and_comes_back(tmp_path: Path) -> None:
    def resident() -> int:
        parts = Path("/proc/self/smaps").read_text().split("x.bin\n")[1:]
        return sum(int(part.split("Rss:")[1].split()[0]) for part in parts)

    write_shard(tmp_path / "x.bin", np.arange(1 << 20) % 999)
    stream = Stream([tmp_path / "x.bin"])
    before = stream.read(0, len(stream)).astype(np.int64).sum()
    assert resident() >= 2048
    let_go(stream)
    assert resident() == 0
    assert stream.read(0, len(stream)).astype(np.int64).sum() == before


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "not a token shard"),
        (b"PNG" * 100, "not a token shard"),
        (b"PNG" * 1000, "not a token shard"),
        (official([1, 2])[:1000], "not a token shard"),
        (official([1, 2], magic=20240521), "not a token shard"),
        (official([1, 2], version=3), "shard version 3"),
        (official([1, 2], version=2), "promises 2 tokens, file holds 1"),
        (official([1, 2], promised=3), "promises 3 tokens, file holds 2"),
        (official([1, 2], promised=1), "promises 1 tokens, file holds 2"),
        (official([1, 2], promised=-1), "promises -1 tokens"),
        (official([1, 2])[:-1], "file holds 1.5"),
        (official([1, 1024]), "token 1024 at 1 is outside the vocabulary of 1024"),
    ],
)
def test_a_bad_shard_is_named_with_its_fault(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.bin"
    path.write_bytes(content)
    with pytest.raises(ShardError, match=said) as caught:
        read_shard(path, 1024)
    assert str(path) in str(caught.value) and ";" in str(caught.value)


def test_tokens_are_checked_past_the_first_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SCAN_TOKENS", 4)
    write_shard(tmp_path / "x.bin", [1] * 9 + [7])
    assert len(read_shard(tmp_path / "x.bin", 8)) == 10
    with pytest.raises(ShardError, match="token 7 at 9"):
        read_shard(tmp_path / "x.bin", 7)


def test_a_missing_shard_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="cannot read"):
        read_shard(tmp_path / "none.bin")


@pytest.mark.parametrize("tokens", [[65535], [-1], [70000], [[1, 2]]])
def test_what_16_bits_cannot_hold_is_not_written(tmp_path: Path, tokens: list[int]) -> None:
    with pytest.raises(DataError):
        write_shard(tmp_path / "x.bin", tokens)
    assert list(tmp_path.iterdir()) == []


def test_tokens_of_32_bits_make_a_wide_shard_that_only_their_vocabulary_reads(tmp_path: Path) -> None:
    tokens = np.array([1, 65_535, 262_143], np.uint32)
    write_shard(tmp_path / "x_train_0.bin", tokens)
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 2, 3
    assert (tmp_path / "x_train_0.bin").read_bytes() == header.tobytes() + tokens.astype("<u4").tobytes()
    assert read_shard(tmp_path / "x_train_0.bin", 262_144).tolist() == tokens.tolist()
    for narrower, said in ((262_143, "outside the vocabulary"), (65_535, "have 32 bits, not as a vocabulary of 65535")):
        with pytest.raises(ShardError, match=said):
            read_shard(tmp_path / "x_train_0.bin", narrower)
    loader = Loader([tmp_path / "x_train_0.bin"], batch_rows=1, seq_len=2, history=3, vocab_size=262_144)
    assert loader.batch(0).tolist() == [[2**32 - 1, 2**32 - 1, *tokens.tolist()]]


def test_streams_are_cut_into_shards_and_joined_again(tmp_path: Path) -> None:
    tokens = np.arange(1, 26, dtype=np.uint16)
    paths = write_shards(tmp_path, "web", "train", tokens, shard_tokens=10)
    assert [path.name for path in paths] == ["web_train_000000.bin", "web_train_000001.bin", "web_train_000002.bin"]
    stream = Stream(find_shards(tmp_path, "train"))
    assert len(stream) == 25
    for start in range(26):
        for stop in range(start, 26):
            assert stream.read(start, stop).tolist() == tokens[start:stop].tolist()


def test_the_shards_of_a_split_are_found_by_name_in_order(tmp_path: Path) -> None:
    wanted = ["a_train_1_train_000000.bin", "a_train_1_train_000001.bin", "a_train_1_val_000000.bin"]
    for name in (*reversed(wanted), "a_val_00.bin.tmp", ".a_val_0.bin", "a_val_x.bin", "x.txt"):
        (tmp_path / name).write_bytes(official([1, 2]))
    assert [path.name for path in find_shards(tmp_path, "train")] == wanted[:2]
    assert [path.name for path in find_shards(tmp_path, "val")] == wanted[2:]
    assert find_shards(tmp_path / "x.txt", "val") == [tmp_path / "x.txt"]


def test_no_shards_and_empty_validation_sets_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*_val_\*.bin in it; make shards"):
        find_shards(tmp_path, "val")
    with pytest.raises(DataError, match="no such folder"):
        find_shards(tmp_path / "none", "val")
    for tokens in ([], [1]):
        write_shard(tmp_path / "x_val_000000.bin", tokens)
        with pytest.raises(DataError, match="none to predict"):
            load_stream(tmp_path, "val")
    write_shard(tmp_path / "x_val_000000.bin", [1, 2])
    assert load_stream(tmp_path, "val", 3).tolist() == [1, 2]
