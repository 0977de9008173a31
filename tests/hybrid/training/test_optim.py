"""Muon, AdamW and the schedule."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import count_stored
from hybrid.settings.config import ModelConfig, TrainConfig
from hybrid.training import optim

TINY = ModelConfig(
    vocab_size=48, layers=2, d_model=16, heads=2, kv_heads=1, rope_dims=4, basis="hadamard", rank_attention=4, rank_mlp=4,
    bigram_buckets=16, bigram_dim=4, value_embed_dim=4, value_embed_layers=1, skips=True, smear_gate=True,
)  # fmt: skip
SHAPES = [(6, 6), (6, 6), (12, 4), (4, 12), (4, 7), (200, 150), (150, 200), (200, 200)]


def matrices(seed=0):
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def give_gradients(parameters, seed):
    torch.manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn_like(p)


def train(model, optimisers, steps, begin=0):
    for step in range(begin, begin + steps):
        tokens = torch.randint(0, 48, (2, 9), generator=torch.Generator().manual_seed(step))
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        for optimiser in optimisers:
            optimiser.set_progress(step / 10)
            optimiser.step()
        model.zero_grad()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_batched_muon_equals_torch_muon():
    ours, theirs = matrices(), matrices()
    config = TrainConfig(matrix_lr=0.03, matrix_momentum=0.9)
    batched = optim.Muon(ours, config)
    # theirs always iterates in bf16; the bound below is what bf16 allows after 5 iterations of an expanding polynomial
    looped = torch.optim.Muon(theirs, lr=0.03, momentum=0.9, weight_decay=0.0, nesterov=True, adjust_lr_fn="original")
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        batched.step()
        looped.step()
    for one, other, start in zip(ours, theirs, matrices(), strict=True):
        moved = (other - start).norm()
        assert (one - other).norm() < 0.02 * moved


def moves_of(config, share=0.0):
    """What one step of Muon subtracts from each matrix, over the learning rate."""
    parameters = matrices()
    give_gradients(parameters, 0)
    muon = optim.Muon(parameters, config)
    muon.set_progress(share)
    muon.step()
    return [(start - p).detach() / muon.lr for start, p in zip(matrices(), parameters, strict=True)]


def test_weight_decay_acts_only_where_it_goes_the_way_of_the_update_and_ends_with_the_run():
    plain = moves_of(TrainConfig(), 0.3)
    for share, left in ((0.3, 0.7), (0.8, 0.2)):
        for move, base, weight in zip(moves_of(TrainConfig(matrix_weight_decay=0.5), share), plain, matrices(), strict=True):
            expected = 0.5 * left * torch.where(weight * base > 0, weight, 0.0).detach()
            told = base.abs() > 1e-4  # where the sign of an update found by subtraction is no rounding
            torch.testing.assert_close((move - base)[told], expected[told], rtol=1e-3, atol=1e-4)


def test_evened_rows_have_one_size_and_leave_the_norm_of_the_update():
    for move, base in zip(moves_of(TrainConfig(muon_row_decay=0.9)), moves_of(TrainConfig()), strict=True):
        sizes = move.square().mean(dim=1).sqrt()
        torch.testing.assert_close(sizes, sizes.mean().expand_as(sizes), rtol=1e-4, atol=0)
        torch.testing.assert_close(move.norm(), base.norm(), rtol=1e-4, atol=0)


def test_momentum_rises_from_its_first_value_to_the_last():
    muon = optim.Muon(matrices()[:1], TrainConfig(matrix_momentum=0.95, momentum_rise=0.2))
    found = []
    for share in (0.0, 0.1, 0.2, 0.9):
        muon.set_progress(share)
        found.append(muon.momentum)
    assert found == pytest.approx([0.85, 0.9, 0.95, 0.95])


def newton_schulz_by_hand(matrix, iterations):
    """One wide or tall matrix in float64, as the paper writes it."""
    x = matrix.double()
    if x.shape[0] > x.shape[1]:
        return newton_schulz_by_hand(matrix.t(), iterations).t()
    x = x / x.norm()
    for _ in range(iterations):
        gram = x @ x.t()
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def test_batching_transposing_and_padding_change_nothing():
    stacks = [torch.randn(2, 6, 6), torch.randn(1, 12, 6), torch.randn(3, 6, 20), torch.randn(1, 150, 140), torch.randn(2, 140, 160)]
    for stack, out in zip(stacks, optim.orthogonalise(stacks, 5, torch.float32), strict=True):
        assert out.shape == stack.shape
        for matrix, found in zip(stack, out, strict=True):
            torch.testing.assert_close(found.double(), newton_schulz_by_hand(matrix, 5), atol=1e-4, rtol=1e-4)


def test_newton_schulz_brings_singular_values_near_one():
    out = optim.newton_schulz(torch.randn(1, 16, 40, generator=torch.Generator().manual_seed(1)), 5)
    singular = torch.linalg.svdvals(out[0])
    assert singular.min() > 0.6
    assert singular.max() < 1.3


def test_every_trained_parameter_has_one_optimiser_and_frozen_maps_have_no_state():
    model = HybridLM(TINY)
    optimisers = optim.build(model, TrainConfig())
    train(model, optimisers, 1)
    adam, muon = (o.state_dict() for o in optimisers)
    entries = sum(t.numel() for kept in adam for name, t in kept.items() if name != "step") + sum(t.numel() for t in muon)
    matrices_ = sum(p.numel() for n, p in model.named_parameters() if any(part in n for part in (".a.", ".b.", ".weights.", ".project")))
    assert entries == matrices_ + 2 * (count_stored(model) - matrices_)  # one momentum, or two moments


def test_resuming_from_state_dicts_is_bit_exact():
    def fresh():
        torch.manual_seed(3)
        model = HybridLM(TINY)
        return model, optim.build(model, TrainConfig())

    straight, optimisers = fresh()
    train(straight, optimisers, 6)

    first, optimisers = fresh()
    train(first, optimisers, 3)
    weights = {k: v.clone() for k, v in first.state_dict().items()}
    saved = [o.state_dict() for o in optimisers]

    second, optimisers = fresh()
    train(second, optimisers, 2)  # any other state: all of it must be replaced
    second.load_state_dict(weights)
    for optimiser, state in zip(optimisers, saved, strict=True):
        optimiser.load_state_dict(state)
    train(second, optimisers, 3, begin=3)
    for (name, one), (_, other) in zip(straight.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_a_fresh_state_dict_restores_a_fresh_optimiser():
    torch.manual_seed(3)
    model = HybridLM(TINY)
    weights, optimisers = {k: v.clone() for k, v in model.state_dict().items()}, optim.build(model, TrainConfig())
    fresh = [o.state_dict() for o in optimisers]
    train(model, optimisers, 2)
    once = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    for optimiser, state in zip(optimisers, fresh, strict=True):
        optimiser.load_state_dict(state)
    train(model, optimisers, 2)
    assert all(torch.equal(v, once[k]) for k, v in model.state_dict().items())


def test_the_schedule_rises_stays_and_falls_to_zero():
    config = TrainConfig(lr_warmup=0.1, lr_decay=0.4)
    assert 0 < optim.lr_factor(0.0, config) < 0.05
    assert math.isclose(optim.lr_factor(0.05, config), 0.51)
    assert [optim.lr_factor(s, config) for s in (0.1, 0.3, 0.6)] == [1.0, 1.0, 1.0]
    assert math.isclose(optim.lr_factor(0.8, config), 0.5)
    assert optim.lr_factor(1.0, config) == 0.0
    assert optim.lr_factor(1.2, config) == 0.0
    assert optim.lr_factor(1.0, dataclasses.replace(config, lr_floor=0.1)) == pytest.approx(0.1)


def test_progress_scales_every_learning_rate():
    model = HybridLM(TINY)
    optimisers = optim.build(model, TrainConfig(lr_decay=0.5, embed_lr=0.05, scalar_lr=0.02, matrix_lr=0.03))
    for optimiser in optimisers:
        optimiser.set_progress(0.75)
    adam, muon = optimisers
    assert isinstance(adam, optim.AdamW) and isinstance(muon, optim.Muon)
    assert [group["lr"] for group in adam.inner.param_groups] == [0.025, 0.01]
    assert muon.lr == 0.015
