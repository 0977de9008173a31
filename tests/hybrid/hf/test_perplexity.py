"""The blend of a foreign model: its network's bits are the model's own, the cache helps, nothing sees what comes, every row sums to one."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from hybrid import hf
from hybrid.hf.audited import BlendScorer
from hybrid.hf.parts import Parts
from ngram.errors import SeedgramError
from ngram.tokenizer import Tokenizer
from tests.support import tiny, tiny_hf

PHRASES = tuple(" ".join(np.random.default_rng(place).permutation(tiny.WORDS)[:9]) for place in range(12))  # a writer's own, unlike the training text


def own_documents(seed: int, count: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [". ".join(PHRASES[place] for place in random.integers(len(PHRASES), size=6)) + ".\n" for _ in range(count)]


@pytest.fixture(scope="module")
def ngram() -> Any:
    return hf.count(tiny_hf.tokenizer(), own_documents(1, 30), order=4)


def blend(texts: list[str], ngram: Any, **settings: Any) -> hf.Perplexity:
    return hf.blend_perplexity(tiny_hf.model(), tiny_hf.tokenizer(), texts, ngram, **settings)


def test_counting_one_s_own_documents_makes_the_next_one_cheaper_without_training(ngram: Any) -> None:
    result = blend(own_documents(2, 4), ngram)
    assert result.blended_bpb < 0.8 * result.network_bpb
    assert result.blended_perplexity < 0.6 * result.network_perplexity
    assert result.checked >= 1 and math.isclose(sum(result.weights.values()), 1)
    assert result.bytes == sum(len(text) for text in own_documents(2, 4))


@torch.inference_mode()
def own_bits(texts: list[str], window: int, stride: int) -> tuple[float, int]:
    """Bits of the model's own pieces, window by window, as its documentation scores long texts."""
    stream = [token for text in texts for token in [0, *tiny_hf.tokenizer()(text)["input_ids"]]]
    bits, done, begin = 0.0, 1, 0
    while done < len(stream):
        end = min(begin + window, len(stream) - 1)
        logp = torch.log_softmax(tiny_hf.model()(input_ids=torch.tensor([stream[begin:end]])).logits[0].double(), -1)
        bits -= sum(float(logp[t - 1 - begin, stream[t]]) for t in range(done, end + 1) if stream[t]) / math.log(2)
        done, begin = end + 1, begin + (stride or window)
    return bits, sum(token != 0 for token in stream)


@pytest.mark.parametrize("window, stride", [(0, 0), (32, 0), (32, 8)])
def test_the_network_s_bits_are_those_of_the_model_in_these_windows(window: int, stride: int, ngram: Any) -> None:
    texts = own_documents(3, 2)
    result = blend(texts, ngram, window=window, stride=stride)
    bits, tokens = own_bits(texts, window or tiny_hf.WINDOW, stride)
    assert result.tokens == tokens == len(result.network_bits)
    assert result.network_bpb * result.bytes == pytest.approx(bits, rel=1e-6) == pytest.approx(float(result.network_bits.sum()))


def test_no_score_depends_on_what_comes_later(ngram: Any) -> None:
    """Score first: the past of two texts that differ later costs the same, to the last bit."""
    first, other = own_documents(4, 2)
    long, changed = blend([first, first], ngram), blend([first, other], ngram)
    known = len(tiny_hf.tokenizer()(first)["input_ids"])
    assert np.array_equal(long.blended_bits[:known], changed.blended_bits[:known])
    assert long.blended_bits[known:].sum() < 0.9 * changed.blended_bits[known:].sum()  # what was just read is copied


def test_without_learning_the_order_of_documents_does_not_matter_to_the_cache(ngram: Any) -> None:
    texts = own_documents(5, 2)
    still = blend(texts, ngram, online=False, product=False)
    assert still.ngram_bpb == pytest.approx(blend(texts[::-1], ngram, online=False, product=False).ngram_bpb)
    assert blend(texts, ngram).ngram_bpb < still.ngram_bpb


def test_the_audit_passes(ngram: Any) -> None:
    report = hf.audit(tiny_hf.model(), tiny_hf.tokenizer(), own_documents(6, 2), ngram, positions=100, chunk_tokens=32)
    assert report.passed, report.text()
    assert len(report.z) >= 64 and np.abs(report.z - 1).max() < 1e-12


def test_the_audited_scorer_reports_what_blend_perplexity_does_where_both_learn_alike(ngram: Any) -> None:
    texts = own_documents(7, 1)
    settings: dict[str, Any] = {"online": False, "match": False}
    parts = Parts.of(tiny_hf.model(), tiny_hf.tokenizer(), ngram, **settings)
    tokens, _ = parts.stream(texts)
    scores = np.concatenate([BlendScorer(parts, 32).score(tokens, start, min(start + 32, len(tokens))) for start in range(1, len(tokens), 32)])
    assert -np.log2(scores) == pytest.approx(blend(texts, ngram, **settings).blended_bits, rel=1e-6)


def test_padding_of_the_model_s_vocabulary_is_cut_off(ngram: Any) -> None:
    padded = tiny_hf.untrained(tiny.VOCAB + 10)
    result = hf.blend_perplexity(padded, tiny_hf.tokenizer(), own_documents(8, 1), ngram)
    assert 0.9 * math.log2(tiny.VOCAB) < result.network_bits.mean() < 1.1 * math.log2(tiny.VOCAB)


def test_a_gate_fitted_on_further_documents_gives_the_n_grams_the_share_that_they_are_worth(ngram: Any) -> None:
    gate = hf.fit_gate(tiny_hf.model(), tiny_hf.tokenizer(), own_documents(10, 12), ngram)
    texts = own_documents(2, 4)
    fitted, fallback = blend(texts, ngram, gate=gate), blend(texts, ngram)
    assert fitted.blended_bpb < 0.6 * fallback.blended_bpb and fitted.weights["neural"] < fallback.weights["neural"]


class LooksAhead(torch.nn.Module):
    """What a bidirectional model does: every position sees every token."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config, self.device = inner, inner.config, inner.device

    def forward(self, input_ids: torch.Tensor, **settings: Any) -> Any:
        out = self.inner(input_ids=input_ids)
        out.logits = out.logits + input_ids.double().sum(1)[:, None, None] * torch.arange(out.logits.shape[-1])
        return out


def test_what_does_not_fit_together_is_one_line(ngram: Any) -> None:
    model, codec, texts = tiny_hf.model(), tiny_hf.tokenizer(), own_documents(0, 1)
    with pytest.raises(SeedgramError, match="a model of 300 logits beside a tokenizer of 320 pieces"):
        hf.blend_perplexity(tiny_hf.untrained(300), codec, texts, ngram)
    with pytest.raises(SeedgramError, match="what it says of a token changes with those behind it"):
        hf.blend_perplexity(LooksAhead(model), codec, texts, ngram)
    with pytest.raises(SeedgramError, match="counted with another tokenizer"):
        hf.blend_perplexity(model, codec, texts, hf.count(Tokenizer(tiny.tokenizer_bytes()), texts))
    with pytest.raises(SeedgramError, match=r"dict is no n-gram model; make one with hybrid\.hf\.count"):
        hf.blend_perplexity(model, codec, texts, {})
    with pytest.raises(SeedgramError, match="has no tokenizer.json; use the fast tokenizer"):
        hf.count(object(), texts)
    with pytest.raises(SeedgramError, match="a window of 65 tokens: the model takes 1…64"):
        blend(texts, ngram, window=65)
    for call in (lambda: hf.count(codec, []), lambda: blend([""], ngram)):
        with pytest.raises(SeedgramError, match="no text to"):
            call()
