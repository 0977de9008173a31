"""Byte accounting: the challenge's rule, case by case.  scripts/checks/byte_totals.py compares its two known totals."""

import io
import math

import numpy as np
import pytest
import sentencepiece as spm
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.data import token_bytes, tokenizer
from hybrid.data.token_bytes import TokenBytes, bits_per_byte


@pytest.fixture(scope="module")
def model() -> bytes:
    """A tokenizer with control, unknown, byte, plain, accented and spaced pieces."""
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(["the thé the the  the    the"] * 50),
        model_writer=out, model_type="bpe", vocab_size=276, byte_fallback=True, normalization_rule_name="identity",
        add_dummy_prefix=False, remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, hard_vocab_limit=False, minloglevel=3, control_symbols=["<ctl>"],
    )  # fmt: skip
    return out.getvalue()


def test_each_kind_of_token_has_its_bytes(model: bytes) -> None:
    sp = spm.SentencePieceProcessor(model_proto=model)
    subject = TokenBytes.from_model(model)
    bos, eos, unknown, control = sp.bos_id(), sp.eos_id(), sp.unk_id(), sp.piece_to_id("<ctl>")
    byte, the, spaced, accented = sp.piece_to_id("<0x41>"), sp.piece_to_id("h"), sp.piece_to_id("▁the"), sp.piece_to_id("é")
    space, two = sp.piece_to_id("▁"), sp.piece_to_id("▁▁")
    assert unknown not in (the, spaced, accented, space, two, control)
    cases = [
        (bos, bos, 0), (the, bos, 0), (the, eos, 0), (the, unknown, 0), (the, control, 0),  # silent pieces, wherever
        (the, byte, 1), (bos, byte, 1), (the, the, 1), (bos, the, 1), (the, accented, 2),
        (the, spaced, 4), (byte, spaced, 4), (spaced, spaced, 4),  # the leading space counts …
        (bos, spaced, 3), (eos, spaced, 3), (unknown, spaced, 3), (control, spaced, 3),  # … unless a silent piece is before it
        (the, space, 1), (bos, space, 0), (the, two, 2), (bos, two, 1),  # a further space is one byte, as it decodes
    ]  # fmt: skip
    for previous, target, expected in cases:
        assert subject.count(np.array([previous, target], dtype=np.uint16)).tolist() == [expected], (previous, target)


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet="the é\n▁x").filter(lambda text: not text.startswith(" ")))
def test_the_bytes_of_a_lossless_stream_are_those_of_its_text(model: bytes, text: str) -> None:
    codec = tokenizer.load(model)
    (tokens,) = codec.encode_documents([text])
    counts = TokenBytes.from_model(model).count(tokens)
    assert len(counts) == len(tokens) - 1
    assert counts.sum() == len(text.encode())


def test_totals_do_not_depend_on_the_block(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, tokens = TokenBytes.from_model(model), np.random.default_rng(0).integers(0, 270, 1000).astype(np.uint16)
    for block in (1, 7, 999, 1000):
        monkeypatch.setattr(token_bytes, "BLOCK_TOKENS", block)
        assert subject.total(tokens) == subject.count(tokens).sum()
    assert subject.total(tokens[:1]) == subject.total(tokens[:0]) == 0


def test_bits_per_byte_is_the_code_length_in_bits_over_bytes() -> None:
    assert bits_per_byte(8 * math.log(2) * 10, 10) == pytest.approx(8.0)
