"""The kernels of queries and keys: the plain form's values and gradients, wherever they lie in memory.

They run on a GPU; on a machine without one, with Triton installed, TRITON_INTERPRET=1 runs them as Python."""

import importlib.util
import os

import pytest
import torch

from hybrid.model import fused_heads
from hybrid.model.attention import NORM_EPSILON, Attention, Window, rms_norm, rope_tables, rotate
from hybrid.settings.config import ModelConfig

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (torch.cuda.is_available() or INTERPRETED), reason="needs Triton and a GPU, or TRITON_INTERPRET=1"
)
HEADS, KV_HEADS, WIDTH = 4, 2, 16


def plain(qkv_TO, gain_H, cos, sin, shape):
    """In the order of the definition, in the input's dtype."""
    q, k, v = (m.reshape(*shape, -1, WIDTH) for m in qkv_TO.split([HEADS * WIDTH, KV_HEADS * WIDTH, KV_HEADS * WIDTH], -1))
    q, k = (rotate(rms_norm(m), cos[:, None].to(m.dtype), sin[:, None].to(m.dtype)) for m in (q, k))
    return q * gain_H[:, None], k, v


def inputs(shape, dims, dtype):
    generator = torch.Generator().manual_seed(len(shape) + shape[1] + dims)
    rows, columns = shape[0] * shape[1], (HEADS + 2 * KV_HEADS) * WIDTH
    qkv = torch.randn(rows, columns + 8, generator=generator, dtype=torch.float64)[:, :columns]  # a part of wider rows
    gain = 1 + torch.rand(HEADS, generator=generator, dtype=torch.float64)
    cos, sin = (table[: shape[1]] for table in rope_tables(dims, 100.0, WIDTH))
    return qkv.to(DEVICE, dtype), gain.to(DEVICE, torch.float32), cos.to(DEVICE), sin.to(DEVICE)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("dims", [WIDTH, 4])
@pytest.mark.parametrize("shape", [(2, 5), (3, 70)])  # rows below and above one program's share, and no multiple of it
@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_gradients_are_those_of_the_plain_form_in_float64(shape, dims, dtype, tolerance, transposed):
    qkv, gain, cos, sin = inputs(shape, dims, dtype)
    exact = [qkv.double().requires_grad_(), gain.double().requires_grad_()]
    expected = plain(exact[0], exact[1], cos, sin, shape)
    weights = [torch.randn_like(part) for part in expected]
    wanted = torch.autograd.grad([(part * w).sum() for part, w in zip(expected, weights, strict=True)], exact)
    given = [qkv.requires_grad_(), gain.requires_grad_()]
    q, k, v = fused_heads.norm_rotate(given[0], given[1], cos[:, 0], sin[:, 1], KV_HEADS, NORM_EPSILON)
    found = [q, k, v.reshape(*shape, KV_HEADS, WIDTH)]
    if transposed:  # gradients that come back in another layout
        pairs = [(part.transpose(1, 2).contiguous(), w.transpose(1, 2)) for part, w in zip(found, weights, strict=True)]
    else:
        pairs = list(zip(found, weights, strict=True))
    gradients = torch.autograd.grad([(part.double() * w).sum() for part, w in pairs], given)
    for one, other in zip((*found, *gradients), (*expected, *wanted), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance * float(other.detach().abs().max()))


def test_gradients_of_a_plain_sum_which_take_no_memory_are_read_right():
    qkv, gain, cos, sin = inputs((2, 5), WIDTH, torch.float32)
    given = [qkv.requires_grad_(), gain.requires_grad_()]
    exact = [qkv.detach().double().requires_grad_(), gain.detach().double().requires_grad_()]
    q, k, _ = fused_heads.norm_rotate(given[0], given[1], cos[:, 0], sin[:, 1], KV_HEADS, NORM_EPSILON)
    wanted_q, wanted_k, _ = plain(exact[0], exact[1], cos, sin, (2, 5))
    for one, other in zip(torch.autograd.grad(q.sum() + k.sum(), given), torch.autograd.grad(wanted_q.sum() + wanted_k.sum(), exact), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the attention module takes the kernels on CUDA only")
@pytest.mark.parametrize("frozen", [False, True])
def test_attention_with_the_kernels_is_attention_without(frozen, monkeypatch):
    torch.manual_seed(0)
    attention = Attention(ModelConfig(d_model=64, heads=HEADS, kv_heads=KV_HEADS, rope_dims=8, rank_attention=4), 0, frozen=frozen).to(DEVICE)
    if frozen:
        attention.input.fill("hadamard", (1, 2, 3))
        attention.output.fill("hadamard", (4,))
    else:
        torch.nn.init.normal_(attention.output.weights["o"])
    x, gain = torch.randn(2 * 32, 64, device=DEVICE), torch.ones(64, device=DEVICE)
    cos, sin = (table[:32, None].to(DEVICE) for table in rope_tables(8, 100.0, WIDTH))
    window = Window((2, 32), (cos, sin))
    with_kernels = attention(x, window, None, None, gain)
    monkeypatch.setattr(fused_heads, "triton", None)
    for one, other in zip(with_kernels, attention(x, window, None, None, gain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
