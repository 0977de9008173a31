"""HybridLM: a GPT whose block matrices may be frozen random maps with adapters (REFERENCES §2 names the systems).

Legend: B windows, L positions, T = B·L, V vocabulary, E model width.  Parameters and optimiser state are float32;
activations are bf16 on CUDA and float32 elsewhere.  Frozen maps are bf16 buffers outside the state dict.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.model.attention import MAX_CONTEXT, Past, Rope, Window, rms_norm, rope_tables, value_table_layers
from hybrid.model.blocks import Block, HashedBigram, SharedValues, SmearGate, ValueTable, is_frozen
from hybrid.model.projection import Projection, normal
from hybrid.model.random_maps import derive_seed
from hybrid.settings.config import ModelConfig
from ngram.threads import each

EMBEDDING_STD = 0.005  # of the challenge's baseline for tied embeddings: first logits near 0
PARTS = {name: index for index, name in enumerate(("q", "k", "v", "o", "gate", "up", "down"))}  # seeds depend on this order


class HybridLM(nn.Module):
    """Decoder-only transformer with tied embeddings and softcapped logits.

    Learned weights start from torch's global generator (call torch.manual_seed first), frozen maps from config.map_seed alone.
    fill_maps False: without the maps' bits and rotary tables, enough to count parameters instantly, on the meta device too."""

    rope_cos: Tensor
    rope_sin: Tensor

    def __init__(self, config: ModelConfig, *, fill_maps: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(normal(config.vocab_size, config.d_model, std=EMBEDDING_STD))
        self.blocks = nn.ModuleList([Block(config, layer) for layer in range(config.layers)])
        self.bigram = HashedBigram(config) if config.bigram_buckets else None
        self.values = SharedValues(config) if config.value_embed_dim else None
        self.value_tables = nn.ModuleDict({str(layer): ValueTable(config) for layer in value_table_layers(config)})
        self.smear = SmearGate(config.d_model) if config.smear_gate else None
        self.skip_gain = nn.Parameter(torch.ones(config.layers // 2, config.d_model)) if config.skips else None
        if config.rope_dims and fill_maps:
            cos, sin = rope_tables(config.rope_dims, config.rope_base, config.d_model // config.heads)
            self.register_buffer("rope_cos", cos, persistent=False)
            self.register_buffer("rope_sin", sin, persistent=False)
        for (layer, name), projection in self.projections().items():
            part = "attention" if ".attention." in name else "up" if name.endswith(".up") else "down"
            projection.progressive = config.progressive and is_frozen(config, layer, part)
        if fill_maps:
            self._fill_maps()

    def _fill_maps(self) -> None:
        """Regenerates every frozen map, matrices in parallel."""

        def fill(item: tuple[int, Projection]) -> None:
            layer, projection = item
            projection.fill(self.config.basis, [derive_seed(self.config.map_seed, layer, PARTS[matrix]) for matrix in projection.names])

        each(fill, ((layer, projection) for (layer, _), projection in self.projections().items() if projection.frozen))

    def projections(self) -> dict[tuple[int, str], Projection]:
        """Every group of block matrices by (layer, module name), in the order of the forward pass."""
        return {(int(name.split(".")[1]), name): module for name, module in self.named_modules() if isinstance(module, Projection)}

    def hidden(self, tokens_BL: Tensor, past: Past | None = None) -> Tensor:
        """Normed final activations (T, E) of windows that start at position 0, or that go on from `past`, which the tokens join.

        With a `past` everything is float32, also on CUDA.  Raises ValueError for windows longer than MAX_CONTEXT."""
        batch, length = tokens_BL.shape
        if length > MAX_CONTEXT:
            raise ValueError(f"window of {length} tokens; at most {MAX_CONTEXT}")
        dtype = torch.bfloat16 if tokens_BL.device.type == "cuda" and past is None else torch.float32
        x_TE = self._inputs(tokens_BL, past, dtype)
        values_TK = self.layer_values(tokens_BL, dtype)
        window = Window((batch, length), self._rope(length, past, dtype), past)
        x0_TE, first_v, half = x_TE, None, self.config.layers // 2
        saved: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            if self.skip_gain is not None and 0 <= layer - half < half:
                x_TE = x_TE + self.skip_gain[layer - half].to(dtype) * saved.pop()
            x_TE, values = block(x_TE, x0_TE, window, values_TK[layer], first_v)
            if layer == 0 and self.config.value_residual:
                first_v = values
            if self.skip_gain is not None and layer < half:
                saved.append(x_TE)
        return rms_norm(x_TE)

    def _inputs(self, tokens_BL: Tensor, past: Past | None, dtype: torch.dtype) -> Tensor:
        """Normed embeddings (T, E), with what the extras take from the position before."""
        last_token_B, last_x_BE = (None, None) if past is None else (past.last_token_S, past.last_x_SE)
        x_TE = F.embedding(tokens_BL.flatten(), self.embedding).to(dtype)  # cast last: gradients of a row are summed in float32
        if self.bigram is not None:
            x_TE = x_TE + self.bigram(tokens_BL, last_token_B, dtype)
        x_TE = rms_norm(x_TE)
        if self.smear is not None:
            x_BLE = x_TE.view(*tokens_BL.shape, -1)
            x_TE = self.smear(x_BLE, last_x_BE).view(x_TE.shape)
            if last_x_BE is not None:
                last_x_BE.copy_(x_BLE[:, -1])
        return x_TE

    def _rope(self, length: int, past: Past | None, dtype: torch.dtype) -> Rope:
        """cos and signed sin of the tokens' positions."""
        if not self.config.rope_dims:
            return None
        cos, sin = (t[:length] if past is None else t.index_select(0, past.where_B) for t in (self.rope_cos, self.rope_sin))
        return cos[:, None].to(dtype), sin[:, None].to(dtype)

    def layer_values(self, tokens_BL: Tensor, dtype: torch.dtype) -> list[Tensor | None]:
        """What each layer may add to its values (T, K·N), from the tokens alone."""
        shared = self.values(tokens_BL, dtype) if self.values is not None else None
        first = self.config.layers - self.config.value_embed_layers
        own = {int(layer): table(tokens_BL, dtype) for layer, table in self.value_tables.items()}
        return [own.get(layer, shared if layer >= first else None) for layer in range(self.config.layers)]

    def logits(self, hidden_TE: Tensor, head_EV: Tensor | None = None) -> Tensor:
        """Softcapped logits (T, V) float32 of final activations; head_EV: the embedding's transpose, where one is kept in memory."""
        raw_TV = (hidden_TE @ (self.embedding.to(hidden_TE.dtype).t() if head_EV is None else head_EV)).float()
        return self.config.softcap * torch.tanh(raw_TV / self.config.softcap)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """tokens (B, L) int64 → softcapped logits (B, L, V) float32; position l sees tokens 0…l."""
        return self.logits(self.hidden(tokens_BL)).view(*tokens_BL.shape, -1)

    def logits_at(self, tokens_BL: Tensor, places_S: Tensor) -> Tensor:
        """Softcapped logits (S, V) float32 of some positions, row · L + column, and of no others."""
        return self.logits(self.hidden(tokens_BL)[places_S])

    def token_nll(self, inputs_BL: Tensor, targets_BL: Tensor) -> Tensor:
        """Nats of every target: (B, L) float32."""
        nll = F.cross_entropy(self.logits(self.hidden(inputs_BL)), targets_BL.flatten(), reduction="none")
        return nll.view(targets_BL.shape)

    def loss(self, inputs_BL: Tensor, targets_BL: Tensor) -> Tensor:
        """Mean nats of the targets, a float32 scalar."""
        hidden_TE = self.hidden(inputs_BL)
        if not torch.compiler.is_compiling():
            return F.cross_entropy(self.logits(hidden_TE), targets_BL.flatten())
        return capped_nll(hidden_TE @ self.embedding.to(hidden_TE.dtype).t(), targets_BL.flatten(), self.config.softcap).mean()

    def set_fake_bits(self, bits: int, step: float = 0.0) -> None:
        """Late quantisation-aware training: from now on every forward pass rounds block matrices by `fake_quantise`; 0 bits: no longer."""
        for projection in self.projections().values():
            projection.fake_bits, projection.fake_step = bits, step

    def freeze_learned(self) -> None:
        """Progressive freezing (PR #1301): the parts that the policy names stop training from now on."""
        for projection in self.projections().values():
            if projection.progressive:
                projection.weights.requires_grad_(False).zero_grad()  # which leaves None, and lets go of their memory


def capped_nll(raw_TV: Tensor, targets_T: Tensor, cap: float) -> Tensor:
    """Nats (T,) float32 of the targets under softcapped logits, spelt so that the compiler reads raw_TV once in each direction.

    The cap bounds every logit, so no maximum has to be found first; a tanh made of exp is cheaper than the library's; comparing with the
    target's place instead of gathering leaves one kernel for the gradient."""
    capped_TV = cap * (2 * torch.sigmoid(raw_TV.float() * (2 / cap)) - 1)
    is_target_TV = torch.arange(raw_TV.shape[1], device=raw_TV.device) == targets_T[:, None]
    target_T = torch.where(is_target_TV, capped_TV, 0.0).sum(dim=-1)
    return (capped_TV - cap).exp().sum(dim=-1).log() + cap - target_T
