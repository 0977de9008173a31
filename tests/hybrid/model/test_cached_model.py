"""Token by token with a key/value cache is the whole window at once, for every extra; other streams change no bit."""

import copy
from typing import Any

import pytest
import torch

from hybrid.model.attention import MAX_CONTEXT
from hybrid.model.cached_model import BLOCK, CachedModel
from hybrid.model.hybrid_lm import HybridLM
from hybrid.settings.config import ModelConfig

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "vocab_size": 50, "layers": 4, "d_model": 48, "heads": 4, "kv_heads": 2, "mlp_mult": 2.0, "rank_attention": 4, "rank_mlp": 4,
    "basis": "hadamard", "rope_dims": 4,
}  # fmt: skip
EXTRAS: dict[str, dict[str, Any]] = {
    "bigram": {"bigram_buckets": 64, "bigram_dim": 8},
    "value embeddings": {"value_embed_dim": 8, "value_embed_layers": 2},
    "exclusive attention": {"xsa_layers": 2},
    "smear gate": {"smear_gate": True},
    "value residual": {"value_residual": True},
    "skips": {"skips": True},
    "depth norm scale": {"depth_norm_scale": True},
    "hidden gate": {"hidden_gate": True},
    "feature gain": {"feature_gain": True},
    "value tables": {"value_tables": 2},
    "all of RoPE": {"rope_dims": 12},
    "no RoPE": {"rope_dims": 0},
    "swiglu": {"activation": "swiglu"},
    "relu2": {"activation": "relu2"},
    "learned": {"freeze": "none"},
    "no adapters": {"rank_attention": 0, "rank_mlp": 0},
    "a key/value head a query head": {"kv_heads": 4},
    "windows": {"window": 4},
    "windows, some layers whole": {"window": 3, "whole_layers": 2},
}
EVERYTHING = {name: value for name in list(EXTRAS)[:9] for name, value in EXTRAS[name].items()}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    **EXTRAS,
    "swiglu, half frozen": {"activation": "swiglu", "freeze": "mlp_up", "rope_dims": 0},
    "everything": EVERYTHING,
    "everything, windows": EVERYTHING | {"window": 5, "whole_layers": 1},
}


def build(extras):
    """A model of which no parameter is zero."""
    torch.manual_seed(1)
    model = HybridLM(ModelConfig(**(SMALL | extras))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tokens(*shape, seed=0):
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("extras", CONFIGS.values(), ids=CONFIGS)
def test_stepping_token_by_token_equals_the_whole_window(extras):
    model, ids = build(extras), tokens(3, 12)
    with torch.no_grad():
        whole = model(ids)
    stepper = CachedModel(model, 3, 12, CPU)
    for _ in range(2):  # a restarted window sees nothing of the one before
        for at in range(12):
            assert torch.allclose(stepper.step(ids[:, at]), whole[:, at], atol=2e-5)
        with pytest.raises(ValueError, match="full"):
            stepper.step(ids[:, 0])
        stepper.restart()


def test_the_extras_that_are_compared_above_change_the_logits():
    ids = tokens(1, 12)
    plain, moved = build({})(ids), {name: build(extras)(ids) for name, extras in EXTRAS.items()}
    assert [name for name, logits in moved.items() if torch.allclose(logits, plain, atol=1e-3)] == []


@pytest.mark.parametrize("window", [0, 1, 3, 11])
@pytest.mark.parametrize("grain", [1, 5, 64])
def test_a_span_beyond_the_position_sees_nothing_that_is_yet_to_come(grain, window):
    """What a CUDA graph needs, fixed shapes with the future masked, equals the plain step: also where an old window lies in the memory."""
    model, pieces = build(EVERYTHING | {"window": window}), tokens(2, 3, 12)
    stepper = CachedModel(model, 3, 12, CPU, grain)
    for ids in pieces:
        with torch.no_grad():
            whole = model(ids)
        for at in range(12):
            assert torch.allclose(stepper.step(ids[:, at]), whole[:, at], atol=2e-5)
        stepper.restart()


@pytest.mark.parametrize("grain", [1, 8])
@pytest.mark.parametrize("extras", [{}, EVERYTHING, EXTRAS["windows"]], ids=["plain", "everything", "windows"])
def test_a_stream_has_the_same_bits_whatever_the_others_hold(extras, grain):
    """A decoder knows of a stream that has ended only zeros where the coder may hold anything."""
    model, ids = build(extras), tokens(5, 20)
    other = torch.where(torch.arange(5)[:, None] == 2, ids, tokens(5, 20, seed=1))
    one, two = (CachedModel(model, 5, 20, CPU, grain) for _ in range(2))
    for at in range(8):
        assert torch.equal(one.step(ids[:, at])[2], two.step(other[:, at])[2])
    assert torch.equal(one.extend(ids[:, 8:15])[2], two.extend(other[:, 8:15])[2])
    assert torch.equal(one.step(ids[:, 15])[2], two.step(other[:, 15])[2])
    assert not torch.equal(one.step(ids[:, 16])[1], two.step(other[:, 16])[1])


@pytest.mark.parametrize("extras", [{}, EVERYTHING, EXTRAS["learned"]], ids=["plain", "everything", "learned"])
def test_a_block_of_tokens_is_as_many_steps_and_new_weights_are_taken_over(extras):
    model, ids = build(extras), tokens(3, 160)
    steps, block = (CachedModel(model, 3, 160, CPU) for _ in range(2))
    for at in range(160):
        expected = steps.step(ids[:, at])
    block.step(ids[:, 0])  # a block that begins inside a window, and is longer than what is read at once
    torch.testing.assert_close(block.extend(ids[:, 1:]), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="has no room for 2 after 160"):
        block.extend(ids[:, :2])
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9)
    block.reload()
    fresh = CachedModel(model, 3, 160, CPU)
    assert torch.equal(block.extend(ids[:, :5]), fresh.extend(ids[:, :5]))
    assert torch.equal(block.step(ids[:, 5]), fresh.step(ids[:, 5]))


@pytest.mark.parametrize("grain", [1, 48])
@pytest.mark.parametrize("window", [1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 200])
def test_blocks_of_tokens_and_steps_behind_them_see_the_windows_of_the_whole_pass(window, grain):
    model, ids = build({"window": window, "whole_layers": 1}), tokens(2, 300)
    with torch.no_grad():
        whole = model(ids)
    stepper, at = CachedModel(model, 2, 300, CPU, grain), 0
    for length in (1, 20, 1, 150, 100):
        torch.testing.assert_close(stepper.extend(ids[:, at : at + length]), whole[:, at + length - 1], atol=3e-5, rtol=1e-5)
        at += length
        for _ in range(2):
            torch.testing.assert_close(stepper.step(ids[:, at]), whole[:, at], atol=3e-5, rtol=1e-5)
            at += 1


def test_the_model_that_is_read_from_stays_as_it_is():
    """Merged weights are a copy: what the model learns later is taken over by `reload` alone."""
    model, ids = build(EVERYTHING), tokens(2, 9)
    model.train()
    before = copy.deepcopy(model.state_dict())
    stepper = CachedModel(model, 2, 9, CPU)
    first = stepper.step(ids[:, 0]).clone()
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    stepper.restart()
    assert torch.equal(stepper.step(ids[:, 0]), first)


def test_a_window_beyond_the_rope_table_is_refused():
    with pytest.raises(ValueError, match="at most"):
        CachedModel(build({}), 1, MAX_CONTEXT + 1, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are recorded on CUDA only")
@pytest.mark.parametrize("extras", [{}, EVERYTHING, EXTRAS["windows"]], ids=["plain", "everything", "windows"])
def test_recorded_steps_are_the_steps_of_a_cpu(extras):
    model, ids = build(extras), tokens(3, 12)
    stepper, recorded = CachedModel(model, 3, 12, CPU), CachedModel(model, 3, 12, torch.device("cuda"), 5)
    for _ in range(2):
        for at in range(12):
            torch.testing.assert_close(recorded.step(ids[:, at].cuda()).cpu(), stepper.step(ids[:, at]), atol=1e-4, rtol=1e-4)
        stepper.restart()
        recorded.restart()
