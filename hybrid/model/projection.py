"""Block matrices: frozen random maps with low-rank adapters, or learned weights, behind one interface.

Legend: T rows of activations, I fan-in, O fan-out, R adapter rank; `w_OI` maps x_TI to y_TO = x_TI w_OIᵀ.

A frozen group computes  y = scale · x Mᵀ + x Bᵀ Aᵀ:  W = scale·M + A B is formed once a call and multiplied once, and the backward pass
makes gradients of x, A and B only, never of W.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid.model import random_maps

ALIGN = 8  # entries: 16 bytes of bf16, which attention and other kernels read at once


def normal(rows: int, columns: int, *, std: float) -> Tensor:
    """(rows, columns) float32 from torch's global generator; left empty on the meta device, where `normal_` would import torch's compiler."""
    weight = torch.empty(rows, columns)
    return weight if weight.is_meta else weight.normal_(std=std)


def uniform(fan_out: int, fan_in: int) -> nn.Parameter:
    """Learned matrix (O, I), uniform ±1/√I."""
    return nn.Parameter(torch.empty(fan_out, fan_in).uniform_(-(fan_in**-0.5), fan_in**-0.5))


class _MergedProduct(torch.autograd.Function):
    """x Wᵀ with W = scale·M + A B given; no gradient of W is ever formed, only those of x, A and B.

    The thin products ride along with the large ones: [y, x Bᵀ] = x [W; B]ᵀ forward, [dx, dy A] = dy [W, A] backward, filled up with
    zeros to a multiple of ALIGN."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, w_OI: Tensor, a_OR: Tensor, b_RI: Tensor) -> Tensor:
        fill = -(len(w_OI) + len(b_RI)) % ALIGN
        joint = torch.cat([w_OI, F.pad(b_RI, (0, 0, 0, fill)) if fill else b_RI])
        y_TO, low_TR, _ = (x_TI @ joint.t()).split([len(w_OI), len(b_RI), fill], dim=1)
        ctx.save_for_backward(x_TI, w_OI, a_OR, low_TR)
        return y_TO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, w_OI, a_OR, low_TR = ctx.saved_tensors
        dy_TO = grads[0]
        fan_in, rank = w_OI.shape[1], a_OR.shape[1]
        fill = -(fan_in + rank) % ALIGN
        joint = torch.cat([w_OI, F.pad(a_OR, (0, fill)) if fill else a_OR], dim=1)
        dx_TI, dlow_TR, _ = (dy_TO @ joint).split([fan_in, rank, fill], dim=1)
        return dx_TI, None, dy_TO.t() @ low_TR, dlow_TR.t() @ x_TI


def adapted_linear(x_TI: Tensor, map_OI: Tensor, scale: float, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """scale · x Mᵀ + the adapters' share (T, ΣO), in x's dtype, for matrices stacked along their outputs that read the same input.

    map_OI: (ΣO, I) frozen; a: one (O, R) each, b: one (R, I) each, or none at all.  Hu et al. (2021) for the adapters."""
    dtype = x_TI.dtype
    map_OI = map_OI.to(dtype)
    if not a:
        return scale * (x_TI @ map_OI.t())
    a_cast, b_cast = [m.to(dtype) for m in a], [m.to(dtype) for m in b]
    with torch.no_grad():
        w_OI = merged_weight(map_OI, scale, a_cast, b_cast)
    product: Tensor = _MergedProduct.apply(x_TI, w_OI, torch.block_diag(*a_cast), torch.cat(b_cast))  # type: ignore[no-untyped-call]
    return product


def merged_weight(map_OI: Tensor, scale: float, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """scale · M + A B, each adapter on its own rows of the stack: a new (ΣO, I) tensor in the map's dtype."""
    parts = torch.split(map_OI, [m.shape[0] for m in a])
    return torch.cat([torch.addmm(part, a_OR, b_RI, beta=scale) for part, a_OR, b_RI in zip(parts, a, b, strict=True)])


def fake_quantise(weight_OI: Tensor, bits: int, step: float = 0.0) -> Tensor:
    """The weight rounded as it will be stored, to `step` root mean squares of its row, or (0) as `best_scales` would without clipping.

    Its gradient passes straight through: for late quantisation-aware training.  Bengio, Léonard & Courville (2013)."""
    top, weight = 2 ** (bits - 1) - 1, weight_OI.detach()
    scale_O1 = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-30) / top
    if step:
        scale_O1 = torch.maximum(scale_O1, step * weight.square().mean(dim=1, keepdim=True).sqrt())
    return weight_OI + (torch.round(weight_OI / scale_O1) * scale_O1 - weight_OI).detach()


class Projection(nn.Module):
    """One or several block matrices that read the same input, computed as one product.

    Frozen: buffer `map` (ΣO, I) bf16, not persistent, filled from seeds, plus adapters a (O, R) = 0 and b (R, I) ~
    N(0, 1/I) of PR #1113.  Learned: `weights`, uniform ±1/√I, or zero where `zero` (output matrices).
    `progressive` marks learned weights that `HybridLM.freeze_learned` stops training mid-way (PR #1301)."""

    map: Tensor

    def __init__(self, names: Sequence[str], fan_outs: Sequence[int], fan_in: int, *, frozen: bool, rank: int = 0, zero: bool = False) -> None:
        super().__init__()
        self.names, self.fan_outs, self.fan_in = names, list(fan_outs), fan_in
        self.frozen, self.progressive, self.scale = frozen, False, 1.0
        self.fake_bits, self.fake_step = 0, 0.0  # of late quantisation-aware training; 0 bits: weights as they are
        self.weights, self.a, self.b = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for name, fan_out in zip(names, fan_outs, strict=True):
            if not frozen:
                self.weights[name] = nn.Parameter(torch.zeros(fan_out, fan_in)) if zero else uniform(fan_out, fan_in)
            elif rank:
                self.a[name] = nn.Parameter(torch.zeros(fan_out, rank))
                self.b[name] = nn.Parameter(normal(rank, fan_in, std=fan_in**-0.5))
        if frozen:
            self.register_buffer("map", torch.empty(sum(fan_outs), fan_in, dtype=torch.bfloat16), persistent=False)

    def fill(self, basis: str, seeds: Sequence[int]) -> None:
        """Regenerates the frozen map from one seed a matrix."""
        self.scale = random_maps.map_scale(basis, self.fan_outs[0], self.fan_in)  # of all: none has more rows than the first
        for part, seed in zip(torch.split(self.map, self.fan_outs), seeds, strict=True):
            bits = random_maps.map_bits(basis, seed, *part.shape)
            part.copy_(torch.from_numpy(bits.view("int16")).view(torch.bfloat16))

    def checksums(self) -> dict[str, str]:
        """Checksum of each frozen map as it lies in memory, by matrix name; empty when learned."""
        if not self.frozen:
            return {}
        parts = self.map.to("cpu", torch.bfloat16).view(torch.int16).split(self.fan_outs)
        return {name: random_maps.map_checksum(part.numpy().view("uint16")) for name, part in zip(self.names, parts, strict=True)}

    def _used(self, matrices: nn.ParameterDict) -> list[Tensor]:
        """The matrices as the forward pass sees them: rounded during late quantisation-aware training."""
        return [fake_quantise(m, self.fake_bits, self.fake_step) if self.fake_bits else m for m in matrices.values()]

    def forward(self, x_TI: Tensor, gain_O: Tensor | None = None) -> Tensor:
        """(T, I) → (T, ΣO), in x's dtype; gain_O (ΣO,) multiplies each output.

        A learned matrix takes the gain in, so that the gain's gradient needs weights instead of one more pass over activations."""
        if self.frozen:
            y_TO = adapted_linear(x_TI, self.map, self.scale, self._used(self.a), self._used(self.b))
            return y_TO if gain_O is None else y_TO * gain_O.to(y_TO.dtype)
        weights = self._used(self.weights)
        weight_OI = weights[0] if len(weights) == 1 else torch.cat(weights)
        if gain_O is not None:
            weight_OI = weight_OI * gain_O[:, None]
        return x_TI @ weight_OI.to(x_TI.dtype).t()
