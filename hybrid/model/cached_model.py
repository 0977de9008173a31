"""CachedModel: HybridLM token by token, for many streams side by side; what the coder predicts with.

It is the model's own forward pass over a key/value cache, in float32 whatever the training's type, with adapters merged once.
Every call has the same shapes at the same position of a window, whatever the tokens, so a coder and a decoder on one kind of machine
get the same bits.

On CUDA a step is launched as one recorded graph, so nothing in it may depend on the host: the position is a tensor, and
attention covers the window up to the next multiple of GRAIN, positions to come masked.  Many tokens at once (`extend`) are the
same arithmetic in blocks, for a window that is begun anew in its middle.

Legend: S streams, B tokens of a block (1 in a step), L window, V vocabulary.
"""

import copy

import torch
from torch import Tensor, nn

from hybrid.model.attention import MAX_CONTEXT
from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.key_value_cache import KeyValueCache
from hybrid.model.projection import Projection, merged_weight
from hybrid.model.recorded import recorded

# Positions by which the span of attention grows.  CUDA: a graph is recorded for each span; eight in a window of 2,048 read 56 %
# of what one would.  CPU: no graphs, so no position is read before it is filled
GRAIN = {"cpu": 1, "cuda": 256}
BLOCK = 128  # tokens a stream that `extend` takes at once: scores of S·H·BLOCK·L float32 are 1 GB at 207 streams


@torch.no_grad()
def merged(projection: Projection) -> Tensor:
    """Its effective matrices, one below the other: a new float32 tensor (ΣO, I); the module is left as it is."""
    if not projection.frozen:
        return torch.cat([weight.detach() for weight in projection.weights.values()])
    map_OI = projection.map.float()
    if not len(projection.a):
        return map_OI * projection.scale
    return merged_weight(map_OI, projection.scale, list(projection.a.values()), list(projection.b.values()))


class MergedProjection(nn.Module):
    """The matrices of a projection for inference: one float32 matrix, adapters merged into it once."""

    w_IO: Tensor

    def __init__(self, projection: Projection) -> None:
        super().__init__()
        self.register_buffer("w_IO", self._merged(projection), persistent=False)

    @staticmethod
    def _merged(projection: Projection) -> Tensor:
        return merged(projection).t().contiguous()

    def take(self, projection: Projection) -> None:
        """Takes over the projection's weights as they are now."""
        self.w_IO.copy_(self._merged(projection))

    def forward(self, x_TI: Tensor, gain_O: Tensor | None = None) -> Tensor:
        """(T, I) → (T, ΣO); gain_O (ΣO,) multiplies each output."""
        y_TO = x_TI @ self.w_IO
        return y_TO if gain_O is None else y_TO * gain_O


class CachedModel:
    """Predicts the next token of S streams from the window so far, with a copy of the model's weights.

    seq_len: L, after which a window is full and `restart` must be called.  grain: a step attends over a multiple of so many
    positions, those to come masked; 0: the device's choice.  Raises ValueError if seq_len is beyond MAX_CONTEXT."""

    @torch.inference_mode()
    def __init__(self, model: HybridLM, streams: int, seq_len: int, device: torch.device, grain: int = 0) -> None:
        if seq_len > MAX_CONTEXT:
            raise ValueError(f"window of {seq_len} tokens; at most {MAX_CONTEXT}")
        self.source, self.streams, self.seq_len, self.device = model, streams, seq_len, device
        self.grain = grain or GRAIN[device.type]
        merged = {id(projection): MergedProjection(projection) for projection in model.projections().values()}
        self._model = copy.deepcopy(model, merged).to(device).eval()  # deepcopy puts each merged one in its projection's place
        self._head_EV = self._model.embedding.t().contiguous()  # as the output product reads it fastest
        self._cache = KeyValueCache(model.config, streams, seq_len, device)
        # inputs and outputs of a step: always the same memory, which a CUDA graph must find again
        self._tokens = torch.zeros(streams, dtype=torch.int64, device=device)
        self._logits = torch.empty(streams, model.config.vocab_size, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._graph_memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self.position = 0

    @torch.inference_mode()
    def restart(self) -> None:
        """Begins a new window: nothing before it is seen."""
        self.position = 0
        self._cache.restart()

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
        now = dict(self.source.named_parameters())
        for name, kept in self._model.named_parameters():
            kept.copy_(now[name])
        for (_, name), projection in self.source.projections().items():
            merged = self._model.get_submodule(name)
            assert isinstance(merged, MergedProjection)
            merged.take(projection)
        self._head_EV.copy_(self._model.embedding.t())
        self.restart()

    def _graph(self, span: int) -> torch.cuda.CUDAGraph:
        """The recorded step over `span` positions: some hundred kernels for one launch."""
        if span not in self._graphs:
            before = [tensor.clone() for tensor in self._cache.moving()]
            self._graphs[span] = recorded(lambda: self._forward(self._tokens[:, None], span), memory=self._graph_memory)
            for tensor, value in zip(self._cache.moving(), before, strict=True):
                tensor.copy_(value)
        return self._graphs[span]

    def _forward(self, tokens_SB: Tensor, span: int) -> None:
        """Reads the tokens at the cache's position, attending over `span` positions; logits after the last go to `_logits`."""
        block = tokens_SB.shape[1]
        past = self._cache.past(block, span, max(self.grain, block))
        hidden_TE = self._model.hidden(tokens_SB, past)
        self._logits.copy_(self._model.logits(hidden_TE.view(*tokens_SB.shape, -1)[:, -1], self._head_EV))
        self._cache.advance(tokens_SB)
