"""StepModel: HybridLM one token at a time, for many streams in lockstep, with keys and values kept.

The same arithmetic as HybridLM.forward over merged float32 weights; a test holds it to that.  Every call has the same
shapes at the same position of a window, whatever the tokens, so a coder and a decoder on one kind of machine get the same bits.

Legend: S streams, E model width, H query heads, K key/value heads, G = H/K, N head width, L window, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid.adapters import Projection
from hybrid.attention import Attention, rms_norm, rotate
from hybrid.blocks import MLP, Block
from hybrid.model import HybridLM


def _dense(projection: Projection, device: torch.device) -> Tensor:
    """The effective matrix of a group, transposed for x @ w: (I, ΣO) float32."""
    return torch.cat(list(projection.merged().values())).float().t().contiguous().to(device)


class StepModel:
    """Predicts the next token of S streams from the window so far.

    seq_len: L, after which a window is full and `restart` must be called."""

    @torch.inference_mode()
    def __init__(self, model: HybridLM, streams: int, seq_len: int, device: torch.device) -> None:
        self.model, self.streams, self.seq_len, self.device = model.eval().to(device), streams, seq_len, device
        self.config = model.config
        self._dense = {projection: _dense(projection, device) for projection in model.projections().values()}
        self._embedding = model.embedding.detach().float()
        self._head = self._embedding.t().contiguous()
        shape = (self.config.layers, streams, self.config.kv_heads, seq_len, self.config.d_model // self.config.heads)
        self._keys, self._values = (torch.zeros(shape, device=device) for _ in range(2))
        self.restart()

    def restart(self) -> None:
        """Begins a new window: nothing before it is seen."""
        self.position = 0
        self._last_token: Tensor | None = None
        self._last_x: Tensor | None = None

    @torch.inference_mode()
    def step(self, tokens_S: Tensor) -> Tensor:
        """Logits (S, V) float32 of the tokens that follow tokens_S (S,) int64.  Raises ValueError when the window is full."""
        if self.position >= self.seq_len:
            raise ValueError(f"window of {self.seq_len} tokens is full")
        tokens_S = tokens_S.to(self.device)
        x_SE = self._inputs(tokens_S)
        shared_SK = self._shared_values(tokens_S)
        saved: list[Tensor] = []
        x0_SE, first_v, half = x_SE, None, self.config.layers // 2
        for layer, module in enumerate(self.model.blocks):
            block: Block = module  # type: ignore[assignment]
            if self.model.skip_gain is not None and 0 <= layer - half < half:
                x_SE = x_SE + self.model.skip_gain[layer - half] * saved.pop()
            x_SE = block.residual_mix[0] * x_SE + block.residual_mix[1] * x0_SE
            attended_SE, values = self._attention(block.attention, layer, block.norm(x_SE), shared_SK, first_v)
            x_SE = x_SE + block.attention_gain * attended_SE
            x_SE = x_SE + block.mlp_gain * self._mlp(block.mlp, block.norm(x_SE))
            if layer == 0 and self.config.value_residual:
                first_v = values
            if self.model.skip_gain is not None and layer < half:
                saved.append(x_SE)
        self.position += 1
        self._last_token = tokens_S
        raw_SV = rms_norm(x_SE) @ self._head
        return self.config.softcap * torch.tanh(raw_SV / self.config.softcap)

    def _inputs(self, tokens_S: Tensor) -> Tensor:
        x_SE = F.embedding(tokens_S, self._embedding)
        if self.model.bigram is not None:
            pair_SL = tokens_S[:, None] if self._last_token is None else torch.stack([self._last_token, tokens_S], 1)
            x_SE = x_SE + self.model.bigram(pair_SL, torch.float32).view(self.streams, pair_SL.shape[1], -1)[:, -1]
        x_SE = rms_norm(x_SE)
        if self.model.smear is not None:
            before_SE = torch.zeros_like(x_SE) if self._last_x is None else self._last_x
            self._last_x = x_SE
            x_SE = self.model.smear(torch.stack([before_SE, x_SE], 1))[:, -1]
        return x_SE

    def _shared_values(self, tokens_S: Tensor) -> Tensor | None:
        return self.model.values(tokens_S[:, None], torch.float32) if self.model.values is not None else None

    def _attention(
        self, module: Attention, layer: int, x_SE: Tensor, shared_SK: Tensor | None, first_v: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        heads, kv_heads, width, at = module.heads, module.kv_heads, module.width, self.position
        q, k, v = (x_SE @ self._dense[module.input]).split([heads * width, kv_heads * width, kv_heads * width], dim=-1)
        if shared_SK is not None and hasattr(module, "value_gain"):
            v = v + module.value_gain * shared_SK
        if first_v is not None and hasattr(module, "value_mix"):
            v = module.value_mix[0] * first_v + module.value_mix[1] * v
        values = v
        q, k, v = (m.reshape(self.streams, 1, -1, width) for m in (q, k, v))
        q, k = rms_norm(q), rms_norm(k)
        if self.config.rope_dims:
            rope = self.model.rope_cos[at : at + 1, None], self.model.rope_sin[at : at + 1, None]
            q, k = rotate(q, *rope), rotate(k, *rope)
        q = q * module.query_gain[:, None]
        self._keys[layer, :, :, at], self._values[layer, :, :, at] = k[:, 0], v[:, 0]
        past_k, past_v = (m[layer, :, :, : at + 1].flatten(0, 1) for m in (self._keys, self._values))  # (S·K, at+1, N), no copy
        q_SKGN = q.view(self.streams * kv_heads, heads // kv_heads, width)
        scores = torch.bmm(q_SKGN, past_k.transpose(1, 2)) * width**-0.5
        y = torch.bmm(torch.softmax(scores, dim=-1), past_v).view(self.streams, kv_heads, -1, width)
        if module.exclusive:
            direction = F.normalize(v.view(self.streams, kv_heads, 1, width), dim=-1)
            y = y - (y * direction).sum(dim=-1, keepdim=True) * direction
        return y.reshape(self.streams, -1) @ self._dense[module.output], values

    def _mlp(self, module: MLP, x_SE: Tensor) -> Tensor:
        h_SF = x_SE @ self._dense[module.up]
        if hasattr(module, "feature_gain"):
            h_SF = h_SF * module.feature_gain
        if module.activation == "swiglu":
            gate_SF, h_SF = h_SF.chunk(2, dim=-1)
            h_SF = F.silu(gate_SF) * h_SF
        else:
            h_SF = (F.relu(h_SF) if module.activation == "relu2" else F.leaky_relu(h_SF, 0.5)).square()
        if hasattr(module, "hidden_gate"):
            h_SF = h_SF * (1 + module.hidden_gate)
        return h_SF @ self._dense[module.down]
