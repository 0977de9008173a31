"""SentencePiece models of every kind that people bring, trained on the spot from a few kilobytes."""

import functools
import io
import random
from typing import Any

import sentencepiece as spm

WORDS = "the cat sat on a mat and then there was another hat in that house with some rather thin mice".split()

# What normalisers change, what JSON can hold and UTF-8 cannot, what SentencePiece means by itself
NASTY = (
    " leading", "trailing ", "  two  spaces ", "\ufdfa\ufdfa", "\u00bd\u2153", "\ud800 lone \udfff", "\x00\x00a\x00", "a\r\nb\rc\n\n", "\ufeffmark",
    "\u2581", "\u2581\u2581 \u2581a", "a\u2581b \u2581c", "<s></s><unk><pad><0x41>", "e\u0301 \ufb01 \uff21\u3000\u00a0\u200b\u00ad\x7f", "\u304b\u3099",
    "the 1 2 3 cats", "\U0001f600\U00010348", "\t\t\n", " ", "x" * 50, "",
)  # fmt: skip


def small_texts() -> list[str]:
    """A few kilobytes with indentation, double newlines and accents."""
    rng = random.Random(1)
    return ["\n\n".join(" ".join(rng.choices(WORDS, k=30)) + ".\n    indented  twice: déjà vu\n" for _ in range(10)) for _ in range(20)]


def train_model(texts: list[str] | None = None, **options: Any) -> bytes:
    """A model with SentencePiece's defaults (NFKC, spaces collapsed, one put in front), and the options given."""
    out = io.BytesIO()
    defaults = {
        "model_type": "bpe",
        "vocab_size": 340,
        "byte_fallback": True,
        "character_coverage": 1.0,
        "minloglevel": 3,
        "hard_vocab_limit": False,
    }
    lines = [line for text in texts or small_texts() for line in text.split("\n") if line]
    spm.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, **{**defaults, **options})
    return out.getvalue()


@functools.cache
def kinds() -> dict[str, bytes]:
    """Models by what is special about them; all have byte pieces, so all can hold any text."""
    identity: dict[str, Any] = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}
    # its spaces stand before digits only, and digits are apart: no piece for a space alone is learned
    spaced = ["".join(random.Random(seed).choice(["ab", "ba", "abba"]) for _ in range(80)) for seed in range(40)]
    return {
        "public": train_model(pad_id=0, bos_id=1, eos_id=2, unk_id=3, add_dummy_prefix=False),
        "llama": train_model(normalization_rule_name="identity", remove_extra_whitespaces=False),
        "case folding": train_model(normalization_rule_name="nmt_nfkc_cf"),
        "unigram": train_model(model_type="unigram"),
        "suffix": train_model(treat_whitespace_as_suffix=True),
        "symbols": train_model(user_defined_symbols=["<sep>", "the cat", "\n"], control_symbols=["<ctl>"]),
        "no space": train_model(spaced, vocab_size=262, **identity),
        "T5": train_model(bos_id=-1, eos_id=1, unk_id=2, pad_id=0),
        "Gemma": train_model(pad_id=0, eos_id=1, bos_id=2, unk_id=3, **identity),
    }


@functools.cache
def without_bytes() -> bytes:
    """A model without byte pieces: it cannot hold a character that it was not trained on."""
    return train_model(byte_fallback=False, vocab_size=90)
