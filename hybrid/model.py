"""HybridLM: a GPT whose block matrices may be frozen random maps with adapters (REFERENCES §2 names the systems).

Legend: B windows, L positions, T = B·L, V vocabulary, E model width.  Parameters and optimiser state are float32;
activations are bf16 on CUDA and float32 elsewhere.  Frozen maps are bf16 buffers outside the state dict.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.adapters import Projection
from hybrid.attention import MAX_CONTEXT, rms_norm, rope_tables
from hybrid.blocks import Block, HashedBigram, SharedValues, SmearGate, is_frozen
from hybrid.config import ModelConfig
from hybrid.random_maps import MapMismatch, derive_seed

EMBEDDING_STD = 0.005  # of the challenge's baseline for tied embeddings: first logits near 0
PARTS = {name: index for index, name in enumerate(("q", "k", "v", "o", "gate", "up", "down"))}  # seeds depend on this order


class HybridLM(nn.Module):
    """Decoder-only transformer with tied embeddings and softcapped logits.

    Learned weights start from torch's global generator (call torch.manual_seed first), frozen maps from
    config.map_seed alone.  fill_maps False leaves the maps' bits undefined: enough to count parameters, instantly."""

    rope_cos: Tensor
    rope_sin: Tensor

    def __init__(self, config: ModelConfig, *, fill_maps: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.d_model).normal_(std=EMBEDDING_STD))
        self.blocks = nn.ModuleList([Block(config, layer) for layer in range(config.layers)])
        self.bigram = HashedBigram(config) if config.bigram_buckets else None
        self.values = SharedValues(config) if config.value_embed_dim else None
        self.smear = SmearGate(config.d_model) if config.smear_gate else None
        self.skip_gain = nn.Parameter(torch.ones(config.layers // 2, config.d_model)) if config.skips else None
        if config.rope_dims:
            tables = rope_tables(config.rope_dims, config.rope_base, config.d_model // config.heads)
            for name, table in zip(("rope_cos", "rope_sin"), tables, strict=True):
                self.register_buffer(name, table, persistent=False)
        for (layer, name), projection in self.projections().items():
            part = "attention" if ".attention." in name else "up" if name.endswith(".up") else "down"
            projection.form, projection.progressive = config.adapter_form, config.progressive and is_frozen(config, layer, part)
        if fill_maps:
            self._fill_maps()

    def _fill_maps(self) -> None:
        """Regenerates every frozen map, matrices in parallel: numpy lets go of the interpreter lock."""
        config = self.config
        jobs = [
            (projection, [derive_seed(config.map_seed, layer, PARTS[matrix]) for matrix in projection.names])
            for (layer, _), projection in self.projections().items()
            if projection.frozen
        ]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(lambda job: job[0].fill(config.basis, config.map_scale, job[1]), jobs))

    def projections(self) -> dict[tuple[int, str], Projection]:
        """Every group of block matrices by (layer, module name), in the order of the forward pass."""
        named = [(name, module) for name, module in self.named_modules() if isinstance(module, Projection)]
        return {(int(name.split(".")[1]), name): module for name, module in named}

    # ---- forward -------------------------------------------------------------------------------------------------

    def hidden(self, tokens_BL: Tensor) -> Tensor:
        """Normed final activations (T, E) of windows that all start at position 0.  Raises ValueError past MAX_CONTEXT."""
        batch, length = tokens_BL.shape
        if length > MAX_CONTEXT:
            raise ValueError(f"window of {length} tokens; at most {MAX_CONTEXT}")
        dtype = torch.bfloat16 if tokens_BL.device.type == "cuda" else torch.float32
        x_TE = F.embedding(tokens_BL.flatten(), self.embedding).to(dtype)  # cast last: gradients of a row are summed in float32
        if self.bigram is not None:
            x_TE = x_TE + self.bigram(tokens_BL, dtype)
        x_TE = rms_norm(x_TE)
        if self.smear is not None:
            x_TE = self.smear(x_TE.view(batch, length, -1)).view(x_TE.shape)
        value_TK = self.values(tokens_BL, dtype) if self.values is not None else None
        rope = None
        if self.config.rope_dims:
            rope = (self.rope_cos[:length, None].to(dtype), self.rope_sin[:length, None].to(dtype))
        x0_TE, first_v, half = x_TE, None, self.config.layers // 2
        saved: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            if self.skip_gain is not None and 0 <= layer - half < half:
                x_TE = x_TE + self.skip_gain[layer - half].to(dtype) * saved.pop()
            x_TE, values = block(x_TE, x0_TE, (batch, length), rope, value_TK, first_v)
            if layer == 0 and self.config.value_residual:
                first_v = values
            if self.skip_gain is not None and layer < half:
                saved.append(x_TE)
        return rms_norm(x_TE)

    def logits(self, hidden_TE: Tensor) -> Tensor:
        """Softcapped logits (T, V) float32 of final activations."""
        raw_TV = (hidden_TE @ self.embedding.to(hidden_TE.dtype).t()).float()
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
        return F.cross_entropy(self.logits(self.hidden(inputs_BL)), targets_BL.flatten())

    # ---- what is frozen ------------------------------------------------------------------------------------------

    def trained_parameters(self) -> int:
        """Entries that are stored: every parameter, also those that progressive freezing stopped."""
        return sum(p.numel() for p in self.parameters())

    def frozen_parameters(self) -> int:
        """Entries of the random maps, regenerated from seeds and stored nowhere."""
        return sum(p.map.numel() for p in self.projections().values() if p.frozen)

    def map_checksums(self) -> dict[str, str]:
        """Checksum of each frozen map as it lies in memory, by name such as `blocks.0.attention.input.q`."""
        return {f"{name}.{matrix}": digest for (_, name), p in self.projections().items() for matrix, digest in p.checksums().items()}

    def check_maps(self, stored: Mapping[str, str]) -> None:
        """Raises MapMismatch, naming the map, unless this machine regenerates the maps the model was trained with."""
        found = self.map_checksums()
        for name in sorted(set(found) | set(stored)):
            if found.get(name) != stored.get(name):
                raise MapMismatch(
                    f"{name}: this machine's {self.config.basis} map has checksum {found.get(name)}, the model was trained with "
                    f"{stored.get(name)}; use the numpy and BLAS of the training machine, or train with --basis hadamard"
                )

    def set_fake_bits(self, bits: int) -> None:
        """Late quantisation-aware training: block matrices are rounded to `bits` in every forward pass from now on; 0: no longer."""
        for projection in self.projections().values():
            projection.fake_bits = bits

    def freeze_learned(self) -> int:
        """Progressive freezing (PR #1301): the parts that the policy names stop training from now on; returns their entries."""
        count = 0
        for projection in self.projections().values():
            if projection.progressive:
                for weight in projection.weights.values():
                    weight.requires_grad_(False)
                    weight.grad = None
                    count += weight.numel()
        return count


def parameter_kind(name: str, ndim: int) -> str:
    """ "embedding", "matrix" or "scalar" (gains, gates, mixes): decides optimiser and bits of a parameter, by its name."""
    if name.endswith("embedding"):
        return "embedding"
    is_matrix = ndim == 2 and (name.endswith(".project") or any(part in name for part in (".weights.", ".a.", ".b.")))
    return "matrix" if is_matrix else "scalar"
