"""Generation from the blend: rows are distributions, and batches and beams give what each sequence gives by itself."""

from typing import Any

import numpy as np
import pytest
import torch

from hybrid import hf
from ngram.counting.counter import NgramCache
from ngram.errors import SeedgramError
from tests.support import tiny, tiny_hf


@pytest.fixture(scope="module")
def ngram() -> Any:
    return hf.count(tiny_hf.tokenizer(), tiny.documents(40), order=4)


def ids(*texts: str) -> torch.Tensor:
    """(B, L), padded to the left with the token that also begins a document."""
    rows = [[0, *tiny_hf.tokenizer()(text)["input_ids"]] for text in texts]
    longest = max(map(len, rows))
    return torch.tensor([[0] * (longest - len(row)) + row for row in rows])


def logits(tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return tiny_hf.model()(input_ids=tokens).logits[:, -1].clone()


def processor(ngram: Any, **settings: Any) -> hf.NgramLogitsProcessor:
    return hf.NgramLogitsProcessor(ngram, tiny_hf.model(), **settings)


@pytest.mark.parametrize("match, product", [(True, True), (False, True), (True, False), (False, False)])
def test_every_row_is_a_distribution_between_the_model_s_and_the_n_grams(match: bool, product: bool, ngram: Any) -> None:
    tokens = ids(tiny.documents(1)[0][:60])
    out = processor(ngram, match=match, product=product)(tokens, logits(tokens).double())
    assert out.dtype == torch.float64 and float(out.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert not torch.allclose(out, torch.log_softmax(logits(tokens).double(), -1), atol=1e-3)


def test_the_row_is_the_one_that_blend_perplexity_scores_the_next_token_with(ngram: Any) -> None:
    text = tiny.documents(1, seed=5)[0][:80]
    scored = hf.blend_perplexity(tiny_hf.model(), tiny_hf.tokenizer(), [text], ngram, online=False)
    tokens, subject = ids(text), processor(ngram, match=False)
    for t in range(1, min(tokens.shape[1], 30)):
        row = subject(tokens[:, :t], logits(tokens[:, :t]).double())
        assert -float(row[0, tokens[0, t]]) / np.log(2) == pytest.approx(float(scored.blended_bits[t - 1]), rel=1e-5)


class Forgetful:
    """The same processor, made anew for every call and every row: nothing can be left over from another step or sequence."""

    def __init__(self, ngram: Any) -> None:
        self.ngram = ngram

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.cat([processor(self.ngram)(input_ids[row : row + 1], scores[row : row + 1]) for row in range(len(input_ids))])


@pytest.mark.parametrize("how", [{"do_sample": False}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "top_k": 20}])
def test_batches_and_beams_carry_no_state_from_one_sequence_to_another(how: dict[str, Any], ngram: Any) -> None:
    tokens = ids("the cache and every token", "an order", "scores before counts after")
    settings = {"max_new_tokens": 6, "attention_mask": (tokens.cumsum(1) > 0).long(), **how}
    out = []
    for subject in (processor(ngram), Forgetful(ngram)):
        torch.manual_seed(1)
        out.append(tiny_hf.model().generate(tokens, logits_processor=[subject], **settings))
    assert torch.equal(*out) and out[0].shape[1] > tokens.shape[1]


def test_a_sequence_scores_the_same_alone_and_in_a_batch_padded_to_the_left(ngram: Any) -> None:
    short, long = "an order of", "the cache and every token scores before"
    both = ids(short, long)
    scores = torch.stack([logits(ids(text))[0] for text in (short, long)])
    batch = processor(ngram)(both, scores)
    for row, text in enumerate((short, long)):
        assert torch.equal(processor(ngram)(ids(text), scores[row : row + 1])[0], batch[row])


def test_what_an_earlier_processor_has_ruled_out_stays_so(ngram: Any) -> None:
    tokens = ids("the cache")
    scores = logits(tokens)
    scores[0, 5:50] = -torch.inf
    out = processor(ngram)(tokens, scores)
    assert torch.isneginf(out[0, 5:50]).all() and torch.isfinite(out[0, 50:]).all()


def test_padding_of_the_vocabulary_is_never_generated_and_too_small_a_model_is_refused(ngram: Any) -> None:
    tokens = ids("the cache")
    out = processor(ngram)(tokens, torch.zeros(1, tiny.VOCAB + 7))
    assert torch.isneginf(out[0, tiny.VOCAB :]).all() and out[0, : tiny.VOCAB].exp().sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(SeedgramError, match="a model of 100 logits beside n-grams of 320 tokens"):
        processor(ngram)(tokens, torch.zeros(1, 100))
    with pytest.raises(SeedgramError, match="token 321 is outside of the 320 tokens"):
        processor(ngram)(torch.tensor([[0, 321]]), torch.zeros(1, 330))


def test_the_match_model_makes_a_passage_go_on_as_it_did_before(ngram: Any) -> None:
    passage = "model stream chunk gate honest byte order counts after token"
    tokens = ids(f"{passage}. the of a {passage[:-6]}")
    expected = tiny_hf.tokenizer()(passage)["input_ids"][-1]
    with_copy, without = (processor(ngram, match=match)(tokens, logits(tokens))[0, expected] for match in (True, False))
    assert with_copy > without


@pytest.mark.parametrize("match", [True, False])
def test_tokens_of_more_than_16_bits_are_their_own(match: bool) -> None:
    """66,000 is 464 in 16 bits: one of them is always followed by 5, the other by 7."""
    vocab, wide = 70_000, 66_000
    counts = NgramCache(vocab, 3, 0)
    counts.count_stream(np.array([0, *[wide, 5, wide % (1 << 16), 7] * 30], np.uint32))
    blended = hf.NgramLogitsProcessor(counts.table(), match=match)(torch.tensor([[0, wide, 5, 464, 7, wide], [0, wide, 5, 464, 7, 464]]), torch.zeros(2, vocab))
    assert blended.argmax(-1).tolist() == [5, 7] and torch.allclose(blended.double().exp().sum(-1), torch.ones(2).double(), atol=1e-3)
