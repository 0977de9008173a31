"""Tokenizers: none with byte pieces loses a byte, one without says what it loses, bad ones are one line."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ngram.tokenizer
from hybrid.data import tokenizer
from hybrid.data.token_bytes import TokenBytes
from hybrid.data.tokenizer import LossError, Tokenizer, TokenizerError
from tests.support.tokenizers import NASTY, WORDS, kinds, small_texts, train_model, without_bytes


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer(tokenizer.train(small_texts(), 400))


KINDS = sorted(kinds())


@functools.cache
def load(kind: str) -> Tokenizer:
    return Tokenizer(kinds()[kind])


def test_trained_tokenizers_have_the_public_ids_and_are_lossless(ours: Tokenizer) -> None:
    assert (ours.vocab_size, ours.bos, ours.has_all_bytes) == (400, 1, True)
    assert [ours.sp.id_to_piece(i) for i in range(6)] == ["<pad>", "<s>", "</s>", "<unk>", "<0x00>", "<0x01>"]
    assert all(ours.piece_bytes[4 + value] == bytes([value]) for value in range(256))


def test_the_same_texts_train_the_same_bytes() -> None:
    assert tokenizer.train(small_texts(), 400) == tokenizer.train(iter(small_texts()), 400)


nasty_texts = st.lists(st.one_of(st.text(max_size=20), st.sampled_from(NASTY), st.sampled_from(WORDS)), max_size=12).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(text=nasty_texts)
@example("".join(NASTY))
def test_every_text_comes_back_from_every_kind_of_tokenizer(kind: str, text: str) -> None:
    codec = load(kind)
    tokens = codec.encode(text)
    assert tokens.dtype == np.uint16
    assert codec.decode_bytes(tokens.tolist()) == text.encode("utf-8", "surrogatepass")
    assert codec.decode(tokens) == text
    assert codec.bos not in tokens


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(data=st.one_of(st.binary(), nasty_texts.map(lambda text: text.encode("utf-8", "replace"))))
@example("the  cat\n\u2581 mice ".encode() + b"\xff\xed\xa0\x80\xe2\x96\x81")
def test_any_bytes_come_back_from_every_kind_of_tokenizer(kind: str, data: bytes) -> None:
    assert load(kind).decode_bytes(load(kind).encode_bytes(data).tolist()) == data


@pytest.mark.parametrize("kind", ["public", "Gemma"])
def test_plain_english_has_the_tokens_of_the_tokenizer_s_own_encoding(kind: str) -> None:
    codec, text = load(kind), " ".join(WORDS)
    assert codec.encode_bytes(text.encode()).tolist() == codec.encode(text).tolist() == codec.sp.encode(text)
    assert next(codec.encode_as_challenge([text])).tolist() == [codec.bos, *codec.sp.encode(text)]


def test_bytes_and_text_are_cut_alike() -> None:
    text = "".join(NASTY).replace("\ud800 lone \udfff", "")
    for kind in KINDS:
        assert load(kind).encode(text).tolist() == load(kind).encode_bytes(text.encode()).tolist()


def test_a_vocabulary_without_a_lone_space_spends_one_byte_piece_on_it() -> None:
    codec = load("no space")
    assert b" " not in [codec.piece_bytes[t] for t in range(codec.vocab_size) if not codec.sp.is_byte(t)]
    tokens = next(codec.encode_documents([" 1 2 \u2581 3"]))
    assert codec.decode(tokens) == " 1 2 \u2581 3"
    assert TokenBytes.from_model(codec.model).total(tokens) == len(" 1 2 \u2581 3".encode())
    assert codec.encode("1 2").tolist() == [codec.sp.piece_to_id(f"<0x{value:02X}>") for value in b"1 2"]


def test_the_challenge_s_encoding_is_the_tokenizer_s_own_and_loses_what_that_loses() -> None:
    codec, text = load("public"), "two  spaces\n\u00bd "
    tokens = next(codec.encode_as_challenge([text]))
    assert tokens.tolist() == [codec.bos, *codec.sp.encode(text)]
    assert codec.decode(tokens) == "two spaces 1\u20442"


def test_a_tokenizer_without_byte_pieces_says_what_it_would_lose() -> None:
    codec = Tokenizer(without_bytes())
    assert codec.decode(codec.encode("the cat sat")) == "the cat sat"
    with pytest.raises(LossError, match="no byte pieces and cannot hold 40.00% of a document of 10 bytes"):
        codec.encode("the \u4e2d \x07a")
    assert codec.decode(next(codec.encode_documents(["a \u4e2dcat"], allow_loss=True))) == "a cat"
    with pytest.raises(LossError):
        codec.encode_bytes(b"\xff")


@pytest.mark.parametrize("kind, bos", [("public", 1), ("T5", 1), ("Gemma", 2)])
def test_documents_begin_with_the_tokenizer_s_own_bos_or_else_its_eos(kind: str, bos: int) -> None:
    assert load(kind).bos == bos
    assert [next(load(kind).encode_documents(["the cat"]))[0], next(load(kind).encode_as_challenge(["the cat"]))[0]] == [bos, bos]


def test_a_tokenizer_with_nothing_to_begin_a_document_is_refused() -> None:
    with pytest.raises(TokenizerError, match="neither a BOS nor an EOS piece"):
        Tokenizer(train_model(bos_id=-1, eos_id=-1))


def test_long_documents_are_cut_without_a_trace_in_the_text(ours: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(small_texts()) + "x" * 500
    whole = ours.encode(text)
    monkeypatch.setattr(ngram.tokenizer, "SEGMENT_CHARS", 100)
    assert ours.decode(ours.encode(text)) == text
    assert len(ours.encode(text)) <= 1.05 * len(whole)


def test_documents_keep_their_order_and_begin_with_bos(ours: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*small_texts()[:5], "", "\u2581", "\ud800", "last"]
    monkeypatch.setattr(ngram.tokenizer, "BATCH_CHARS", 300)
    encoded = list(ours.encode_documents(texts, threads=2))
    assert [ours.decode(tokens[1:]) for tokens in encoded] == texts
    assert all(tokens[0] == ours.bos for tokens in encoded)


@pytest.mark.parametrize("model", [b"", b"not a model", b"\x0a\x05hello" * 20])
def test_a_foreign_tokenizer_is_named(tmp_path: Path, model: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.model"
    path.write_bytes(model)
    with pytest.raises(TokenizerError, match="x.model: not a SentencePiece model; give the .model file"):
        tokenizer.load(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("vocab_size", [10, 260, 60000])
def test_an_impossible_vocabulary_is_one_line(vocab_size: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TokenizerError, match="cannot be learned from this text"):
        tokenizer.train(small_texts(), vocab_size)
    assert capfd.readouterr() == ("", "")


def test_the_most_pieces_that_a_text_supports_are_said_and_can_be_had() -> None:
    with pytest.raises(TokenizerError) as ended:
        tokenizer.train(small_texts(), 60000)
    (most,) = re.findall(r"\(at most (\d+) can\); set --vocab-size \1, or give more text", str(ended.value))
    assert tokenizer.load(tokenizer.train(small_texts(), int(most))).vocab_size == int(most)


def test_no_text_at_all_is_one_line() -> None:
    with pytest.raises(TokenizerError):
        tokenizer.train([], 400)
