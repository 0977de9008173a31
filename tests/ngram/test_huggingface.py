"""Hugging Face tokenizers: none that is taken loses a byte, none that loses text is taken, and their tokens are the library's own."""

import functools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ngram import huggingface
from ngram.pieces import CONVERTED, Pieces, TokenizerError
from ngram.tokenizer import LossError, Tokenizer
from tests.support.hf_tokenizers import KINDS, LOSSLESS, gpt2, theirs, write
from tests.support.tokenizers import NASTY, WORDS, small_texts, train_model


@functools.cache
def load(kind: str) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer(write(kind, Path(folder)), kind)


nasty_texts = st.lists(st.one_of(st.text(max_size=20), st.sampled_from(NASTY), st.sampled_from([*WORDS, "<|endoftext|>"])), max_size=12).map("".join)


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(max_examples=25)
@given(text=nasty_texts)
@example("".join(NASTY))
def test_every_text_comes_back(kind: str, text: str) -> None:
    codec = load(kind)
    tokens = codec.encode(text)
    assert codec.decode_bytes(tokens.tolist()) == text.encode("utf-8", "surrogatepass") and codec.decode(tokens) == text
    assert tokens.dtype == np.uint16 and codec.bos not in tokens


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(max_examples=25)
@given(data=st.binary())
def test_any_bytes_come_back(kind: str, data: bytes) -> None:
    assert load(kind).decode_bytes(load(kind).encode_bytes(data).tolist()) == data


def test_plain_text_has_the_library_s_own_tokens() -> None:
    for text in small_texts():
        assert load("gpt2").encode(text).tolist() == theirs("gpt2").encode(text).ids
        own = theirs("llama").encode(text, add_special_tokens=False).ids
        assert load("llama").encode(" " + text).tolist() == own  # which puts a space in front
    for line in small_texts()[0].split("\n\n")[0].lower().split("\n")[:1]:
        assert load("t5").encode(" " + line).tolist() == theirs("t5").encode(line).ids


@pytest.mark.parametrize("kind", KINDS)
def test_what_each_token_says_is_what_the_library_decodes(kind: str) -> None:
    """Token by token: pieces of the vocabulary, byte pieces, and added tokens; special tokens say nothing."""
    codec, own = load(kind), theirs(kind)
    assert codec.vocab_size == own.get_vocab_size(with_added_tokens=True)
    anchor = own.token_to_id("a") or 0
    for token in range(codec.vocab_size):
        said = own.decode([anchor, token], skip_special_tokens=True)
        assert said == (b"a" + codec.piece_bytes[token]).decode("utf-8", "replace"), token
    assert codec.has_all_bytes == (kind in LOSSLESS)


def test_added_tokens_that_are_text_are_used_and_special_ones_are_not() -> None:
    codec = load("qwen")
    assert [codec.piece_bytes[theirs("qwen").token_to_id(text) or 0] for text in ("<think>", "    ", "<|im_start|>")] == [b"<think>", b"    ", b""]
    tokens = codec.encode("<think>    <|im_start|>the").tolist()
    assert tokens[:2] == [theirs("qwen").token_to_id(text) for text in ("<think>", "    ")]
    assert theirs("qwen").token_to_id("<|im_start|>") not in tokens


def test_a_tokenizer_without_byte_pieces_says_what_it_would_lose() -> None:
    codec = load("t5")
    assert codec.decode(codec.encode("the cat")) == "the cat"
    with pytest.raises(LossError, match="has no byte pieces and cannot hold 12.50% of a document of 8 bytes"):
        codec.encode("the cat\n")
    assert codec.decode(next(codec.encode_documents(["the\n cat"], allow_loss=True))) == "the cat"


@pytest.mark.parametrize("kind, said, bos", [
    ("gpt2", None, "<|endoftext|>"), ("llama", None, "<s>"), ("t5", None, "</s>"),
    ("llama", {"bos_token": {"content": "</s>"}}, "</s>"), ("llama", {"bos_token": None, "eos_token": "</s>"}, "</s>"),
    ("qwen", {"bos_token": "<|im_start|>"}, "<|im_start|>"),
])  # fmt: skip
def test_documents_begin_with_what_the_folder_says_or_what_is_usual(kind: str, said: dict[str, object] | None, bos: str, tmp_path: Path) -> None:
    write(kind, tmp_path, said)
    codec = Tokenizer(tmp_path)
    assert codec.bos == theirs(kind).token_to_id(bos)
    assert [tokens[0] for tokens in codec.encode_documents(["the cat"])] == [codec.bos]


def test_converted_models_are_a_function_of_the_file_and_read_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("llama", tmp_path)
    model = huggingface.convert(path)
    assert model == huggingface.convert(tmp_path) == Tokenizer(path).model and model.startswith(CONVERTED)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    pieces = Pieces(model)
    assert (pieces.vocab_size, pieces.bos, pieces.piece_bytes) == (load("llama").vocab_size, 1, load("llama").piece_bytes)
    with pytest.raises(TokenizerError, match=r"shards need the manifest"):
        pieces.plain(["text"])
    with pytest.raises(TokenizerError, match=r"needs the package tokenizers; install it with pip install 'seedgram\[hf\]'"):
        Tokenizer(model).encode("text")


def change(kind: str, **changes: object) -> str:
    spec = json.loads(theirs(kind).to_str())
    model = {**spec["model"], **changes.pop("model", {})}  # type: ignore[dict-item]
    return json.dumps({**spec, "model": model, **changes})


@pytest.mark.parametrize("text, words", [
    ("{}", "not a tokenizer of the library tokenizers"),
    ("{nonsense", "not a tokenizer of the library tokenizers"),
    ("[" * 50_000, "not a SentencePiece model"),
    ('{"model":' + "[" * 50_000, "not a tokenizer of the library tokenizers"),
    (change("gpt2", pre_tokenizer={"type": "Whitespace"}), r"a tokenizer that loses text \(Whitespace\)"),
    (change("gpt2", pre_tokenizer=None), r"a tokenizer that loses text \(BPE\)"),
    (change("gpt2", model={"type": "WordPiece"}), r"loses text \(WordPiece\)"),
    (change("gpt2", model={"end_of_word_suffix": "</w>"}), "its pieces change with their place in a word"),
    (change("gpt2", added_tokens=[]), "names no token to begin a document with; give the folder with its tokenizer_config.json"),
    (change("gpt2", model={"vocab": {str(token): token for token in range((1 << 18) + 1)}}), "262,145 pieces; at most 262,144"),
])  # fmt: skip
def test_what_cannot_be_used_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match=words) as caught:
        Tokenizer(tmp_path / "tokenizer.json")
    assert "tokenizer.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_the_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"holds no tokenizer.json; save it with"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("change", [
    {"bos": -1}, {"bos": 999}, {"bos": 5}, {"bos": 0.5}, {"bytes": [0]}, {"bytes": [-1]}, {"pieces": ["\u4e2d"]}, {"pieces": 3}, {"pieces": [""] * 65536},
])  # fmt: skip
def test_an_altered_converted_model_is_refused(change: dict[str, object]) -> None:
    said = json.loads(load("gpt2").model[len(CONVERTED) :])
    with pytest.raises(TokenizerError, match="malformed converted tokenizer"):
        Pieces(CONVERTED + json.dumps({**said, **change}).encode())


def test_one_place_takes_every_kind_of_path(tmp_path: Path) -> None:
    (tmp_path / "sp.model").write_bytes(train_model())
    (tmp_path / "converted.model").write_bytes(load("gpt2").model)
    paths = [tmp_path / "sp.model", tmp_path / "converted.model", write("gpt2", tmp_path / "folder"), tmp_path / "folder"]
    kinds = [Tokenizer(path) for path in paths]
    assert [codec.decode(codec.encode("the cat")) for codec in kinds] == ["the cat"] * 4
    assert [codec.model for codec in kinds[1:]] == [load("gpt2").model] * 3


def test_bpe_dropout_is_left_out() -> None:
    text = change("gpt2", model={"dropout": 0.9})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(text)
        codec = Tokenizer(Path(folder))
    assert codec.encode(small_texts()[0]).tolist() == gpt2().encode(small_texts()[0]).ids
