"""Causal attention over a sliding window on a GPU, both directions, by kernels of Triton.

Position i sees the positions j with 0 ≤ i - j < window; the cost grows with it alone.  No sum depends on the order in which programs
run, and no row of a batch on those beside it.  The arithmetic is FlashAttention's (Dao 2023); scores and levels (B, H, L), which are the
logarithms of what a softmax divides by, are to the base 2.

Legend: B rows of L positions, H query heads, K key/value heads, N head width.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Queries and keys of a tile, warps, stages, of the three kernels: the fastest tried on an H100, for heads to 64 and 128 (LOG.md)
TILES = ((64, 64, 4, 2), (64, 64, 4, 3), (64, 64, 4, 3)), ((128, 64, 8, 3), (128, 64, 8, 3), (64, 128, 8, 3))
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _places(first, step, N, SIZE):
    return (first + tl.arange(0, SIZE))[:, None] * step + tl.arange(0, N)[None, :]


@triton.jit
def _tile(base, first, length, step, N, SIZE):
    """(SIZE, N) of one head, zeros behind the last position."""
    return tl.load(base + _places(first, step, N, SIZE), mask=(first + tl.arange(0, SIZE) < length)[:, None], other=0.0)


@triton.jit
def _put(base, first, length, step, tile, N, SIZE):
    tl.store(base + _places(first, step, N, SIZE), tile.to(base.dtype.element_ty), mask=(first + tl.arange(0, SIZE) < length)[:, None])


@triton.jit
def _seen(scores, query, key, fill, WINDOW, QUERIES, KEYS):
    """scores (QUERIES, KEYS), `fill` where a query does not see a key."""
    away = query + tl.arange(0, QUERIES)[:, None] - key - tl.arange(0, KEYS)[None, :]
    return tl.where((away >= 0) & (away < WINDOW), scores, fill)


@triton.jit
def _forward(q, k, v, y, levels, length, heads, group, scale: tl.constexpr, WINDOW: tl.constexpr, N: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    at, head, row = tl.program_id(0) * QUERIES, tl.program_id(1), tl.program_id(2).to(tl.int64)
    own, shared, step = (row * length * heads + head) * N, (row * length * heads + head) // group * N, heads // group * N
    queries = _tile(q + own, at, length, heads * N, N, QUERIES)
    most, total, sums = tl.full((QUERIES,), -1e30, tl.float32), tl.zeros((QUERIES,), tl.float32), tl.zeros((QUERIES, N), tl.float32)
    for key in range(tl.maximum(at - WINDOW + 1, 0) // KEYS * KEYS, tl.minimum(at + QUERIES, length), KEYS):
        keys, values = _tile(k + shared, key, length, step, N, KEYS), _tile(v + shared, key, length, step, N, KEYS)
        scores = _seen(tl.dot(queries, tl.trans(keys)) * scale, at, key, float("-inf"), WINDOW, QUERIES, KEYS)
        higher = tl.maximum(most, tl.max(scores, 1))
        share, fade = tl.exp2(scores - higher[:, None]), tl.exp2(most - higher)
        total, most = total * fade + tl.sum(share, 1), higher
        sums = tl.dot(share.to(values.dtype), values, sums * fade[:, None])
    _put(y + own, at, length, heads * N, sums / total[:, None], N, QUERIES)
    i = at + tl.arange(0, QUERIES)
    tl.store(levels + (row * heads + head) * length + i, most + tl.log2(total), mask=i < length)


@triton.jit
def _to_queries(
    q, k, v, y, dy, levels, dots, dq, length, heads, group,
    scale: tl.constexpr, WINDOW: tl.constexpr, N: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr
):
    """Gradients of the queries; dots (B, H, L): of outputs and their gradients."""
    at, head, row = tl.program_id(0) * QUERIES, tl.program_id(1), tl.program_id(2).to(tl.int64)
    own, shared, step = (row * length * heads + head) * N, (row * length * heads + head) // group * N, heads // group * N
    i, line = at + tl.arange(0, QUERIES), (row * heads + head) * length
    queries, back = _tile(q + own, at, length, heads * N, N, QUERIES), _tile(dy + own, at, length, heads * N, N, QUERIES)
    dot = tl.sum(back.to(tl.float32) * _tile(y + own, at, length, heads * N, N, QUERIES).to(tl.float32), 1)
    tl.store(dots + line + i, dot, mask=i < length)
    level, sums = tl.load(levels + line + i, mask=i < length, other=0.0), tl.zeros((QUERIES, N), tl.float32)
    for key in range(tl.maximum(at - WINDOW + 1, 0) // KEYS * KEYS, tl.minimum(at + QUERIES, length), KEYS):
        keys, values = _tile(k + shared, key, length, step, N, KEYS), _tile(v + shared, key, length, step, N, KEYS)
        share = _seen(tl.exp2(tl.dot(queries, tl.trans(keys)) * scale - level[:, None]), at, key, 0.0, WINDOW, QUERIES, KEYS)
        steep = share * (tl.dot(back, tl.trans(values)) - dot[:, None])
        sums = tl.dot(steep.to(keys.dtype), keys, sums)
    _put(dq + own, at, length, heads * N, sums * (scale * LN_2), N, QUERIES)


@triton.jit
def _to_keys(
    q, k, v, dy, levels, dots, dk, dv, length, heads, group,
    scale: tl.constexpr, WINDOW: tl.constexpr, N: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr
):
    """Gradients of keys and values."""
    key, kv, row = tl.program_id(0) * KEYS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    shared, step = (row * length * heads // group + kv) * N, heads // group * N
    keys, values = _tile(k + shared, key, length, step, N, KEYS), _tile(v + shared, key, length, step, N, KEYS)
    to_keys, to_values = tl.zeros((KEYS, N), tl.float32), tl.zeros((KEYS, N), tl.float32)
    tiles = tl.cdiv(tl.minimum(key + KEYS + WINDOW - 1, length) - key, QUERIES)
    for one in range(group * tiles):
        head, at = kv * group + one // tiles, key + one % tiles * QUERIES
        own, i, line = (row * length * heads + head) * N, at + tl.arange(0, QUERIES), (row * heads + head) * length
        queries, back = _tile(q + own, at, length, heads * N, N, QUERIES), _tile(dy + own, at, length, heads * N, N, QUERIES)
        level, dot = tl.load(levels + line + i, mask=i < length, other=0.0), tl.load(dots + line + i, mask=i < length, other=0.0)
        share = tl.trans(_seen(tl.trans(tl.exp2(tl.dot(keys, tl.trans(queries)) * scale - level[None, :])), at, key, 0.0, WINDOW, QUERIES, KEYS))
        to_values = tl.dot(share.to(back.dtype), back, to_values)
        steep = share * (tl.dot(values, tl.trans(back)) - dot[None, :])
        to_keys = tl.dot(steep.to(queries.dtype), queries, to_keys)
    _put(dk + shared, key, length, step, to_keys * (scale * LN_2), N, KEYS)
    _put(dv + shared, key, length, step, to_values, N, KEYS)


# Operators, because what is inside of one costs the compiler no time (LOG.md)
@torch.library.custom_op("seedgram::window_attention", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    y, levels = _like(q)
    _launch(_forward, 0, q, k, window, v, y, levels)
    return y, levels


@torch.library.custom_op("seedgram::window_attention_backward", mutates_args=())
def _gradients(q: Tensor, k: Tensor, v: Tensor, y: Tensor, levels: Tensor, dy: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv, dots = map(torch.empty_like, (q, k, v, levels))
    _launch(_to_queries, 1, q, k, window, v, y, dy, levels, dots, dq)
    _launch(_to_keys, 2, q, k, window, v, dy, levels, dots, dk, dv)
    return dq, dk, dv


@_attend.register_fake
def _like(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)


_gradients.register_fake(lambda q, k, v, *_: tuple(map(torch.empty_like, (q, k, v))))


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.window = inputs[3]


def _back(ctx: Any, dy: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return *_gradients(*ctx.saved_tensors, dy.contiguous(), ctx.window), None


_attend.register_autograd(_back, setup_context=_keep)


def _launch(kernel: Any, which: int, q: Tensor, k: Tensor, window: int, *more: Tensor) -> None:
    (batch, length, heads, width), kv_heads = q.shape, k.shape[2]
    queries, keys, warps, stages = TILES[width > 64][which]
    grid = (triton.cdiv(length, keys), kv_heads, batch) if which == 2 else (triton.cdiv(length, queries), heads, batch)
    sizes = length, heads, heads // kv_heads, width**-0.5 / LN_2.value, window, width, queries, keys
    kernel[grid](q, k, *more, *sizes, num_warps=warps, num_stages=stages)


def window_attention(q_BLHN: Tensor, k_BLKN: Tensor, v_BLKN: Tensor, window: int) -> Tensor:
    """(B, L, H, N), in the inputs' type; N is 16, 32, 64 or 128."""
    return _attend(q_BLHN.contiguous(), k_BLKN.contiguous(), v_BLKN.contiguous(), window)[0]
