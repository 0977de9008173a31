"""The model a second time, slowly, from its description: what test_model.py compares with."""

import itertools
import math

import numpy as np

from hybrid.model.attention import window_of
from hybrid.model.cached_model import merged


def forward_by_hand(model, ids):
    """Logits (L, V) of one window in float64 numpy, with loops over layers, heads and positions; every extra included."""
    c = model.config
    p = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
    width, share, half, length = c.d_model // c.heads, c.heads // c.kv_heads, c.layers // 2, len(ids)

    def norm(x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.finfo(np.float32).eps)

    def turn(x, position):
        pairs, out = width // 2, x.copy()
        for i in range(c.rope_dims // 2):
            angle = position * c.rope_base ** (-2 * i / c.rope_dims)
            out[i] = x[i] * math.cos(angle) - x[pairs + i] * math.sin(angle)
            out[pairs + i] = x[i] * math.sin(angle) + x[pairs + i] * math.cos(angle)
        return out

    def attention(h, w, layer, first):
        at, out = f"blocks.{layer}.attention.", np.zeros((length, c.d_model))
        values, window = h @ w["v"].T, window_of(c, layer) or length
        if c.value_embed_dim and layer >= c.layers - c.value_embed_layers:
            values = values + p[at + "value_gain"] * (p["values.embedding"][ids] @ p["values.project"].T)
        if c.value_residual and layer:
            values = p[at + "value_mix"][0] * first + p[at + "value_mix"][1] * values
        for head in range(c.heads):
            rows, kv = slice(head * width, (head + 1) * width), slice(head // share * width, (head // share + 1) * width)
            q, k, v = norm(h @ w["q"][rows].T), norm(h @ w["k"][kv].T), values[:, kv]
            for t in range(length):
                query, first = turn(q[t], t) * p[at + "query_gain"][head], max(0, t + 1 - window)
                weights = np.exp([query @ turn(k[s], s) / math.sqrt(width) for s in range(first, t + 1)])
                y = weights @ v[first : t + 1] / weights.sum()
                own = v[t] / np.linalg.norm(v[t])
                out[t, rows] = y - (y @ own) * own if layer >= c.layers - c.xsa_layers else y
        return out @ w["o"].T, values

    x = p["embedding"][ids]
    if c.bigram_buckets:
        buckets = [0] + [1 + ((36313 * int(b)) ^ (27191 * int(a))) % (c.bigram_buckets - 1) for a, b in itertools.pairwise(ids)]
        x = x + p["bigram.gain"] * (p["bigram.embedding"][buckets] @ p["bigram.project"].T)
    x = norm(x)
    if c.smear_gate:
        gate = 1 / (1 + np.exp(-p["smear.gate"]))
        x = (1 - gate) * x + gate * np.vstack([np.zeros(c.d_model), x[:-1]])
    start, saved, first = x, list[np.ndarray](), None
    for layer, block in enumerate(model.blocks):
        at, scale = f"blocks.{layer}.", (layer + 1) ** -0.5 if c.depth_norm_scale else 1.0
        parts = (block.attention.input, block.attention.output, block.mlp.up, block.mlp.down)
        w = {name: matrix.double().numpy() for part in parts for name, matrix in zip(part.names, merged(part).split(part.fan_outs), strict=True)}
        if c.skips and 0 <= layer - half < half:
            x = x + p["skip_gain"][layer - half] * saved.pop()
        x = p[at + "residual_mix"][0] * x + p[at + "residual_mix"][1] * start
        attended, values = attention(scale * norm(x), w, layer, first)
        first = values if layer == 0 else first
        x = x + p[at + "attention_gain"] * attended
        hidden = scale * norm(x) @ w["up"].T * p.get(at + "mlp.feature_gain", 1.0)
        hidden = np.where(hidden > 0, hidden, 0.5 * hidden) ** 2 * (1 + p.get(at + "mlp.hidden_gate", 0.0))
        x = x + p[at + "mlp_gain"] * (hidden @ w["down"].T)
        if layer < half:
            saved.append(x)
    return c.softcap * np.tanh(norm(x) @ p["embedding"].T / c.softcap)
