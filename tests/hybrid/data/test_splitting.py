"""Sides: equal documents are counted once and stay on one side, overlap is an error, no side is left without text."""

import gzip
from pathlib import Path

import pytest

from hybrid.data.shards import DataError
from tests.support.folders import jsonl, prepare_into, read_back, write

TEXTS = [f"Document {i}: the cat sat on mat {i * i} and was déjà vu.\n" * 3 for i in range(60)]


@pytest.mark.parametrize("keep", [False, True])
def test_equal_documents_are_counted_once_unless_kept(tmp_path: Path, keep: bool) -> None:
    texts = [text for text in TEXTS for _ in range(3)]
    manifest = prepare_into(tmp_path / "out", write(tmp_path / "a.jsonl", jsonl(texts)), val_fraction=0.3, keep_duplicates=keep)
    train, val = read_back(tmp_path / "out", "train"), read_back(tmp_path / "out", "val")
    assert sorted(train + val) == sorted(text.encode() for text in (texts if keep else TEXTS))
    assert not set(train) & set(val)
    assert manifest["left_out"]["duplicates"] == 120


def test_duplicates_change_nothing_but_their_count(tmp_path: Path) -> None:
    once, thrice = write(tmp_path / "1.jsonl", jsonl(TEXTS)), write(tmp_path / "3.jsonl", jsonl(TEXTS * 3))
    for name, source in (("once", once), ("thrice", thrice)):
        prepare_into(tmp_path / name, source, val_fraction=0.2)
    for name in ("text_train_000000.bin", "text_val_000000.bin", "tokenizer.model", "text_train_documents.idx"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "thrice" / name).read_bytes()


def test_one_book_in_two_packings_is_one_document_whose_end_is_held_out(tmp_path: Path) -> None:
    book = "".join(TEXTS)
    write(tmp_path / "in/book.txt", book)
    write(tmp_path / "in/book.txt.gz", gzip.compress(book.encode()))
    manifest = prepare_into(tmp_path / "out", str(tmp_path / "in"), str(tmp_path / "in/book.txt"), val_fraction=0.1)
    (train,), (val,) = read_back(tmp_path / "out", "train"), read_back(tmp_path / "out", "val")
    assert train + val == book.encode()
    assert manifest["left_out"]["duplicates"] == 2


def test_validation_documents_that_are_training_documents_are_refused_unless_asked_for(tmp_path: Path) -> None:
    source, val = write(tmp_path / "a.jsonl", jsonl(TEXTS)), (write(tmp_path / "v.jsonl", jsonl([*TEXTS[:5], "a new document\n"])),)
    with pytest.raises(DataError, match="5 of 6 validation documents are training documents too; take them out .* --overlap drop"):
        prepare_into(tmp_path / "out", source, val=val)
    assert not (tmp_path / "out").exists()
    kept = prepare_into(tmp_path / "kept", source, val=val, overlap="keep")
    dropped = prepare_into(tmp_path / "dropped", source, val=val, overlap="drop")
    assert (kept["overlap"], kept["splits"]["train"]["documents"]) == (5, 60)
    assert (dropped["overlap"], dropped["splits"]["train"]["documents"], dropped["splits"]["val"]["documents"]) == (5, 55, 6)
    assert not set(read_back(tmp_path / "dropped", "train")) & set(read_back(tmp_path / "dropped", "val"))


@pytest.mark.parametrize("documents", [1, 2, 3, 5])
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_every_split_leaves_text_on_both_sides_or_says_that_it_cannot(tmp_path: Path, documents: int, fraction: float) -> None:
    prepare_into(tmp_path / "base", write(tmp_path / "base.jsonl", jsonl(TEXTS)))
    model = str(tmp_path / "base/tokenizer.model")
    for start in range(0, 20, documents):
        texts = TEXTS[start : start + documents]
        source = write(tmp_path / f"{start}.jsonl", jsonl(texts))
        manifest = prepare_into(tmp_path / f"out{start}", source, tokenizer=model, val_fraction=fraction)
        assert all(manifest["splits"][side]["tokens"] >= 2 for side in ("train", "val"))
        assert sum(manifest["splits"][side]["bytes"] for side in ("train", "val")) == sum(len(text.encode()) for text in texts)


def test_too_little_text_for_two_sides_is_refused_with_the_remedy(tmp_path: Path) -> None:
    prepare_into(tmp_path / "base", write(tmp_path / "base.jsonl", jsonl(TEXTS)))
    source, model = write(tmp_path / "a.txt", "t"), str(tmp_path / "base/tokenizer.model")
    with pytest.raises(DataError, match="too few to hold out 0.5 of them for validation; give more text, or validation text with --val"):
        prepare_into(tmp_path / "out", source, tokenizer=model, val_fraction=0.5)
    manifest = prepare_into(tmp_path / "out", source, tokenizer=model, val_fraction=0)
    assert list(manifest["splits"]) == ["train"]


def test_a_cut_document_is_cut_between_characters(tmp_path: Path) -> None:
    prepare_into(tmp_path / "base", write(tmp_path / "base.jsonl", jsonl(TEXTS)))
    text = "\u4e2d\u6587\u5b57" * 40
    source = write(tmp_path / "a.txt", text)
    for percent in range(5, 95, 7):
        out = tmp_path / f"out{percent}"
        prepare_into(out, source, tokenizer=str(tmp_path / "base/tokenizer.model"), val_fraction=percent / 100)
        (train,), (val,) = read_back(out, "train"), read_back(out, "val")
        assert train.decode() + val.decode() == text


def test_blank_text_is_refused(tmp_path: Path) -> None:
    prepare_into(tmp_path / "base", write(tmp_path / "base.jsonl", jsonl(TEXTS)))
    model = str(tmp_path / "base/tokenizer.model")
    with pytest.raises(DataError, match="nothing but white space"):
        prepare_into(tmp_path / "out", write(tmp_path / "a.txt", " \n\t\n" * 100), tokenizer=model)
    with pytest.raises(DataError, match="validation input holds no documents"):
        prepare_into(
            tmp_path / "out", write(tmp_path / "b.txt", "the cat"), val=(write(tmp_path / "v.jsonl", b'{"text": null}\n'),), tokenizer=model
        )
