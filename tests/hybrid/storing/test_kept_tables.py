"""A table that was decoded once comes back from the user's cache folder, the same in every bit; any fault there costs a decoding."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hybrid.storing import artifact, kept_tables
from ngram.errors import FileFormatError
from ngram.private_files import VARIABLE
from ngram.storing import table_codec
from ngram.table import NgramTable
from tests.support import tiny


@pytest.fixture
def section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A coded table with a count above 65,535, and a cache folder of the test's own."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(kept_tables, "LEAST_BYTES", 0)
    tiny.write_artifact(tmp_path / "a.bin")
    table = artifact.load(tmp_path / "a.bin").table
    assert table is not None
    index = np.flatnonzero(table.counts[0] == table.counts[0].max())[:1].astype(np.uint32)
    table.counts[0][index] = 65535
    return table_codec.encode(dataclasses.replace(table, excess={1: (index, np.array([90_000], np.uint32))}))


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every table that is decoded."""
    seen: list[int] = []
    decode: Callable[[bytes], NgramTable] = table_codec.decode
    monkeypatch.setattr(table_codec, "decode", lambda data: (seen.append(len(data)), decode(data))[1])
    return seen


def kept_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/tables").rglob("table"))


def assert_equal(found: NgramTable, wanted: NgramTable) -> None:
    assert (found.vocab_size, found.bos, found.order, found.raw) == (wanted.vocab_size, wanted.bos, wanted.order, wanted.raw)
    pairs = [(a, b) for name in ("tokens", "parents", "counts", "pruned") for a, b in zip(getattr(found, name), getattr(wanted, name), strict=True)]
    assert found.excess.keys() == wanted.excess.keys() == {1}
    pairs += [*zip(found.excess[1], wanted.excess[1], strict=True), (found.discounts, wanted.discounts)]
    for one, other in pairs:
        assert (one.dtype, one.flags.writeable, one.flags.c_contiguous) == (other.dtype, True, True)  # kernels are compiled for these
        assert np.array_equal(one, other)


def test_what_is_kept_is_what_was_decoded_and_is_decoded_once(section: bytes, decodings: list[int], tmp_path: Path) -> None:
    first = kept_tables.decode(section)
    second = kept_tables.decode(section)
    assert len(decodings) == 1 and len(kept_files(tmp_path)) == 1
    assert_equal(first, table_codec.decode(section))
    assert_equal(second, first)


def test_other_bytes_have_another_place(section: bytes, tmp_path: Path) -> None:
    kept_tables.decode(section)
    with pytest.raises(FileFormatError):
        kept_tables.decode(section[:40])
    assert len(kept_files(tmp_path)) == 1


@pytest.mark.parametrize("fault", ["cut", "foreign", "empty archive"])
def test_what_is_no_table_is_decoded_again(section: bytes, decodings: list[int], tmp_path: Path, fault: str) -> None:
    wanted = kept_tables.decode(section)
    (place,) = kept_files(tmp_path)
    store = kept_tables._store(section)
    if fault == "cut":
        place.write_bytes(place.read_bytes()[:-9])
    else:
        store.save("table", b"PK\x05\x06" + bytes(18) if fault == "empty archive" else b"no table at all")
    assert_equal(kept_tables.decode(section), wanted)
    assert_equal(kept_tables.decode(section), wanted)
    assert len(decodings) == 2


def test_small_and_large_tables_and_switched_off_caches_keep_nothing(
    section: bytes, decodings: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound, value in (("MOST_BYTES", 100), ("LEAST_BYTES", 1 << 20)):
        with monkeypatch.context() as patch:
            patch.setattr(kept_tables, bound, value)
            kept_tables.decode(section)
    monkeypatch.setenv(VARIABLE, "")
    kept_tables.decode(section)
    assert len(decodings) == 3 and kept_files(tmp_path) == []


def test_an_artifact_is_the_same_with_a_kept_table(section: bytes, decodings: list[int], tmp_path: Path) -> None:
    wanted = artifact.load(tmp_path / "a.bin")
    del decodings[:]
    for _ in range(2):
        found = kept_tables.load(tmp_path / "a.bin")
        assert found.table is not None and wanted.table is not None and found.header == wanted.header
        assert all(np.array_equal(a, b) for a, b in zip(found.table.counts, wanted.table.counts, strict=True))
    assert len(decodings) == 1
