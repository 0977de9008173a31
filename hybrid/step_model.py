"""StepModel: HybridLM one token at a time, for many streams in lockstep, with keys and values kept.

The same arithmetic as HybridLM.forward over merged float32 weights; a test holds it to that.  Every call has the same
shapes at the same position of a window, whatever the tokens, so a coder and a decoder on one kind of machine get the same bits.

On CUDA a step is launched as one recorded graph, so nothing in it may depend on the host: the position is a tensor, and
attention covers the window up to the next multiple of GRAIN, positions to come masked.  Many tokens at once (`extend`) are the
same arithmetic in blocks, for a window that is begun anew in its middle.

Legend: S streams, B tokens of a block (1 in a step), E model width, H query heads, K key/value heads, G = H/K, N head width, L window, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hybrid.adapters import Projection
from hybrid.attention import Attention, Rope, rms_norm, rotate
from hybrid.blocks import MLP, Block
from hybrid.model import HybridLM

# Positions by which the span of attention grows.  CUDA: a graph is recorded for each span; eight in a window of 2,048 read 56 %
# of what one would.  CPU: no graphs, so no position is read before it is filled
GRAIN = {"cpu": 1, "cuda": 256}


BLOCK = 128  # tokens a stream that `extend` takes at once: scores of S·H·BLOCK·L float32 are 1 GB at 207 streams


def _dense(projection: Projection, device: torch.device) -> Tensor:
    """The effective matrix of a group, transposed for x @ w: (I, ΣO) float32."""
    return torch.cat(list(projection.merged().values())).float().t().contiguous().to(device)


class StepModel:
    """Predicts the next token of S streams from the window so far.

    seq_len: L, after which a window is full and `restart` must be called.  grain: a step attends over a multiple of so many
    positions, those to come masked; 0: the device's choice."""

    @torch.inference_mode()
    def __init__(self, model: HybridLM, streams: int, seq_len: int, device: torch.device, grain: int = 0) -> None:
        self.model, self.streams, self.seq_len, self.device = model.eval().to(device), streams, seq_len, device
        self.config, self.grain = model.config, grain or GRAIN[device.type]
        self._dense = {projection: _dense(projection, device) for projection in model.projections().values()}
        self._embedding = model.embedding.detach().float().clone()
        self._head = self._embedding.t().contiguous()
        shape = (self.config.layers, streams, self.config.kv_heads, seq_len, self.config.d_model // self.config.heads)
        self._keys, self._values = (torch.zeros(shape, device=device) for _ in range(2))
        self._places = torch.arange(seq_len, device=device)
        # the state of a window and the outputs: always the same memory, which a CUDA graph must find again
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._tokens, self._last_token = (torch.zeros(streams, dtype=torch.int64, device=device) for _ in range(2))
        self._last_x = torch.zeros(streams, self.config.d_model, device=device)
        self._logits = torch.empty(streams, self.config.vocab_size, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._graph_memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self.restart()

    @torch.inference_mode()
    def restart(self) -> None:
        """Begins a new window: nothing before it is seen."""
        self.position = 0
        self._at.zero_()
        self._last_x.zero_()

    @torch.inference_mode()
    def step(self, tokens_S: Tensor) -> Tensor:
        """Logits (S, V) float32 of the tokens that follow tokens_S (S,) int64; the next step overwrites them.

        Raises ValueError when the window is full."""
        if self.position >= self.seq_len:
            raise ValueError(f"window of {self.seq_len} tokens is full")
        span = min(self.seq_len, (self.position // self.grain + 1) * self.grain)
        self._tokens.copy_(tokens_S)
        if self.device.type == "cuda":
            self._graph(span).replay()
        else:
            self._forward(self._tokens[:, None], span)
        self.position += 1
        return self._logits

    @torch.inference_mode()
    def extend(self, tokens_SL: Tensor) -> Tensor:
        """As `step` for every column of tokens_SL (S, any) in turn, up to rounding; logits after the last.

        Raises ValueError when the window has no room for them."""
        length = tokens_SL.shape[1]
        if self.position + length > self.seq_len:
            raise ValueError(f"window of {self.seq_len} tokens has no room for {length} after {self.position}")
        for block_SB in tokens_SL.to(self.device).split(BLOCK, dim=1):
            self._forward(block_SB, self.position + block_SB.shape[1])
            self.position += block_SB.shape[1]
        return self._logits

    @torch.inference_mode()
    def reload(self) -> None:
        """Takes over the model's weights as they are now, and begins a new window: what was computed with others is void."""
        for projection, kept in self._dense.items():
            kept.copy_(_dense(projection, self.device))
        self._embedding.copy_(self.model.embedding)
        self._head.copy_(self._embedding.t())
        self.restart()

    def _graph(self, span: int) -> torch.cuda.CUDAGraph:
        """The recorded step over `span` positions: some hundred kernels for one launch."""
        if span not in self._graphs:
            state = [tensor.clone() for tensor in (self._at, self._last_token, self._last_x)]
            side = torch.cuda.Stream(self.device)
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):
                self._forward(self._tokens[:, None], span)  # once outside of the recording: libraries make their handles and load their kernels here
            torch.cuda.current_stream(self.device).wait_stream(side)
            for tensor, before in zip((self._at, self._last_token, self._last_x), state, strict=True):
                tensor.copy_(before)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._graph_memory):
                self._forward(self._tokens[:, None], span)
            self._graphs[span] = graph
        return self._graphs[span]

    def _forward(self, tokens_SB: Tensor, span: int) -> None:
        """From tokens at positions `_at` … to `_logits` after the last, moving the window's state on.  Rows are (S·B)."""
        block = tokens_SB.shape[1]
        x_SE = self._inputs(tokens_SB)
        shared_SK = self.model.values(tokens_SB, torch.float32) if self.model.values is not None else None
        where = self._at + self._places[:block]
        rope, hidden = self._rope(where), self._places[:span] > where[:, None] if self.grain > 1 or block > 1 else None
        saved: list[Tensor] = []
        x0_SE, first_v, half = x_SE, None, self.config.layers // 2
        for layer, module in enumerate(self.model.blocks):
            layers: Block = module  # type: ignore[assignment]
            if self.model.skip_gain is not None and 0 <= layer - half < half:
                x_SE = x_SE + self.model.skip_gain[layer - half] * saved.pop()
            x_SE = layers.residual_mix[0] * x_SE + layers.residual_mix[1] * x0_SE
            past = self._keys[layer, :, :, :span], self._values[layer, :, :, :span]
            attended_SE, values = self._attention(layers.attention, past, where, hidden, rope, layers.norm(x_SE), shared_SK, first_v)
            x_SE = x_SE + layers.attention_gain * attended_SE
            x_SE = x_SE + layers.mlp_gain * self._mlp(layers.mlp, layers.norm(x_SE))
            if layer == 0 and self.config.value_residual:
                first_v = values
            if self.model.skip_gain is not None and layer < half:
                saved.append(x_SE)
        raw_SV = rms_norm(x_SE.view(self.streams, block, -1)[:, -1]) @ self._head
        self._logits.copy_(self.config.softcap * torch.tanh(raw_SV / self.config.softcap))
        self._last_token.copy_(tokens_SB[:, -1])
        self._at += block

    def _rope(self, where: Tensor) -> Rope:
        if not self.config.rope_dims:
            return None
        cos, sin = (table.index_select(0, where)[:, None] for table in (self.model.rope_cos, self.model.rope_sin))
        return cos, sin

    def _inputs(self, tokens_SB: Tensor) -> Tensor:
        """Normed embeddings (S·B, E), with what the extras take from the position before."""
        x_SE = F.embedding(tokens_SB.flatten(), self._embedding)
        if self.model.bigram is not None:
            buckets_SB = self.model.bigram.buckets(torch.cat([self._last_token[:, None], tokens_SB], 1))[:, 1:]
            begun = self._at + self._places[: tokens_SB.shape[1]] > 0  # row 0: nothing stands before a window
            x_SE = x_SE + self.model.bigram.rows((buckets_SB * begun).flatten(), torch.float32)
        x_SE = rms_norm(x_SE)
        if self.model.smear is not None:
            x_SBE = x_SE.view(*tokens_SB.shape, -1)
            smeared_SBE = self.model.smear(torch.cat([self._last_x[:, None], x_SBE], 1))[:, 1:]
            self._last_x.copy_(x_SBE[:, -1])
            x_SE = smeared_SBE.reshape(x_SE.shape)
        return x_SE

    def _attention(
        self,
        module: Attention,
        past: tuple[Tensor, Tensor],
        where: Tensor,
        hidden: Tensor | None,
        rope: Rope,
        x_SE: Tensor,
        shared_SK: Tensor | None,
        first_v: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """past: keys and values (S, K, span, N), which positions `where` (B,) join; hidden (B, span): those yet to come."""
        heads, kv_heads, width = module.heads, module.kv_heads, module.width
        q, k, v = (x_SE @ self._dense[module.input]).split([heads * width, kv_heads * width, kv_heads * width], dim=-1)
        if shared_SK is not None and hasattr(module, "value_gain"):
            v = v + module.value_gain * shared_SK
        if first_v is not None and hasattr(module, "value_mix"):
            v = module.value_mix[0] * first_v + module.value_mix[1] * v
        values = v
        q, k, v = (m.reshape(self.streams, len(where), -1, width) for m in (q, k, v))
        q, k = rms_norm(q), rms_norm(k)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        q = q * module.query_gain[:, None]
        for kept, new in zip(past, (k, v), strict=True):
            kept.index_copy_(2, where, new.transpose(1, 2))
        past_k, past_v = (m.flatten(0, 1) for m in past)  # (S·K, span, N), no copy
        q_SBKGN = q.view(self.streams, len(where), kv_heads, -1, width)
        q_XYN = q_SBKGN.transpose(1, 2).reshape(self.streams * kv_heads, -1, width)  # X = S·K, Y = B·G
        scores = torch.bmm(past_k, q_XYN.transpose(1, 2)).transpose(1, 2)  # keys first: faster on a CPU
        scores = scores * width**-0.5
        if hidden is not None:
            scores = scores.masked_fill(hidden.repeat_interleave(heads // kv_heads, 0), -torch.inf)
        y_XYN = torch.bmm(torch.softmax(scores, dim=-1), past_v)
        y = y_XYN.view(self.streams, kv_heads, len(where), -1, width).transpose(1, 2)
        if module.exclusive:
            direction = F.normalize(v[:, :, :, None], dim=-1)
            y = y - (y * direction).sum(dim=-1, keepdim=True) * direction
        return y.reshape(self.streams * len(where), -1) @ self._dense[module.output], values

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
