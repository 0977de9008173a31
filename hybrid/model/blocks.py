"""Transformer block, MLP and the input extras of the family.  Legend: T tokens, E model width, F hidden width."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.model.attention import Attention, Window, rms_norm
from hybrid.model.projection import Projection, normal, uniform
from hybrid.settings.config import FREEZE_POLICIES, ModelConfig


def is_frozen(config: ModelConfig, layer: int, part: str) -> bool:
    """Whether the freeze policy names this part ("attention", "up", "down") of this layer."""
    return part in FREEZE_POLICIES[config.freeze] and not 0 <= config.freeze_layers <= layer


def add(x_TE: Tensor, y_TE: Tensor) -> Tensor:
    """x + y.  The compiler makes one addmm of a product and a sum in one dtype, which copies x first; spelt through float32,
    which changes no bit, the sum joins the norm that follows."""
    return (x_TE.float() + y_TE.float()).to(x_TE.dtype) if torch.compiler.is_compiling() else x_TE + y_TE


class MLP(nn.Module):
    """Up, non-linearity, down, times a gain per feature; SwiGLU has a gate matrix beside up."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.activation, width, hidden = config.activation, config.d_model, round(config.mlp_mult * config.d_model)
        names = ("gate", "up") if config.activation == "swiglu" else ("up",)
        up, down = (is_frozen(config, layer, part) and not config.progressive for part in ("up", "down"))
        self.up = Projection(names, (hidden,) * len(names), width, frozen=up, rank=config.rank_mlp)
        self.down = Projection(("down",), (width,), hidden, frozen=down, rank=config.rank_mlp, zero=True)
        if config.feature_gain and up:
            self.feature_gain = nn.Parameter(torch.ones(hidden * len(names)))
        if config.hidden_gate:
            self.hidden_gate = nn.Parameter(torch.zeros(hidden))

    def forward(self, x_TE: Tensor, gain_E: Tensor) -> Tensor:
        h_TF = self.up(x_TE)
        if hasattr(self, "feature_gain"):
            h_TF = h_TF * self.feature_gain.to(h_TF.dtype)
        if self.activation == "swiglu":
            gate_TF, h_TF = h_TF.chunk(2, dim=-1)
            h_TF = F.silu(gate_TF) * h_TF
        else:
            h_TF = (F.relu(h_TF) if self.activation == "relu2" else F.leaky_relu(h_TF, 0.5)).square()
        if hasattr(self, "hidden_gate"):
            h_TF = h_TF * (1 + self.hidden_gate.to(h_TF.dtype))
        out: Tensor = self.down(h_TF, gain_E)
        return out


class Block(nn.Module):
    """Residual mix with the embedding, attention, MLP; gains per feature as in the challenge's baseline."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        width = config.d_model
        frozen = is_frozen(config, layer, "attention") and not config.progressive
        self.attention = Attention(config, layer, frozen=frozen)
        self.mlp = MLP(config, layer)
        mix = torch.ones(2, width)  # not by torch.stack, which imports torch's compiler on the meta device
        mix[1] = 0
        self.residual_mix = nn.Parameter(mix)
        self.attention_gain, self.mlp_gain = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.norm_scale = (layer + 1) ** -0.5 if config.depth_norm_scale else 1.0

    def norm(self, x_TE: Tensor) -> Tensor:
        normed = rms_norm(x_TE)
        return normed if self.norm_scale == 1.0 else normed * self.norm_scale

    def forward(self, x_TE: Tensor, x0_TE: Tensor, window: Window, value_TK: Tensor | None, first_v: Tensor | None) -> tuple[Tensor, Tensor]:
        mix = self.residual_mix.to(x_TE.dtype)
        x_TE = mix[0] * x_TE + mix[1] * x0_TE
        attended_TE, values = self.attention(self.norm(x_TE), window, value_TK, first_v, self.attention_gain)
        x_TE = add(x_TE, attended_TE)
        return add(x_TE, self.mlp(self.norm(x_TE), self.mlp_gain)), values


def previous(x_BL: Tensor, first_B: Tensor | None, fill: float) -> Tensor:
    """What stands one position before each: (B, L, …), first_B (B, …) before the first position, or `fill` where a window begins."""
    if first_B is not None:
        return torch.cat([first_B[:, None], x_BL[:, :-1]], dim=1)
    return F.pad(x_BL, (0, 0) * (x_BL.ndim - 2) + (1, 0), value=fill)[:, :-1]


class HashedBigram(nn.Module):
    """Embedding of the pair (previous token, token), hashed into a table, then projected to the model's width."""

    MULTIPLIERS = (36313, 27191)  # odd, as in the systems of REFERENCES §2; any two odd numbers do

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(config.bigram_buckets, config.bigram_dim))
        self.project = uniform(config.d_model, config.bigram_dim)
        self.gain = nn.Parameter(torch.full((1,), 0.05))

    def buckets(self, tokens_BL: Tensor, last_token_B: Tensor | None = None) -> Tensor:
        """Table row of each position: (B, L) int64; row 0 is kept for a window's first position, which has no predecessor.

        last_token_B: the tokens before, -1 where there is none; None: windows begin here."""
        before_BL = previous(tokens_BL, last_token_B, -1)
        mixed_BL = (self.MULTIPLIERS[0] * tokens_BL) ^ (self.MULTIPLIERS[1] * before_BL)
        return (1 + mixed_BL % (self.embedding.shape[0] - 1)) * (before_BL >= 0)

    def forward(self, tokens_BL: Tensor, last_token_B: Tensor | None, dtype: torch.dtype) -> Tensor:
        """What is added to the embeddings: (T, E)."""
        rows_TD = F.embedding(self.buckets(tokens_BL, last_token_B).flatten(), self.embedding).to(dtype)
        return (rows_TD @ self.project.to(dtype).t()) * self.gain.to(dtype)


class SharedValues(nn.Module):
    """One embedding of tokens that the last layers add to their values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        kv_width = config.kv_heads * (config.d_model // config.heads)
        self.embedding = nn.Parameter(normal(config.vocab_size, config.value_embed_dim, std=0.01))
        self.project = uniform(kv_width, config.value_embed_dim)

    def forward(self, tokens_BL: Tensor, dtype: torch.dtype) -> Tensor:
        return F.embedding(tokens_BL.flatten(), self.embedding).to(dtype) @ self.project.to(dtype).t()


class ValueTable(nn.Module):
    """One layer's value embedding of tokens at full width, for its attention to gate.  It starts at zero: rare tokens stay near it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(config.vocab_size, config.kv_heads * (config.d_model // config.heads)))

    def forward(self, tokens_BL: Tensor, dtype: torch.dtype) -> Tensor:
        return F.embedding(tokens_BL.flatten(), self.embedding).to(dtype)


class SmearGate(nn.Module):
    """Mixes the previous position's embedding into each position's, by a learned share per feature (starts at one half)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(width))

    def forward(self, x_BLE: Tensor, last_x_BE: Tensor | None = None) -> Tensor:
        """last_x_BE: embeddings at the position before; None: windows begin here, with zeros before them."""
        share_E = torch.sigmoid(self.gate).to(x_BLE.dtype)
        return (1 - share_E) * x_BLE + share_E * previous(x_BLE, last_x_BE, 0)
