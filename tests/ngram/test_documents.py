"""Documents: every kind of file gives the same texts, nothing a folder held is passed over silently, faults name file and line."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ngram.documents import ALL_NAMES, KNOWN_NAMES, NAMED, documents, find_inputs, kind_of
from ngram.errors import DataError

TEXTS = [f'Document {i}:\n\n    the cat  sat, "said"\ton mat {i * i}, and that \u2581 was déjà vu.\r\n' * 3 for i in range(60)]


def long_window(data: bytes) -> bytes:
    """As `zstd --long=31` packs."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=31, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".xz": lzma.compress, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.compress
}  # fmt: skip


def jsonl(texts: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({field: text, "source": "x"}) + "\n" for text in texts).encode()


def table(texts: list[str], delimiter: str) -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([["id", "text"], *([i, text] for i, text in enumerate(texts))])
    return out.getvalue().encode()


def parquet(texts: list[str | None]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": pyarrow.array(texts, pyarrow.string())}), out, row_group_size=7)
    return out.getvalue()


def write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def read_all(places: list[str], field: str = "text", tally: Counter[str] | None = None, names: str = KNOWN_NAMES) -> list[str]:
    return list(documents(find_inputs(places, names=names), field, lambda done, total: None, tally))


@pytest.mark.parametrize("packing", PACKERS)
def test_packed_files_give_the_same_documents(tmp_path: Path, packing: str) -> None:
    assert read_all([write(tmp_path / f"a.jsonl{packing}", PACKERS[packing](jsonl(TEXTS)))]) == TEXTS
    assert read_all([write(tmp_path / f"b.txt{packing}", PACKERS[packing](TEXTS[0].encode()))]) == TEXTS[:1]


def test_several_frames_members_and_streams_are_read_to_the_end(tmp_path: Path) -> None:
    for packing in (".zst", ".gz", ".xz", ".bz2"):
        content = PACKERS[packing](jsonl(TEXTS[:3])) + PACKERS[packing](jsonl(TEXTS[3:5]))
        assert read_all([write(tmp_path / f"a.jsonl{packing}", content)]) == TEXTS[:5]


def test_zstd_with_a_long_window_is_read(tmp_path: Path) -> None:
    assert read_all([write(tmp_path / "a.jsonl.zst", long_window(jsonl(TEXTS)))]) == TEXTS


KINDS: dict[str, Callable[[list[str]], bytes]] = {
    "a.jsonl": jsonl,
    "a.ndjson": jsonl,
    "a.JSONL": jsonl,
    "array.jsonl": lambda texts: json.dumps([{"text": text} for text in texts]).encode(),
    "array.json": lambda texts: json.dumps([{"text": text} for text in texts]).encode(),
    "pretty.json": lambda texts: json.dumps([{"text": text} for text in texts], indent=2, ensure_ascii=False).encode(),
    "pretty.jsonl": lambda texts: json.dumps([{"text": text} for text in texts], indent=2).encode(),
    "strings.json": lambda texts: json.dumps(texts).encode(),
    "one after another.json": lambda texts: "\n".join(json.dumps({"text": text}, indent=1) for text in texts).encode(),
    "lines.json": jsonl,
    "marked.jsonl": lambda texts: b"\xef\xbb\xbf" + jsonl(texts),
    "marked.json": lambda texts: b"\xef\xbb\xbf" + json.dumps(texts).encode(),
    "CRLF.jsonl": lambda texts: jsonl(texts).replace(b"\n", b"\r\n"),
    "blank lines.jsonl": lambda texts: b"\n\n" + jsonl(texts).replace(b"\n", b"\n \n"),
    "a.csv": lambda texts: table(texts, ","),
    "a.tsv": lambda texts: table(texts, "\t"),
    "marked.csv": lambda texts: b"\xef\xbb\xbf" + table(texts, ","),
    "a.parquet": lambda texts: parquet(list(texts)),
}


def test_zeros_behind_gzip_and_xz_are_padding(tmp_path: Path) -> None:
    for packing in (".gz", ".xz"):
        content = PACKERS[packing](jsonl(TEXTS[:3])) + bytes(40_000) + PACKERS[packing](jsonl(TEXTS[3:])) + bytes(512)
        assert read_all([write(tmp_path / f"a.jsonl{packing}", content)]) == TEXTS


@pytest.mark.parametrize("packing", [".gz", ".xz", ".bz2", ".zst"])
def test_no_cut_of_two_frames_is_taken_for_a_whole_file(tmp_path: Path, packing: str) -> None:
    first, second = PACKERS[packing](b"one"), PACKERS[packing](b"two")
    for size in range(len(first + second)):
        name = write(tmp_path / f"a.txt{packing}", (first + second)[:size])
        if size == len(first):
            assert read_all([name]) == ["one"]
        else:
            with pytest.raises(DataError, match="cut or damaged"):
                read_all([name])


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    assert read_all([write(tmp_path / name, KINDS[name](TEXTS))]) == TEXTS


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), max_size=5))
def test_tables_and_json_keep_every_character(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    for name in ("a.csv", "a.tsv", "array.json", "a.jsonl"):
        assert read_all([write(tmp_path_factory.getbasetemp() / "kept" / name, KINDS[name](texts))]) == texts


def test_json_keeps_lone_surrogates(tmp_path: Path) -> None:
    assert read_all([write(tmp_path / "a.jsonl", b'{"text": "a\\ud800b"}\n')]) == ["a\ud800b"]


def test_a_text_file_keeps_its_line_ends_and_loses_only_its_byte_order_mark(tmp_path: Path) -> None:
    raw = "a\r\nb\rc\n\n d \ufeff ".encode()
    assert read_all([write(tmp_path / "a.txt", raw)])[0].encode() == raw
    assert read_all([write(tmp_path / "b.TXT", b"\xef\xbb\xbf" + raw)])[0].encode() == raw


def test_rows_without_a_text_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": None}, {"text": ""}, {"text": "two"}, None]
    for name, content in {
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "a.json": json.dumps(rows).encode(),
        "a.parquet": parquet(["one", None, "", "two", None]),
        "a.csv": b"id,text\n1,one\n2\n3,\n4,two\n5\n",
    }.items():
        tally = Counter[str]()
        assert read_all([write(tmp_path / name, content)], tally=tally) == ["one", "two"]
        assert tally == {"null": 2, "empty": 1}, name


def test_folders_are_searched_all_the_way_by_name_and_what_is_not_read_is_listed(tmp_path: Path) -> None:
    folder, unread = tmp_path / "d", list[str]()
    for name in (
        "b/z.txt",
        "c.txt",
        "._c.txt",
        ".hidden.txt",
        ".ipynb_checkpoints/c-checkpoint.txt",
        ".git/deep/er.txt",
        "notes.pdf",
        "b/README",
    ):
        write(folder / name, name.encode())
    write(folder / "a.jsonl.gz", gzip.compress(jsonl(["one"])))
    os.symlink(tmp_path, folder / "loop")
    os.mkfifo(folder / "pipe.txt")
    found = find_inputs([str(folder)], unread)
    assert [str(path.relative_to(folder)) for path in found] == ["a.jsonl.gz", "b/z.txt", "c.txt"]
    assert unread == ["._c.txt", ".git/", ".hidden.txt", ".ipynb_checkpoints/", "b/README", "loop/", "notes.pdf", "pipe.txt"]
    assert find_inputs([str(folder / ".hidden.txt")]) == [folder / ".hidden.txt"]  # who names it wants it


def test_an_unreadable_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "d/closed/a.txt", b"x")
    write(tmp_path / "d/b.txt", b"x")
    real = os.scandir

    def scandir(path: str) -> object:  # permissions do not hold for root, who may run the tests
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="closed: cannot read this folder: Permission denied"):
        find_inputs([str(tmp_path / "d")])


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.jsonl", jsonl(["x"]) + b"{broken\n", "a.jsonl: line 2: not a JSON value"),
        ("a.jsonl", jsonl(["x"]) + b'{"text": "\xff"}\n', "a.jsonl: line 2: not a JSON value in UTF-8"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl: line 1: not JSON from here on"),
        ("a.jsonl", b'{"a":' * 100_000, "a.jsonl: line 1: not a JSON value"),
        ("a.jsonl", b'{"text": 5}\n', "line 1: what stands under 'text' is no text but int; name the text's key with --field"),
        ("a.jsonl", b'{"body": "x", "id": 1}\n', r"line 1: no text under 'text' \(its keys: 'body', 'id'\); name its key with --field"),
        ("a.jsonl", b"[1]\n", "element 1: no text under 'text'; name"),
        ("a.jsonl", b"5\n", "line 1: no text under"),
        ("a.json", b'[{"text": "x"},]', "a.json: line 1: not JSON from here on"),
        ("a.json", b'{"text": "x"} nonsense', "a.json: line 1: not JSON"),
        ("a.json", b"[\n{\n\xff", "a.json: byte 4 is not UTF-8"),
        ("a.csv", b"id,body\n1,x\n", r"no column 'text' \(its columns: 'id', 'body'\); name"),
        ("a.csv", b'id,text\n1,"never closed\n', "a.csv: line 2: not a table"),
        ("a.csv", b"id,text\n1,\xff\n", "a.csv: not UTF-8"),
        ("a.csv", b"", "no column 'text'"),
        ("a.parquet", b"PAR1 no PAR1", "a.parquet: cut or damaged"),
        ("a.parquet", b"", "a.parquet: cut or damaged"),
        ("a.txt", b"abc\xff", "a.txt: byte 3 is not UTF-8"),
        ("a.txt", b"\xef\xbb\xbfabc\xff", "a.txt: byte 6 is not UTF-8"),
        *[(f"a.jsonl{packing}", PACKERS[packing](jsonl(TEXTS))[:-20], "cut or damaged") for packing in (".xz", ".gz", ".zst", ".bz2")],
        *[(f"a.jsonl{packing}", jsonl(TEXTS), "cut or damaged") for packing in (".xz", ".gz", ".zst", ".bz2")],
        *[
            (f"a.jsonl{packing}", PACKERS[packing](jsonl(TEXTS)) + b"garbage behind", "cut or damaged")
            for packing in (".gz", ".zst", ".xz", ".bz2")
        ],
        ("a.pdf", b"abc", "a.pdf: not a kind of text file known here; its name must end in .txt, "),
        ("a.parquet.gz", b"abc", "a.parquet.gz: not a kind of text file known here"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,  # gzip's hold the time, which differs between workers
)
def test_a_bad_file_is_named_with_the_place(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_all([write(tmp_path / name, content)])
    assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_a_column_that_is_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="what stands under 'id' is no text but int"):
        read_all([write(tmp_path / "a.parquet", parquet(["x"]))], field="id")


@pytest.mark.parametrize("place", ["nowhere.txt", "x" * 300, "x" * 5000, "a\udcff.txt"])
def test_a_missing_path_is_one_line(place: str) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        find_inputs([place])


def test_a_folder_without_text_says_what_is_read(tmp_path: Path) -> None:
    write(tmp_path / "notes.pdf", b"x")
    with pytest.raises(DataError, match="no text in this folder; put files there whose names end in .txt, .jsonl"):
        find_inputs([str(tmp_path)])


def test_files_of_other_names_are_read_where_that_is_asked_for(tmp_path: Path) -> None:
    """Log files, sources and files without an ending are text, packed or not; pictures and machine code in the same folder are none."""
    place, log = tmp_path / "d", "".join(f"12:00:{i % 60:02d} დაიწყო unpacked {i}\n" for i in range(9000))  # a character lies across the block's end
    for name, content in {
        "a.log": log.encode(), "a.log.1.gz": gzip.compress(log.encode()), "main.c": b"int main;", "README": b"read", "t.txt": b"t", "e.py": b"",
        "p.png": b"\x89PNG\r\n\xff\xfe", "m.pyc": b"abc\0\0", ".hidden": b"x",
    }.items():  # fmt: skip
        write(place / name, content)
    unread: list[str] = []
    found = find_inputs([str(place)], unread, names=ALL_NAMES)
    assert [path.name for path in found] == ["README", "a.log", "a.log.1.gz", "e.py", "main.c", "t.txt"] and unread == [".hidden", "m.pyc", "p.png"]
    assert read_all([str(path) for path in found], names=ALL_NAMES) == ["read", log, log, "int main;", "t"]
    assert [path.name for path in find_inputs([str(place)])] == ["t.txt"]
    assert [path.name for path in find_inputs([str(place / "a.log")], names=NAMED)] == ["a.log"]
    with pytest.raises(DataError, match="a.log: not a kind of text file known here.*; --any-name reads other files as plain text"):
        find_inputs([str(place / "a.log")])


def test_a_packed_file_of_another_name_that_is_damaged_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.log.gz", gzip.compress(b"abc" * 99)[:-9])
    with pytest.raises(DataError, match="a.log.gz: cut or damaged"):
        read_all([str(tmp_path)], names=ALL_NAMES)


def test_names_tell_kind_and_packing_in_any_case() -> None:
    names = {"a.TXT": ("txt", ""), "a.Json.GZ": ("json", ".gz"), "a.ndjson.zst": ("jsonl", ".zst"), "a.tsv.bz2": ("tsv", ".bz2")}
    assert {name: kind_of(Path(name)) for name in names} == names
    assert [kind_of(Path(name)) for name in ("a.gz", "txt", "a.txt.zip", "a.parquet.zst", "a.txt.gz.gz")] == [None] * 5


def test_a_block_that_unpacks_to_much_more_than_was_asked_for_is_handed_out_whole(tmp_path: Path) -> None:
    text = "".join(random.Random(0).choices("ab\n", k=300_000)) + "c" * 30_000_000
    for packing in (".zst", ".gz"):
        assert read_all([write(tmp_path / f"a.txt{packing}", PACKERS[packing](text.encode()))]) == [text]
