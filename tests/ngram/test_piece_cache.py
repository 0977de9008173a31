"""Stretches of text that come again have the tokens that tokenizing the whole text gives."""

import functools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ngram.tokenizer
from ngram import piece_cache
from ngram.piece_cache import PieceCache, model_type
from ngram.tokenizer import Tokenizer
from tests.support.tokenizers import NASTY, WORDS, kinds, small_texts, train_model, without_bytes

FITTING = ["Gemma", "T5", "case folding", "llama", "public"]
PARTS = st.one_of(st.text(" \nab.é中", max_size=12), st.sampled_from(NASTY), st.sampled_from([*WORDS, f" {WORDS[0]}", "\n    indented", "  ", "\n\n"]))
TEXTS = st.lists(st.lists(PARTS, max_size=12).map("".join), max_size=5)


@functools.cache
def load(kind: str) -> Tokenizer:
    return Tokenizer(kinds()[kind])


def separately(codec: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [tokens.tolist() for tokens in codec.encode_documents(texts, threads=1, allow_loss=True)]


def apart(codec: Tokenizer, texts: list[str]) -> list[list[int]]:
    tokens, ends = codec.encode_joined(texts)
    assert tokens.dtype == np.uint16 and len(ends) == len(texts)
    return [part.tolist() for part in np.split(tokens, ends)[:-1]] if texts else []


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts as short as those of a test are cut into several parts."""
    monkeypatch.setattr(ngram.tokenizer, "SEGMENT_CHARS", 9)


@pytest.mark.parametrize("kind", sorted(kinds()))
@settings(max_examples=40)
@given(texts=TEXTS)
@example(texts=[*NASTY, "".join(NASTY)])
@example(texts=["", "", " ", "\n", "the cat\n\nthe cat", "the cat\n\nthe cat"])
def test_tokens_are_those_of_the_whole_text(kind: str, texts: list[str]) -> None:
    assert apart(load(kind), texts) == separately(load(kind), texts)


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("kind", FITTING)
def test_long_texts_are_cut_where_the_tokenizer_cuts_them(kind: str) -> None:
    texts = ["the cat sat     on a mat  \n\n  and then", "x" * 40, "", "      ", *small_texts()[:2]]
    assert apart(load(kind), texts) == separately(load(kind), texts)


@pytest.mark.parametrize("rows", [3, 40])
def test_a_full_cache_begins_anew(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """With 3 rows no batch fits, with 40 some do."""
    monkeypatch.setattr(piece_cache, "ROWS", rows)
    codec = Tokenizer(kinds()["public"])
    for start in range(0, 120, 12):
        texts = [f"the cat {number} sat on the mat" for number in range(start, start + 12)]
        assert apart(codec, texts) == separately(codec, texts)


def test_what_was_seen_before_is_not_tokenized_again() -> None:
    codec = Tokenizer(kinds()["public"])
    asked = list[str]()
    assert codec._cache is not None
    plainly = codec._cache._tokenize

    def tokenize(texts: list[str], num_threads: int) -> list[list[int]]:
        asked.extend(texts)
        return plainly(texts, num_threads=num_threads)

    codec._cache._tokenize = tokenize
    apart(codec, ["the cat\nsat", "the cat"])
    assert asked == ["the", " cat", "\n", "sat"]
    apart(codec, ["sat the cat the mat"])
    assert asked[4:] == [" sat", " the", " mat"] or asked[4:] == [" the", " mat"]


def test_only_models_whose_pieces_stop_at_spaces_are_taken_apart() -> None:
    assert [kind for kind in sorted(kinds()) if PieceCache.fits(load(kind))] == sorted(FITTING)
    assert not PieceCache.fits(Tokenizer(without_bytes()))
    assert not PieceCache.fits(Tokenizer(train_model(split_by_whitespace=False, vocab_size=420)))


def test_a_model_says_of_what_kind_it_is() -> None:
    assert model_type(kinds()["public"]) == 2 and model_type(kinds()["unigram"]) == 1
    assert model_type(train_model(model_type="char", byte_fallback=False)) == 4


def test_tokens_that_do_not_say_their_stretch_are_not_kept() -> None:
    codec = Tokenizer(kinds()["public"])
    assert codec._cache is not None
    codec._cache._tokenize = lambda texts, num_threads: [[5] for _ in texts]
    assert codec._cache.encode(["the cat"]) is None
    assert apart(codec, ["the cat"]) == separately(codec, ["the cat"])
