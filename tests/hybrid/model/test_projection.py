"""Frozen map + adapter: one product, no gradient of the map; merged once for inference."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hybrid.model.cached_model import MergedProjection, merged
from hybrid.model.projection import Projection, adapted_linear, fake_quantise, merged_weight
from hybrid.settings.config import QuantConfig
from hybrid.storing.quantise import decode_state, encode_state


def stacked(seed=0, dtype=torch.float64):
    """x (6, 5), map (7, 5) of two matrices (4 and 3 rows), adapters of rank 2 and 4."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, grad=True):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_(grad)

    return normal(6, 5), normal(7, 5, grad=False), [normal(4, 2), normal(3, 4)], [normal(2, 5), normal(4, 5)]


def by_hand(x, frozen, scale, a, b):
    """One matrix at a time, straight from the definition."""
    parts = torch.split(frozen, [m.shape[0] for m in a])
    return torch.cat([x @ (scale * m + a_i @ b_i).t() for m, a_i, b_i in zip(parts, a, b, strict=True)], dim=1)


def test_the_product_has_the_value_and_the_gradients_of_the_definition():
    x, frozen, a, b = stacked()
    expected = by_hand(x, frozen, 0.3, a, b)
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), [x, *a, *b])
    found = adapted_linear(x, frozen, 0.3, a, b)
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad((found * weight).sum(), [x, *a, *b]), wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_without_adapters_only_the_scaled_map_is_left():
    x, frozen, _, _ = stacked()
    torch.testing.assert_close(adapted_linear(x, frozen, 0.3, [], []), 0.3 * x @ frozen.t())


class Shapes(TorchDispatchMode):
    """Records the shape of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.seen.add(tuple(out.shape))
        return out


def plain_product(x, frozen, scale, a, b):
    """The same through the whole weight, whose gradient the backward pass then makes."""
    return x @ merged_weight(frozen, scale, a, b).t()


@pytest.mark.parametrize(("product", "makes_one"), [(adapted_linear, False), (plain_product, True)])
def test_the_backward_pass_makes_no_gradient_of_a_frozen_map(product, makes_one):
    x, frozen, a, b = stacked()
    total = product(x, frozen, 0.3, a, b).square().sum()
    with Shapes() as shapes:
        total.backward()
    assert ((7, 5) in shapes.seen or (5, 7) in shapes.seen) == makes_one
    assert frozen.grad is None


def filled(frozen=True, rank=2):
    torch.manual_seed(0)
    projection = Projection(("q", "k"), (8, 4), 8, frozen=frozen, rank=rank)
    if frozen:
        projection.fill("hadamard", (1, 2))
        for a in projection.a.values():
            torch.nn.init.normal_(a)
    return projection


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("rank", [0, 2])
def test_merged_weights_are_new_and_do_what_the_projection_does(frozen, rank):
    projection = filled(frozen, rank)
    x = torch.randn(3, 8)
    found = merged(projection)
    torch.testing.assert_close(x @ found.t(), projection(x))
    before = projection(x).clone()
    found.zero_()
    assert torch.equal(projection(x), before)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_merged_projection_is_the_projection_until_that_learns_and_again_once_it_takes_over(frozen, rank):
    projection = filled(frozen, rank)
    x, gain = torch.randn(3, 8), torch.randn(12)
    merged = MergedProjection(projection)
    torch.testing.assert_close(merged(x), projection(x))
    torch.testing.assert_close(merged(x, gain), projection(x, gain))
    before = merged(x)
    for p in projection.parameters():
        p.data *= 2
    assert torch.equal(merged(x), before)
    merged.take(projection)
    torch.testing.assert_close(merged(x), projection(x))


def test_a_frozen_map_is_no_parameter_and_stays_out_of_the_state_dict():
    projection = filled()
    assert sum(p.numel() for p in projection.parameters()) == 2 * (8 + 8) + 2 * (4 + 8)
    assert "map" not in projection.state_dict()
    assert projection.map.dtype == torch.bfloat16


def test_checksums_are_of_the_map_in_memory_by_matrix():
    projection = filled()
    before = projection.checksums()
    assert list(before) == ["q", "k"]
    projection.map[-1, -1] *= -1  # a bit of k
    after = projection.checksums()
    assert after["q"] == before["q"]
    assert after["k"] != before["k"]


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_fake_quantisation_rounds_rows_to_integers_and_lets_gradients_through(bits):
    weight = torch.randn(5, 9, requires_grad=True)
    rounded = fake_quantise(weight, bits)
    steps = rounded / (weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1))
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    rounded.sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, torch.ones_like(weight))


def test_fake_quantisation_in_steps_is_the_rounding_of_the_artifact():
    weight = torch.randn(6, 40)
    weight[2, 3] = 100.0  # needs more than 8 bits at the step asked for
    stored = decode_state(*encode_state({"x.weights.up": weight}, QuantConfig(weight_bits=8, weight_step=0.3)))["x.weights.up"]
    off = (fake_quantise(weight, 8, 0.3) - stored).abs().amax(dim=1)
    assert (off < 0.01 * weight.abs().amax(dim=1)).all()


def test_fake_bits_change_the_forward_pass_only_while_they_are_set():
    projection = filled(frozen=True)
    x = torch.randn(3, 8)
    exact = projection(x)
    projection.fake_bits = 4
    assert not torch.allclose(projection(x), exact)
    projection.fake_bits = 0
    assert torch.equal(projection(x), exact)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_parts_of_joint_rows_begin_where_kernels_can_read_them(rank):
    """Attention reads queries, keys and values out of the product's rows, 16 bytes at a time on CUDA."""
    x, weight = torch.randn(6, 16, requires_grad=True), torch.randn(24, 16)
    y = adapted_linear(x, weight, 1.0, [torch.randn(24, rank, requires_grad=True)], [torch.randn(rank, 16, requires_grad=True)])
    assert y.stride(0) % 8 == 0
    gradient = torch.autograd.grad(y.sum(), x)[0]
    torch.testing.assert_close(gradient.shape, x.shape)
    assert gradient.stride(0) % 8 == 0
