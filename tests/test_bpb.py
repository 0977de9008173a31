"""Byte accounting: the challenge's rule, case by case, and its two known totals."""

import io
import json
import lzma
import math
from pathlib import Path

import numpy as np
import pytest
import sentencepiece as spm
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid import bpb, tokenizer
from hybrid.bpb import TokenBytes, bits_per_byte
from hybrid.data import load_stream

SHARED = Path(__file__).parents[2] / "shared"
MODEL = SHARED / "tokenizers/fineweb_1024_bpe.model"


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
    assert codec.is_lossless
    (tokens,) = codec.encode_documents([text])
    counts = TokenBytes.from_model(model).count(tokens)
    assert len(counts) == len(tokens) - 1
    assert counts.sum() == len(text.encode())


def test_totals_do_not_depend_on_the_block(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, tokens = TokenBytes.from_model(model), np.random.default_rng(0).integers(0, 270, 1000).astype(np.uint16)
    for block in (1, 7, 999, 1000):
        monkeypatch.setattr(bpb, "BLOCK_TOKENS", block)
        assert subject.total(tokens) == subject.count(tokens).sum()
    assert subject.total(tokens[:1]) == subject.total(tokens[:0]) == 0


def test_bits_per_byte_is_the_code_length_in_bits_over_bytes() -> None:
    assert bits_per_byte(8 * math.log(2) * 10, 10) == pytest.approx(8.0)


def test_the_official_validation_prefix_has_1248746_bytes() -> None:
    shard = SHARED / "data/fineweb_val_head.bin"
    if not shard.is_file():
        pytest.skip("no official validation prefix here")
    tokens = load_stream(shard, "val", 1024)
    assert len(tokens) == 520_981
    assert TokenBytes.from_model(MODEL).total(tokens) == 1_248_746


def test_the_reported_text_has_1297314_tokens_and_3214950_bytes() -> None:
    file = SHARED / "data/val.jsonl.xz"
    if not file.is_file():
        pytest.skip("no shared validation text here")
    codec = tokenizer.load(MODEL)
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        tokens = np.concatenate(list(codec.encode_documents(json.loads(line)["text"] for line in lines)))
    assert len(tokens) == 1_297_314
    assert TokenBytes.from_model(MODEL).total(tokens) == 3_214_950
