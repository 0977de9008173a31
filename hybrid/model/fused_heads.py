"""Norm, RoPE and gain of queries and keys, one Triton kernel a direction, for CUDA; attention.py has the plain form.

Of the plain form's backward pass the compiler makes five kernels, 0.55 ms a layer of dense9 on an H100; the first version of this one took
0.43 (LOG.md, 2026-11-25).

Legend: B windows, L positions, T = B·L rows, H query and K key/value heads of width N, M = N/2 pairs that RoPE turns,
O = (H + 2K)·N columns of the query/key/value product.  R rows and one head are one program's share.
"""

from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # it comes with CUDA builds of torch
    triton = None

PROGRAM_ENTRIES = 4096  # of one program: 64 rows of a head of 64


def available(device: torch.device, width: int) -> bool:
    """Whether the kernels can run: on CUDA with Triton, for heads whose width is a power of two from 16 on."""
    return triton is not None and device.type == "cuda" and width >= 16 and width & (width - 1) == 0


if triton is not None:

    @triton.jit
    def _halves(base, at_R, keep_R, M: tl.constexpr):
        """Both halves (R, M) of R heads, float32."""
        at_RM = at_R[:, None] + tl.arange(0, M)[None, :]
        low = tl.load(base + at_RM, mask=keep_R[:, None], other=0.0)
        high = tl.load(base + at_RM + M, mask=keep_R[:, None], other=0.0)
        return low.to(tl.float32), high.to(tl.float32)

    @triton.jit
    def _store_halves(base, at_R, low, high, keep_R, M: tl.constexpr):
        at_RM = at_R[:, None] + tl.arange(0, M)[None, :]
        tl.store(base + at_RM, low.to(base.dtype.element_ty), mask=keep_R[:, None])
        tl.store(base + at_RM + M, high.to(base.dtype.element_ty), mask=keep_R[:, None])

    @triton.jit
    def _angles(cos, sin, at_R, stride, M: tl.constexpr):
        at_RM = at_R[:, None] * stride + tl.arange(0, M)[None, :]
        return tl.load(cos + at_RM).to(tl.float32), tl.load(sin + at_RM).to(tl.float32)

    @triton.jit
    def _forward(x, out, gain, cos, sin, rows, length, stride_x, stride_angle, epsilon, H: tl.constexpr, M: tl.constexpr, R: tl.constexpr):
        """out (T, H+K, N) from the first heads of x (T, O).  Grid: heads, rows / R; heads of one row run side by side."""
        head = tl.program_id(0)
        t_R = tl.program_id(1).to(tl.int64) * R + tl.arange(0, R)
        keep_R = t_R < rows
        low, high = _halves(x, t_R * stride_x + head * 2 * M, keep_R, M)
        c, s = _angles(cos, sin, t_R % length, stride_angle, M)
        scale = tl.rsqrt(tl.sum(low * low + high * high, 1) / (2 * M) + epsilon)
        if head < H:
            scale *= tl.load(gain + head)
        scale = scale[:, None]
        at_R = (t_R * tl.num_programs(0) + head) * 2 * M
        _store_halves(out, at_R, (low * c - high * s) * scale, (high * c + low * s) * scale, keep_R, M)

    @triton.jit
    def _backward(
        x, dq, dk, dv, dx, dgain, gain, cos, sin, rows, length, stride_x, stride_angle, epsilon,
        q_b, q_l, q_h, k_b, k_l, k_h, v_b, v_l, v_h, H: tl.constexpr, K: tl.constexpr, M: tl.constexpr, R: tl.constexpr,
    ):  # fmt: skip
        """dx (T, O) whole, from the gradients of the three outputs; dgain (rows / R, H): each program's share of the gain's."""
        head = tl.program_id(0)
        t_R = tl.program_id(1).to(tl.int64) * R + tl.arange(0, R)
        keep_R = t_R < rows
        b_R, l_R = t_R // length, t_R % length
        to_R = t_R * ((H + 2 * K) * 2 * M) + head * 2 * M
        if head >= H + K:
            dlow, dhigh = _halves(dv, b_R * v_b + l_R * v_l + (head - H - K) * v_h, keep_R, M)
            _store_halves(dx, to_R, dlow, dhigh, keep_R, M)
        else:
            if head < H:
                dlow, dhigh = _halves(dq, b_R * q_b + l_R * q_l + head * q_h, keep_R, M)
            else:
                dlow, dhigh = _halves(dk, b_R * k_b + l_R * k_l + (head - H) * k_h, keep_R, M)
            low, high = _halves(x, t_R * stride_x + head * 2 * M, keep_R, M)
            c, s = _angles(cos, sin, l_R, stride_angle, M)
            scale = tl.rsqrt(tl.sum(low * low + high * high, 1) / (2 * M) + epsilon)
            low, high = low * scale[:, None], high * scale[:, None]
            back_low, back_high = dlow * c + dhigh * s, dhigh * c - dlow * s  # turned back: as if nothing had been rotated
            dot_R = tl.sum(back_low * low + back_high * high, 1)
            if head < H:
                tl.store(dgain + tl.program_id(1) * H + head, tl.sum(tl.where(keep_R, dot_R, 0.0)))
                scale *= tl.load(gain + head)
            mean = (dot_R / (2 * M))[:, None]
            scale = scale[:, None]
            _store_halves(dx, to_R, (back_low - low * mean) * scale, (back_high - high * mean) * scale, keep_R, M)


class _NormRotate(torch.autograd.Function):
    """Queries, keys and values of the joint product, the values as a view of it; the backward pass writes one joint gradient."""

    @staticmethod
    def forward(
        ctx: Any, qkv_TO: Tensor, gain_H: Tensor, cos_LM: Tensor, sin_LM: Tensor, kv_heads: int, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads, (length, half), rows = len(gain_H), cos_LM.shape, len(qkv_TO)
        both, block = heads + kv_heads, PROGRAM_ENTRIES // (2 * half)
        out_TGN = qkv_TO.new_empty(rows, both, 2 * half)
        _forward[(both, -(-rows // block))](
            qkv_TO, out_TGN, gain_H, cos_LM, sin_LM, rows, length, qkv_TO.stride(0), cos_LM.stride(0), epsilon, H=heads, M=half, R=block
        )  # fmt: skip
        ctx.save_for_backward(qkv_TO, gain_H, cos_LM, sin_LM)
        ctx.kv_heads, ctx.epsilon = kv_heads, epsilon
        q, k = (part.reshape(rows // length, length, -1, 2 * half) for part in out_TGN.split([heads, kv_heads], dim=1))
        return q, k, qkv_TO[:, both * 2 * half :]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        qkv_TO, gain_H, cos_LM, sin_LM = ctx.saved_tensors
        heads, (length, half), rows = len(gain_H), cos_LM.shape, len(qkv_TO)
        dq, dk = (g if g.stride(-1) == 1 else g.contiguous() for g in grads[:2])
        dv = grads[2].reshape(rows // length, length, ctx.kv_heads, 2 * half)
        block = PROGRAM_ENTRIES // (2 * half)
        blocks = -(-rows // block)
        dx_TO = qkv_TO.new_empty(rows, qkv_TO.shape[1])
        shares = gain_H.new_empty(blocks, heads)
        _backward[(heads + 2 * ctx.kv_heads, blocks)](
            qkv_TO, dq, dk, dv, dx_TO, shares, gain_H, cos_LM, sin_LM, rows, length, qkv_TO.stride(0), cos_LM.stride(0), ctx.epsilon,
            *dq.stride()[:3], *dk.stride()[:3], *dv.stride()[:3], H=heads, K=ctx.kv_heads, M=half, R=block,
        )  # fmt: skip
        return dx_TO, shares.sum(0), None, None, None, None


def norm_rotate(qkv_TO: Tensor, gain_H: Tensor, cos_LM: Tensor, sin_LM: Tensor, kv_heads: int, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, L, H, N), keys (B, L, K, N) and values (T, K·N), the last as they are, of the joint product.

    qkv_TO: rows contiguous, any float dtype; gain_H: float32, multiplies the queries; cos_LM, sin_LM: of the window's positions.
    Queries and keys are divided by their root mean square and turned, all in float32.  Su et al. (2021), Zhang & Sennrich (2019)."""
    q, k, v = _NormRotate.apply(qkv_TO, gain_H, cos_LM, sin_LM, kv_heads, epsilon)  # type: ignore[no-untyped-call]
    return q, k, v
