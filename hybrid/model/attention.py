"""Causal self-attention with grouped queries, partial RoPE and the family's extras.

Legend: B windows, L positions of a window that are computed at once, T = B·L, E model width, H query heads, K key/value heads,
N head width, S streams and B tokens of each where there is a `past`.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.model.projection import Projection
from hybrid.settings.config import ModelConfig

MAX_CONTEXT = 8192  # positions of the RoPE table; no window is longer
NORM_EPSILON = torch.finfo(torch.float32).eps  # the default follows the input's type: 0.0078 in bf16 would swamp a fresh embedding
Rope = tuple[Tensor, Tensor] | None  # cos and signed sin (L, 1, 2, N/2), or no rotation
VALUE_GATE_DIMS = 32  # features of the input that decide how much of a value table each head takes
Past = Any  # a key_value_cache.CachedPast


class Window(NamedTuple):
    """Where the tokens of a forward pass stand: B windows of L positions, from 0 on or, with a `past`, from where the cache ends."""

    shape: tuple[int, int]  # B, L
    rope: Rope  # of these positions
    past: Past | None = None


def rms_norm(x: Tensor) -> Tensor:
    """x over the root mean square of its last dimension, the same function in every dtype.  Zhang & Sennrich (2019)."""
    return F.rms_norm(x, (x.shape[-1],), eps=NORM_EPSILON)


def rope_tables(dims: int, base: float, width: int) -> tuple[Tensor, Tensor]:
    """cos and signed sin (MAX_CONTEXT, 2, width/2) float32 for heads of `width`, position 0 at the window's start.

    Dimension i turns with dimension i + width/2; pairs from dims/2 on stand still (cos 1, sin 0).  Su et al. (2021)."""
    frequency = base ** (-torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    frequency = F.pad(frequency, (0, width // 2 - len(frequency)))
    angle = torch.outer(torch.arange(MAX_CONTEXT, dtype=torch.float64), frequency)
    return torch.stack([angle.cos()] * 2, 1).float(), torch.stack([-angle.sin(), angle.sin()], 1).float()


def rotate(x_BLHN: Tensor, cos_L12M: Tensor, sin_L12M: Tensor) -> Tensor:
    """RoPE on every head, M = N/2.  Products and a flip: nothing is cut and joined, so it fuses with its neighbours, backward too."""
    halves = x_BLHN.unflatten(-1, (2, -1))
    return (halves * cos_L12M + halves.flip(-2) * sin_L12M).flatten(-2)


class _Turned(torch.autograd.Function):
    """rotate(rms_norm(x)) times a gain per head, for the compiler: nothing but x and its gradient is flipped, so a direction is one kernel."""

    @staticmethod
    def forward(ctx: Any, x_BLHN: Tensor, gain_H: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x_BLHN.float()
        scale = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + NORM_EPSILON)
        ctx.save_for_backward(x_BLHN, scale, gain_H, cos, sin)
        return (rotate(x, cos, sin) * (scale * gain_H[:, None])).to(x_BLHN.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_BLHN, scale, gain_H, cos, sin = ctx.saved_tensors
        back, x = rotate(grads[0].float(), cos, -sin), x_BLHN.float()
        dot = (back * x).sum(dim=-1, keepdim=True)
        dx = (back - x * (scale.square() * dot / x.shape[-1])) * (scale * gain_H[:, None])
        return dx.to(x_BLHN.dtype), (dot * scale).sum(dim=(0, 1, 3)), None, None


def exclude_self(y_BLHN: Tensor, v_BLKN: Tensor) -> Tensor:
    """XSA: takes from each head's output its component along the position's own value vector."""
    batch, length, kv_heads, width = v_BLKN.shape
    y = y_BLHN.view(batch, length, kv_heads, -1, width)
    direction = F.normalize(v_BLKN, dim=-1).unsqueeze(3)
    return (y - (y * direction).sum(dim=-1, keepdim=True) * direction).view(y_BLHN.shape)


def attend(q_BLHN: Tensor, k_BLKN: Tensor, v_BLKN: Tensor, window: int) -> Tensor:
    """Causal attention, each key/value head shared by H/K query heads: (B, L, H, N).

    window: positions that each sees, its own the last; 0: all."""
    near = 0 < window < q_BLHN.shape[1]
    if near and q_BLHN.is_cuda and q_BLHN.dtype == torch.bfloat16 and q_BLHN.shape[3] in (16, 32, 64, 128):
        from hybrid.model.window_attention import window_attention

        return window_attention(q_BLHN, k_BLKN, v_BLKN, window)
    q, k, v = (x.transpose(1, 2) for x in (q_BLHN, k_BLKN, v_BLKN))
    grouped = k.shape[1] != q.shape[1]
    if not near:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped).transpose(1, 2)
    parts = []
    for at in range(0, q.shape[2], window):  # positions that see one another and as many before
        back, part = min(at, window), q[:, :, at : at + window]
        keys, values = (x[:, :, at - back : at + window] for x in (k, v))
        seen = q.new_ones(part.shape[2], keys.shape[2], dtype=torch.bool).tril(back).triu(back - window + 1)
        parts.append(F.scaled_dot_product_attention(part, keys, values, seen, enable_gqa=grouped))
    return torch.cat(parts, 2).transpose(1, 2)


def value_table_layers(config: ModelConfig) -> list[int]:
    """The layers with a value table of their own: every other one, counted from the last."""
    return [config.layers - 1 - 2 * i for i in reversed(range(config.value_tables))]


def window_of(config: ModelConfig, layer: int) -> int:
    """The window of a layer; 0: the whole context."""
    whole = config.whole_layers
    return 0 if layer in (int((i + 0.5) * config.layers / whole) for i in range(whole)) else config.window


class Attention(nn.Module):
    """Query/key/value product, normed and rotated; attention; output product."""

    def __init__(self, config: ModelConfig, layer: int, *, frozen: bool) -> None:
        super().__init__()
        self.layer, self.reach = layer, window_of(config, layer)
        self.heads, self.kv_heads, self.width = config.heads, config.kv_heads, config.d_model // config.heads
        kv_width, rank = self.kv_heads * self.width, config.rank_attention
        self.input = Projection(("q", "k", "v"), (config.d_model, kv_width, kv_width), config.d_model, frozen=frozen, rank=rank)
        self.output = Projection(("o",), (config.d_model,), config.d_model, frozen=frozen, rank=rank, zero=True)
        self.query_gain = nn.Parameter(torch.full((self.heads,), config.query_gain))
        self.exclusive = layer >= config.layers - config.xsa_layers
        if config.value_embed_dim and layer >= config.layers - config.value_embed_layers:
            self.value_gain = nn.Parameter(torch.ones(1))
        if layer in value_table_layers(config):
            self.value_gate = nn.Parameter(torch.zeros(self.kv_heads, min(VALUE_GATE_DIMS, config.d_model)))
        if config.value_residual and layer:
            self.value_mix = nn.Parameter(torch.tensor([0.5, 0.5]))

    def forward(self, x_TE: Tensor, window: Window, value_TK: Tensor | None, first_v: Tensor | None, gain_E: Tensor) -> tuple[Tensor, Tensor]:
        """x_TE normed input; value_TK value embedding (T, K·N), shared or this layer's; first_v the first layer's values; gain_E of the output.

        Returns the output (T, E) and the values (T, K·N) before they are split into heads."""
        q, k, v = self._heads(self.input(x_TE), window)
        if value_TK is not None:
            v = v + self.share_of(value_TK, x_TE)
        if first_v is not None:
            mix = self.value_mix.to(v.dtype)
            v = mix[0] * first_v + mix[1] * v
        values, v = v, v.reshape(*window.shape, -1, self.width)
        y = attend(q, k, v, self.reach) if window.past is None else window.past.attend(self.layer, q, k, v)
        if self.exclusive:
            y = exclude_self(y, v)
        return self.output(y.reshape(x_TE.shape[0], -1), gain_E), values

    def share_of(self, value_TK: Tensor, x_TE: Tensor) -> Tensor:
        """What a layer with a value embedding takes of it: all by one gain, or each head by a gate of its own that reads the input."""
        if hasattr(self, "value_gain"):
            return self.value_gain.to(value_TK.dtype) * value_TK
        gate_TK = 2 * torch.sigmoid(x_TE[:, : self.value_gate.shape[1]] @ self.value_gate.to(x_TE.dtype).t())
        return (gate_TK[:, :, None] * value_TK.unflatten(1, (self.kv_heads, -1))).flatten(1)

    def _heads(self, qkv_TO: Tensor, window: Window) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, L, H, N) and keys (B, L, K, N), normed, rotated and scaled; values (T, K·N) as they are."""
        shape, rope, _ = window
        q, k, v = qkv_TO.view(*shape, -1, self.width).split([self.heads, self.kv_heads, self.kv_heads], dim=2)
        v = v.reshape(len(qkv_TO), -1)
        if rope is not None and torch.compiler.is_compiling():
            q, k = (_Turned.apply(x, gain, *rope) for x, gain in ((q, self.query_gain), (k, k.new_ones(self.kv_heads))))  # type: ignore[no-untyped-call]
            return q, k, v
        q, k = rms_norm(q), rms_norm(k)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        return q * self.query_gain.to(q.dtype)[:, None], k, v
