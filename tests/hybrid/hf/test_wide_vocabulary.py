"""Vocabularies above 2^16, as those of Llama, Qwen and Gemma: no token is cut to 16 bits on its way through the blend."""

import functools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from hybrid import hf
from tests.support import tiny
from tests.support.hf_tokenizers import gpt2

VOCAB, WINDOW = 70_000, 32
MOVED = VOCAB - tiny.VOCAB  # by so much the ids of all pieces that a text can have are raised: below 2^16 there are only pieces of no text


@functools.cache
def tokenizer() -> Any:
    spec = json.loads(gpt2(tiny.documents(), tiny.VOCAB).to_str())
    pieces = {piece: place + MOVED * (place > 0) for piece, place in spec["model"]["vocab"].items()}
    spec["model"]["vocab"] = pieces | {f"\u0120unused{place}": place for place in range(1, MOVED + 1)}
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)), bos_token=end, eos_token=end, unk_token=end)


@functools.cache
def model() -> Any:
    torch.manual_seed(0)
    size: dict[str, Any] = {"n_positions": WINDOW, "n_embd": 8, "n_layer": 1, "n_head": 1, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, bos_token_id=0, eos_token_id=0, **size)).eval()


@pytest.fixture(scope="module")
def result() -> hf.Perplexity:
    ngram = hf.count(tokenizer(), tiny.documents(30, seed=1), order=4)
    assert ngram.tokens[0].dtype == np.uint32
    return hf.blend_perplexity(model(), tokenizer(), tiny.documents(2, seed=2), ngram, window=WINDOW)


@torch.inference_mode()
def test_the_network_s_bits_are_the_model_s_own(result: hf.Perplexity) -> None:
    stream = [token for text in tiny.documents(2, seed=2) for token in [0, *tokenizer()(text)["input_ids"]]]
    assert min(token for token in stream if token) > 1 << 16
    bits = []
    for begin in range(0, len(stream) - 1, WINDOW):
        inputs, targets = torch.tensor([stream[begin : begin + WINDOW]]), stream[begin + 1 : begin + WINDOW + 1]
        logp = torch.log_softmax(model()(input_ids=inputs).logits[0].double(), -1)
        bits += [-float(logp[place, token]) / math.log(2) for place, token in enumerate(targets) if token]
    assert result.network_bits == pytest.approx(np.array(bits), rel=1e-6)


def test_counts_of_such_tokens_make_the_blend_cheaper(result: hf.Perplexity) -> None:
    assert result.blended_bpb < 0.5 * result.network_bpb  # an untrained network: log2(70,000) bits a token
    assert result.checked >= 1 and math.isclose(sum(result.weights.values()), 1)


def test_the_audit_of_such_a_blend_passes() -> None:
    ngram = hf.count(tokenizer(), tiny.documents(10, seed=1), order=3)
    report = hf.audit(model(), tokenizer(), tiny.documents(1, seed=2), ngram, window=WINDOW, positions=8, chunk_tokens=16)
    assert report.passed, report.text()
