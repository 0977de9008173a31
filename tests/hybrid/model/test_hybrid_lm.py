"""HybridLM: what each part computes, what is frozen, what leaves no trace."""

import contextlib
import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybrid.model.attention import MAX_CONTEXT, Attention, attend, exclude_self, rope_tables, rotate, window_of
from hybrid.model.blocks import HashedBigram, SmearGate, is_frozen
from hybrid.model.hybrid_lm import HybridLM, capped_nll
from hybrid.model.parameters import check_maps, count_frozen, count_stored, map_checksums, parameter_kind
from hybrid.model.random_maps import MapMismatch
from hybrid.settings.config import FREEZE_POLICIES, ModelConfig
from tests.support.model_oracle import forward_by_hand

PLAIN = ModelConfig(
    vocab_size=40, layers=2, d_model=16, heads=4, kv_heads=2, mlp_mult=2.0, rope_dims=2, basis="hadamard", rank_attention=3, rank_mlp=3
)  # fmt: skip
WINDOWED = dataclasses.replace(PLAIN, layers=3, window=3, whole_layers=1)
EVERYTHING = dataclasses.replace(
    PLAIN, layers=3, hidden_gate=True, feature_gain=True, bigram_buckets=16, bigram_dim=4, value_embed_dim=4, value_embed_layers=2, xsa_layers=2,
    smear_gate=True, value_residual=True, skips=True, depth_norm_scale=True,
)  # fmt: skip


def build(config=PLAIN, seed=0):
    """A model whose every parameter is non-zero, so that nothing hides behind a zero."""
    torch.manual_seed(seed)
    model = HybridLM(config)
    for name, p in model.named_parameters():
        if ".a." in name or ".weights." in name or name.endswith("embedding"):
            torch.nn.init.normal_(p, std=0.3)
        elif parameter_kind(name, p.ndim) == "scalar":
            p.data += 0.1 * torch.randn_like(p)
    return model


def tokens(length=11, rows=2, seed=0, vocab=40):
    return torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "config",
    [PLAIN, EVERYTHING, dataclasses.replace(EVERYTHING, layers=4, freeze="none"), WINDOWED, dataclasses.replace(EVERYTHING, window=2)],
    ids=["plain", "all", "dense", "windows, one layer whole", "all, windows"],
)
def test_the_forward_pass_equals_a_slow_one_written_from_the_description(config):
    model = build(config)
    ids = tokens(9, 1)
    found = model(ids)[0].detach().numpy()
    assert np.abs(found - forward_by_hand(model, ids[0].numpy())).max() < 2e-4


@pytest.mark.parametrize(
    "config",
    [PLAIN, EVERYTHING, dataclasses.replace(EVERYTHING, freeze="none", activation="swiglu"), WINDOWED],
    ids=["plain", "all", "dense", "windows"],
)
def test_no_logit_depends_on_a_later_token(config):
    model, ids = build(config), tokens(12)
    changed = ids.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 40
    one, other = model(ids), model(changed)
    assert torch.equal(one[:, :7], other[:, :7])
    assert not torch.allclose(one[:, 7], other[:, 7])


def test_every_parameter_matters():
    model = build(EVERYTHING)
    model.loss(tokens()[:, :-1], tokens()[:, 1:]).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_runs_are_deterministic_and_windows_independent_of_each_other():
    model, ids = build(EVERYTHING), tokens(9, 3)
    together = model(ids)
    assert torch.equal(together, model(ids))
    for row in range(3):
        torch.testing.assert_close(model(ids[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 17])
def test_any_length_works_and_a_prefix_gives_the_same_logits(length):
    model, ids = build(EVERYTHING), tokens(17, 1)
    torch.testing.assert_close(model(ids[:, :length]), model(ids)[:, :length], atol=1e-5, rtol=1e-5)


def test_a_window_beyond_the_rope_table_is_refused():
    with pytest.raises(ValueError, match="at most"):
        build()(torch.zeros(1, MAX_CONTEXT + 1, dtype=torch.int64))


def test_loss_is_the_mean_of_the_token_losses_and_logits_stay_under_the_cap():
    model = build(EVERYTHING)
    model.embedding.data *= 300
    inputs, targets = tokens()[:, :-1], tokens()[:, 1:]
    nll = model.token_nll(inputs, targets)
    logits = model(inputs)
    assert nll.dtype == logits.dtype == torch.float32
    assert logits.abs().max() <= 30
    by_hand = torch.logsumexp(logits, -1) - logits.gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(nll, by_hand, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.loss(inputs, targets), nll.mean())


# ---- windows of attention ------------------------------------------------------------------------------------------


def heads(length, key_heads, seed=0):
    """Queries (2, L, 4, 8), keys and values (2, L, key_heads, 8) with gradients."""
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(2, length, count, 8, generator=made).requires_grad_() for count in (4, key_heads, key_heads)]


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [1, 2, 3, 5, 12, 13])
def test_a_position_weighs_exactly_its_last_positions(window, key_heads):
    q, k, v = (x.detach().double().numpy() for x in heads(13, key_heads))
    found = attend(torch.from_numpy(q), torch.from_numpy(k), torch.from_numpy(v), window).numpy()
    for row in range(2):
        for head in range(4):
            keys, values = (x[row, :, head * key_heads // 4] for x in (k, v))
            for t in range(13):
                seen = range(max(0, t - window + 1), t + 1)
                weights = [math.exp(q[row, t, head] @ keys[s] / math.sqrt(8)) for s in seen]
                expected = sum(weight * values[s] for weight, s in zip(weights, seen, strict=True)) / sum(weights)
                np.testing.assert_allclose(found[row, t, head], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("plain_sums", [False, True])
@pytest.mark.parametrize("window", [1, 4, 6, 12])
def test_the_gradient_of_a_window_is_that_of_the_masked_formula(window, plain_sums):
    q, k, v = heads(13, 2)
    with sdpa_kernel(SDPBackend.MATH) if plain_sums else contextlib.nullcontext():
        found = attend(q, k, v, window)
    scores = torch.einsum("blhn,bmhn->bhlm", q, k.repeat_interleave(2, 2)) / math.sqrt(8)
    behind = torch.arange(13)[:, None] - torch.arange(13)
    weights = scores.masked_fill((behind < 0) | (behind >= window), -math.inf).softmax(-1)
    expected = torch.einsum("bhlm,bmhn->blhn", weights, v.repeat_interleave(2, 2))
    along = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    for one, other in zip(*(torch.autograd.grad(y, (q, k, v), along) for y in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_window_that_holds_the_context_changes_no_bit():
    config, ids = dataclasses.replace(EVERYTHING, window=11), tokens(11)
    assert torch.equal(build(config)(ids), build(EVERYTHING)(ids))
    assert not torch.allclose(build(dataclasses.replace(config, window=10))(ids), build(EVERYTHING)(ids), atol=1e-6)


@pytest.mark.parametrize(("layers", "whole_layers", "reach"), [(1, 0, 4), (2, 0, 7), (3, 0, 10), (3, 1, 20)])
def test_each_layer_looks_one_window_further_back_and_no_token_beyond_matters(layers, whole_layers, reach):
    """A layer of window 4 brings in three tokens more; a layer without a window all."""
    model, ids = build(dataclasses.replace(PLAIN, layers=layers, window=4, whole_layers=whole_layers)), tokens(20, 1)
    last = model(ids)[0, -1]
    for back in range(1, 20):
        changed = ids.clone()
        changed[0, -1 - back] = (changed[0, -1 - back] + 1) % 40
        assert torch.equal(model(changed)[0, -1], last) == (back >= reach)


@pytest.mark.parametrize(
    ("layers", "count", "whole"), [(5, 1, [2]), (9, 3, [1, 4, 7]), (4, 2, [1, 3]), (3, 3, [0, 1, 2]), (5, 0, []), (2, 1, [1])]
)
def test_layers_that_see_the_whole_context_are_spread_evenly(layers, count, whole):
    config = dataclasses.replace(PLAIN, layers=layers, window=7, whole_layers=count)
    assert [window_of(config, layer) for layer in range(layers)] == [0 if layer in whole else 7 for layer in range(layers)]
    assert [window_of(dataclasses.replace(PLAIN, layers=layers), layer) for layer in range(layers)] == [0] * layers


# ---- the extras, one by one ----------------------------------------------------------------------------------------


def test_exclusive_attention_leaves_nothing_along_the_own_value():
    y, v = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 2, 8)
    left = exclude_self(y, v)
    along = (left * v.repeat_interleave(2, dim=2)).sum(-1)
    assert along.abs().max() < 1e-5
    across = y - left  # what was taken is parallel to the value
    torch.testing.assert_close(
        across.norm(dim=-1) * v.repeat_interleave(2, dim=2).norm(dim=-1), (across * v.repeat_interleave(2, dim=2)).sum(-1).abs()
    )


def test_rope_turns_scores_into_functions_of_the_distance_and_spares_the_other_dimensions():
    cos, sin = (table[:20, None] for table in rope_tables(4, 100.0, 8))
    q, k = torch.randn(8).expand(1, 20, 1, 8), torch.randn(8).expand(1, 20, 1, 8)
    turned_q, turned_k = rotate(q, cos, sin)[0, :, 0], rotate(k, cos, sin)[0, :, 0]
    scores = turned_q @ turned_k.t()
    for distance in range(5):
        diagonal = torch.diagonal(scores, -distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    still = [2, 3, 6, 7]  # pairs (0, 4) and (1, 5) turn
    assert torch.equal(turned_q[:, still], q[0, :, 0, still])
    assert torch.equal(turned_q[0], q[0, 0, 0])  # position 0 is not turned


def test_bigram_buckets_depend_on_the_pair_and_the_first_position_has_its_own():
    bigram = HashedBigram(EVERYTHING)
    ids = tokens(30, 4)
    buckets = bigram.buckets(ids)
    assert (buckets[:, 0] == 0).all()
    for row in range(4):
        for t in range(1, 30):
            now, before = int(ids[row, t]), int(ids[row, t - 1])
            assert int(buckets[row, t]) == 1 + ((36313 * now) ^ (27191 * before)) % 15


def test_the_smear_gate_mixes_in_the_previous_position_only():
    smear = SmearGate(3)
    smear.gate.data = torch.tensor([-50.0, 0.0, 50.0])
    x = torch.arange(12.0).view(1, 4, 3)
    assert smear(x)[0].tolist() == [[0, 0.5, 0], [3, 2.5, 2], [6, 5.5, 5], [9, 8.5, 8]]


def test_skips_join_the_first_half_to_the_second_last_in_first_out():
    model = build(dataclasses.replace(PLAIN, layers=5, skips=True))
    seen, states = [], []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
        block.register_forward_hook(lambda m, args, out: states.append(out[0].clone()))
    model(tokens())
    for layer, partner in ((2, 1), (3, 0)):
        torch.testing.assert_close(seen[layer], states[layer - 1] + model.skip_gain[layer - 2] * states[partner])
    assert torch.equal(seen[4], states[3])


# ---- what is frozen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", FREEZE_POLICIES)
def test_freeze_policies_name_their_parts(policy):
    expected = {"all": {"attention", "up", "down"}, "mlp": {"up", "down"}, "mlp_up": {"up"}, "none": set()}[policy]
    config = dataclasses.replace(PLAIN, layers=3, freeze=policy, freeze_layers=2)
    model = HybridLM(config)
    for layer, block in enumerate(model.blocks):
        found = {
            "attention": block.attention.input.frozen and block.attention.output.frozen,
            "up": block.mlp.up.frozen,
            "down": block.mlp.down.frozen,
        }
        assert {part for part, frozen in found.items() if frozen} == (expected if layer < 2 else set())
        assert all(is_frozen(config, layer, part) == frozen for part, frozen in found.items())


def test_frozen_maps_are_in_no_state_dict_and_no_parameter():
    model = build(EVERYTHING)
    assert count_frozen(model) == 3 * (16 * 16 * 2 + 16 * 8 * 2 + 2 * 16 * 32)
    assert not any("map" in name for name in model.state_dict())
    assert sum(v.numel() for v in model.state_dict().values()) == count_stored(model)


def test_the_maps_depend_on_the_map_seed_alone():
    maps = [map_checksums(build(PLAIN, seed)) for seed in (0, 1)]
    assert maps[0] == maps[1]
    other = map_checksums(build(dataclasses.replace(PLAIN, map_seed=2)))
    assert all(other[name] != digest for name, digest in maps[0].items())
    assert len(set(maps[0].values())) == len(maps[0]) == 2 * 6


def test_a_map_that_comes_out_differently_stops_the_run_with_its_name():
    model = build()
    stored = map_checksums(model)
    check_maps(model, stored)
    model.blocks[1].mlp.down.map[3, 4] *= -1
    with pytest.raises(MapMismatch, match=r"blocks\.1\.mlp\.down\.down"):
        check_maps(model, stored)


def test_loading_the_state_dict_restores_the_function():
    model = build(EVERYTHING, seed=0)
    other = build(EVERYTHING, seed=1)
    assert not torch.allclose(model(tokens()), other(tokens()))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(tokens()), other(tokens()))


def test_progressive_freezing_keeps_what_was_learned_and_stores_it():
    model = build(dataclasses.replace(PLAIN, freeze="mlp_up", progressive=True))
    assert count_frozen(model) == 0
    assert all(p.requires_grad for p in model.parameters())
    before = model(tokens())
    model.freeze_learned()
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == 2 * 32 * 16
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {f"blocks.{i}.mlp.up.weights.up" for i in (0, 1)}
    assert torch.equal(model(tokens()), before)
    assert sum(v.numel() for v in model.state_dict().values()) == count_stored(model)
    model.loss(tokens()[:, :-1], tokens()[:, 1:]).backward()
    assert model.blocks[0].mlp.up.weights["up"].grad is None


@pytest.mark.parametrize(
    "config",
    [EVERYTHING, dataclasses.replace(PLAIN, freeze="none", activation="swiglu"), dataclasses.replace(PLAIN, window=3)],
    ids=["frozen", "dense", "windows"],
)
def test_the_loss_is_one_graph_without_breaks_with_the_gradient_of_the_plain_lines_and_fake_bits_stay_so(config):
    model, ids = build(dataclasses.replace(config, layers=2)), tokens(9)
    for bits in (0, 6):
        model.set_fake_bits(bits)
        compiled = torch.compile(model.loss, backend="eager", fullgraph=True, dynamic=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's tracer trips its own warning about autograd functions
            loss = compiled(ids[:, :-1], ids[:, 1:])
        plain, parameters = model.loss(ids[:, :-1], ids[:, 1:]), list(model.parameters())
        torch.testing.assert_close(loss, plain)
        for one, other in zip(*(torch.autograd.grad(value, parameters, allow_unused=True) for value in (loss, plain)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_the_loss_of_a_compiled_model_is_the_cross_entropy_of_the_capped_logits_and_so_is_its_gradient():
    raw, targets = (torch.randn(20, 50) * 30).requires_grad_(), torch.randint(0, 50, (20,))
    for cap in (15.0, 30.0):
        plain = F.cross_entropy(cap * torch.tanh(raw / cap), targets, reduction="none")
        fused = capped_nll(raw, targets, cap)
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
        (one,), (other,) = torch.autograd.grad(fused.sum(), raw), torch.autograd.grad(plain.sum(), raw)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_fresh_value_table_changes_nothing_and_a_gate_of_zero_takes_all_of_it():
    config = dataclasses.replace(PLAIN, value_tables=1)
    torch.manual_seed(0)
    with_table = HybridLM(config)
    tokens = torch.randint(0, config.vocab_size, (2, 7))
    before = with_table(tokens)
    plain = HybridLM(PLAIN)
    plain.load_state_dict(with_table.state_dict(), strict=False)
    torch.testing.assert_close(before, plain(tokens), rtol=0, atol=0)
    attention, table = with_table.get_submodule(f"blocks.{config.layers - 1}.attention"), torch.randn(5, attention_width(config))
    assert isinstance(attention, Attention)
    torch.testing.assert_close(attention.share_of(table, torch.randn(5, config.d_model)), table)


def attention_width(config):
    return config.kv_heads * config.d_model // config.heads
