"""Container: what is written is read back; anything cut or altered is refused by name; nothing half-written appears."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram import container
from ngram.errors import FileFormatError, SeedgramError

MAGIC = b"TESTFILE"
SAMPLE = container.pack(MAGIC, 3, {"b": 1, "a": [1, "x"]}, {"one": b"hello", "empty": b"", "two": bytes(range(256))})


def test_round_trip_keeps_header_sections_and_their_order() -> None:
    header, sections = container.unpack(SAMPLE, MAGIC, 3, "f")
    assert header == {"b": 1, "a": [1, "x"]}
    assert list(sections.items()) == [("one", b"hello"), ("empty", b""), ("two", bytes(range(256)))]


def test_bytes_are_pinned() -> None:
    data = container.pack(MAGIC, 1, {"k": 2}, {"s": b"ab"})
    assert data[:-32] == b"TESTFILE" + bytes([1, 0, 0, 0, 28, 0, 0, 0]) + b'{"k":2,"sections":[["s",2]]}ab'
    assert data[-32:].hex() == "bf94f7784f495350d19c4d007ad4422f497b63333617ef577be4cac403d2ddb0"


def test_every_single_byte_change_is_refused() -> None:
    for position in range(len(SAMPLE)):
        altered = bytearray(SAMPLE)
        altered[position] ^= 0x41
        with pytest.raises(FileFormatError, match="the-file"):
            container.unpack(bytes(altered), MAGIC, 3, "the-file")


def test_every_cut_is_refused() -> None:
    for length in range(len(SAMPLE)):
        with pytest.raises(FileFormatError):
            container.unpack(SAMPLE[:length], MAGIC, 3, "f")


def test_another_version_is_named() -> None:
    with pytest.raises(FileFormatError, match="format version 3, this program reads 4"):
        container.unpack(SAMPLE, MAGIC, 4, "f")


@given(st.binary(max_size=80))
def test_a_valid_digest_over_nonsense_is_still_refused(body: bytes) -> None:
    import hashlib
    import struct

    data = struct.pack("<8sII", MAGIC, 3, len(body)) + body
    with pytest.raises(FileFormatError):
        container.unpack(data + hashlib.sha256(data).digest(), MAGIC, 3, "f")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    container.atomic_write(target, b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(SeedgramError, match="No space left"):
        container.atomic_write(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
