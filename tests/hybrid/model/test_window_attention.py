"""Attention with windows on a GPU, against the same formula with a mask; bits that repeat."""

import pytest
import torch
import torch.nn.functional as F

from hybrid.model.attention import attend

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def drawn(batch, length, heads, kv_heads, width):
    torch.manual_seed(length)
    return [torch.randn(batch, length, count, width, device="cuda", dtype=torch.bfloat16, requires_grad=True) for count in (heads, kv_heads, kv_heads)]


def both_ways(task, inputs):
    """The output and the gradient of every input under one random gradient."""
    out = task(*inputs)
    torch.manual_seed(1)
    return [out.detach(), *torch.autograd.grad(out, inputs, torch.randn(out.shape, device="cuda").to(out.dtype))]


def masked(q, k, v, window):
    away = torch.arange(q.shape[1], device="cuda")[:, None] - torch.arange(q.shape[1], device="cuda")
    q, k, v = (x.float().transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, (away >= 0) & (away < window), enable_gqa=True).transpose(1, 2)


@pytest.mark.parametrize(("length", "shape", "window"), [(512, (8, 4, 64), 128), (300, (4, 2, 128), 100), (129, (3, 1, 16), 5), (77, (2, 2, 32), 76)])
def test_it_is_the_masked_formula_forward_and_backward(length, shape, window):
    """shape: heads, key/value heads, width."""
    inputs = drawn(3, length, *shape)
    found = both_ways(lambda q, k, v: attend(q, k, v, window), inputs)
    for got, expected in zip(found, both_ways(lambda q, k, v: masked(q, k, v, window), inputs), strict=True):
        assert (got.float() - expected.float()).norm() < 0.005 * expected.float().norm()


def test_a_window_of_one_position_is_its_own_value_and_does_not_ask_how_much_it_weighs():
    inputs = drawn(2, 129, 4, 2, 64)
    out, *back = both_ways(lambda q, k, v: attend(q, k, v, 1), inputs)
    assert torch.equal(out, inputs[2].detach().repeat_interleave(2, 2))
    assert max(float(grad.abs().max()) for grad in back[:2]) < 1e-4


def test_bits_repeat_and_depend_on_no_other_row():
    inputs = drawn(4, 1000, 8, 4, 64)
    first, again = (both_ways(lambda q, k, v: attend(q, k, v, 128), inputs) for _ in range(2))
    q, k, v = (x[2:3] for x in inputs)
    alone = attend(q, k, v, 128)
    assert all(map(torch.equal, first, again))
    assert torch.equal(alone[0], first[0][2])


def test_nothing_behind_a_position_or_before_its_window_changes_it():
    q, k, v = (x.detach() for x in drawn(1, 400, 4, 2, 64))
    before = attend(q, k, v, 50)
    for changed in (slice(201), slice(251, 400)):  # position 250 sees 201 … 250
        keys, values = k.clone(), v.clone()
        keys[:, changed], values[:, changed] = 7.0, 7.0
        assert torch.equal(attend(q, keys, values, 50)[:, 250], before[:, 250])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch's compiler itself does
def test_compiled_it_has_the_same_bits():
    inputs = drawn(2, 640, 8, 4, 64)
    ways = [both_ways(task, inputs) for task in (lambda q, k, v: attend(q, k, v, 128), torch.compile(lambda q, k, v: attend(q, k, v, 128), fullgraph=True))]
    assert all(map(torch.equal, *ways))


def test_what_the_kernels_do_not_take_is_computed_with_a_mask():
    """Other types, and heads of other widths."""
    for width, kind in ((64, torch.float32), (24, torch.bfloat16)):
        q, k, v = (x.detach().to(kind) for x in drawn(1, 200, 4, 2, width))
        assert (attend(q, k, v, 60).float() - masked(q, k, v, 60)).abs().max() < (1e-5 if kind == torch.float32 else 0.05)
