"""Tokenizers: ours lose nothing, public ones lose nothing through encode_bytes, bad ones are one line."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybrid import tokenizer
from hybrid.tokenizer import Tokenizer, TokenizerError

PUBLIC = Path(__file__).parents[2] / "shared/tokenizers/fineweb_1024_bpe.model"

WORDS = "the cat sat on a mat and then there was another hat in that house with some rather thin mice".split()


def small_texts() -> list[str]:
    """A few kilobytes with indentation, double newlines and accents."""
    rng = random.Random(1)
    return ["\n\n".join(" ".join(rng.choices(WORDS, k=30)) + ".\n    indented  twice: déjà vu\n" for _ in range(10)) for _ in range(20)]


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer(tokenizer.train(small_texts(), 400))


@pytest.fixture(scope="module")
def public() -> Tokenizer:
    if not PUBLIC.is_file():
        pytest.skip("no public tokenizer here")
    return tokenizer.load(PUBLIC)


def test_trained_tokenizers_have_the_public_ids_and_are_lossless(ours: Tokenizer) -> None:
    assert (ours.vocab_size, ours.bos, ours.is_lossless, ours.has_all_bytes) == (400, 1, True, True)
    assert [ours.sp.id_to_piece(i) for i in range(6)] == ["<pad>", "<s>", "</s>", "<unk>", "<0x00>", "<0x01>"]
    assert all(ours.piece_bytes[4 + value] == bytes([value]) for value in range(256))


def test_the_same_texts_train_the_same_bytes() -> None:
    assert tokenizer.train(small_texts(), 400) == tokenizer.train(iter(small_texts()), 400)


@settings(max_examples=200, deadline=None)
@given(text=st.text())
@example(" a  b\n\n\tc \u2581 \u2581\u2581d ")
@example("\ud800 lone \udfff")
@example("<s></s><unk><pad><0x41>")
@example("\x00\x00 \r\n\ufeff\ufffd e\u0301 \ufb01 ")
def test_decoding_what_was_encoded_gives_every_str_back(ours: Tokenizer, text: str) -> None:
    tokens = ours.encode(text)
    assert tokens.dtype == np.uint16
    assert ours.decode(tokens) == text
    assert ours.bos not in tokens


@settings(max_examples=200, deadline=None)
@given(data=st.binary())
@example("the  cat\n\u2581 mice ".encode() + b"\xff\xed\xa0\x80")
def test_any_bytes_come_back_from_our_tokenizer(ours: Tokenizer, data: bytes) -> None:
    assert ours.decode_bytes(ours.encode_bytes(data)) == data


@settings(max_examples=200, deadline=None)
@given(data=st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8", "replace"))))
@example("  two  spaces\n\nand\ttabs \ufb01ne \u00bd e\u0301\u0301 \u2581 end ".encode())
@example("\u304b\u3099 joins into one character that shares two bytes".encode())
@example("e\u0301 \uff21\u3000\u00a0 x\u200b".encode())
def test_any_bytes_come_back_from_a_normalising_tokenizer(public: Tokenizer, data: bytes) -> None:
    assert public.decode_bytes(public.encode_bytes(data)) == data


def test_plain_english_needs_no_more_tokens_as_bytes_than_as_text(public: Tokenizer) -> None:
    text = " ".join(WORDS)
    assert public.encode_bytes(text.encode()).tolist() == public.encode(text).tolist()
    assert not public.is_lossless


def test_long_documents_are_cut_without_a_trace_in_the_text(ours: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(small_texts()) + "x" * 500
    whole = ours.encode(text)
    monkeypatch.setattr(tokenizer, "SEGMENT_CHARS", 100)
    assert ours.decode(ours.encode(text)) == text
    assert len(ours.encode(text)) <= 1.05 * len(whole)


def test_documents_keep_their_order_and_begin_with_bos(ours: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*small_texts()[:5], "", "\u2581", "\ud800", "last"]
    monkeypatch.setattr(tokenizer, "BATCH_CHARS", 300)
    encoded = list(ours.encode_documents(texts, threads=2))
    assert [ours.decode(tokens[1:]) for tokens in encoded] == texts
    assert all(tokens[0] == ours.bos for tokens in encoded)


@pytest.mark.parametrize("model", [b"", b"not a model", b"\x0a\x05hello" * 20])
def test_a_foreign_tokenizer_is_named(tmp_path: Path, model: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.model"
    path.write_bytes(model)
    with pytest.raises(TokenizerError, match="x.model: not a SentencePiece model; train one"):
        tokenizer.load(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("vocab_size", [10, 260, 60000])
def test_an_impossible_vocabulary_is_one_line(vocab_size: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TokenizerError, match="cannot be learned from this text"):
        tokenizer.train(small_texts(), vocab_size)
    assert capfd.readouterr() == ("", "")


def test_no_text_at_all_is_one_line() -> None:
    with pytest.raises(TokenizerError):
        tokenizer.train([], 400)
