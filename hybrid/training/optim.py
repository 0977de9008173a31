"""Muon for matrices, AdamW for embeddings and scalars, and the schedule by progress.

The `state_dict` of both is lists and dicts of tensors, so that a checkpoint needs no pickle.  Nothing here knows of ranks: the
caller averages gradients first.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hybrid.model.parameters import parameter_kind
from hybrid.settings.config import TrainConfig

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic of Jordan et al. (2024), "Muon": fast growth of small singular values
FIRST_MOMENTUM = 0.85  # from which --momentum-rise starts: early gradients turn quickly
PAD_BELOW = 128  # short sides up to this are padded to one common batch: launches cost more than their zeros


def newton_schulz(x_NSL: Tensor, iterations: int) -> Tensor:
    """Nearly the nearest semi-orthogonal matrices of a batch (N, short, long).  Zero rows or columns stay zero."""
    a, b, c = NS_COEFFICIENTS
    x = x_NSL / (x_NSL.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = torch.bmm(x, x.mT)
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return x


def orthogonalise(updates: Sequence[Tensor], iterations: int, dtype: torch.dtype) -> list[Tensor]:
    """Newton–Schulz on stacks (n, rows, cols) of different shapes, in as few batches as their shapes allow.

    Wide and tall share a batch (one is transposed), and thin ones are padded with zeros, which changes nothing."""
    wide = [(u if u.shape[1] <= u.shape[2] else u.mT).to(dtype) for u in updates]
    batches: dict[tuple[int, int], list[int]] = {}
    for i, w in enumerate(wide):
        batches.setdefault((w.shape[1], 0 if w.shape[1] <= PAD_BELOW else w.shape[2]), []).append(i)
    out: list[Tensor] = list(updates)
    for members in batches.values():
        longest = max(wide[i].shape[2] for i in members)
        x = newton_schulz(torch.cat([nn.functional.pad(wide[i], (0, longest - wide[i].shape[2])) for i in members]), iterations)
        for i, part in zip(members, x.split([len(wide[i]) for i in members]), strict=True):
            part = part[:, :, : wide[i].shape[2]]
            out[i] = part if updates[i].shape[1] <= updates[i].shape[2] else part.mT
    return out


class Muon:
    """Nesterov momentum, orthogonalised, times √max(1, rows/cols); matrices of one shape share every kernel.

    Same arithmetic as torch.optim.Muon (which loops over matrices).  Newton–Schulz runs in bf16 on CUDA, float32
    elsewhere.  lr multiplies the whole update.  Jordan et al. (2024).

    Optionally: the rows of an update are brought to one root mean square over time, its norm kept (NorMuon, Li et al. 2025);
    weight decay where it has the update's direction, so that it never works against the gradient (Chen et al. 2025)."""

    def __init__(self, parameters: Sequence[nn.Parameter], config: TrainConfig) -> None:
        self.config = config
        self.lr, self.momentum, self.weight_decay = config.matrix_lr, config.matrix_momentum, config.matrix_weight_decay
        shapes: dict[tuple[int, ...], list[Tensor]] = {}
        for parameter in parameters:
            shapes.setdefault(tuple(parameter.shape), []).append(parameter)
        self.groups = list(shapes.values())
        self.buffers = [group[0].new_zeros((len(group), *group[0].shape)) for group in self.groups]
        self.squares = [b.new_zeros((*b.shape[:2], 1)) for b in self.buffers] if config.muon_row_decay else []

    @torch.no_grad()
    def step(self) -> None:
        updates: list[Tensor] = []
        for group, buffer in zip(self.groups, self.buffers, strict=True):
            grad = torch.stack([p.grad for p in group])  # type: ignore[misc]
            buffer.lerp_(grad, 1 - self.momentum)
            updates.append(grad.lerp_(buffer, self.momentum))
        dtype = torch.bfloat16 if updates[0].is_cuda else torch.float32
        for i, update in enumerate(orthogonalise(updates, self.config.muon_iterations, dtype)):
            group, ratio = self.groups[i], max(1.0, update.shape[1] / update.shape[2]) ** 0.5
            update = update.to(group[0].dtype).contiguous()
            if self.squares:
                update = self._even_out(update, self.squares[i])
            if self.weight_decay:
                weights = torch.stack(group)
                update.add_(weights.mul_(weights * update > 0), alpha=self.weight_decay / ratio)
            torch._foreach_add_(group, list(update.unbind()), alpha=-self.lr * ratio)

    def _even_out(self, update: Tensor, squares: Tensor) -> Tensor:
        """The update (n, rows, cols) with each row over the root of its running mean square; the norm of each matrix stays."""
        mean = update.square().mean(dim=-1, keepdim=True)
        squares.lerp_(mean, 1 - self.config.muon_row_decay)
        inverse = squares.clamp_min(1e-20).rsqrt()
        kept = (mean.sum(dim=1, keepdim=True) / (mean * inverse.square()).sum(dim=1, keepdim=True).clamp_min(1e-20)).sqrt()
        return update.mul_(inverse * kept)

    def set_progress(self, share: float) -> None:
        config = self.config
        rise = min(1.0, share / config.momentum_rise) if config.momentum_rise else 1.0
        self.lr = config.matrix_lr * lr_factor(share, config)
        self.momentum = config.matrix_momentum - (1 - rise) * max(0.0, config.matrix_momentum - FIRST_MOMENTUM)
        self.weight_decay = config.matrix_weight_decay * (1 - share)

    def state_dict(self) -> list[Any]:
        return [tensor.clone() for tensor in (*self.buffers, *self.squares)]

    @torch.no_grad()
    def load_state_dict(self, state: list[Any]) -> None:
        """Raises ValueError on another number of tensors, RuntimeError on other shapes."""
        for mine, saved in zip((*self.buffers, *self.squares), state, strict=True):
            mine.copy_(saved)


class AdamW:
    """torch.optim.AdamW (fused on CUDA) with one learning rate for embeddings, one for scalars, no weight decay."""

    def __init__(self, embeddings: Sequence[nn.Parameter], scalars: Sequence[nn.Parameter], config: TrainConfig) -> None:
        self.config, self.parameters = config, [*embeddings, *scalars]
        rates = (embeddings, config.embed_lr), (scalars, config.scalar_lr)
        groups = [{"params": members, "lr": lr, "initial_lr": lr} for members, lr in rates if members]
        on_cuda = any(p.is_cuda for p in self.parameters)
        self.inner = torch.optim.AdamW(groups, betas=config.adam_betas, eps=1e-8, weight_decay=0.0, fused=on_cuda)
        self.step = self.inner.step

    def set_progress(self, share: float) -> None:
        for group in self.inner.param_groups:
            group["lr"] = group["initial_lr"] * lr_factor(share, self.config)

    def state_dict(self) -> list[Any]:
        """Of each parameter, nothing before its first step."""
        return [{key: value.clone() for key, value in self.inner.state[p].items()} for p in self.parameters]

    def load_state_dict(self, state: list[Any]) -> None:
        """Raises ValueError on another number of parameters, KeyError on other tensors, RuntimeError on other shapes."""
        for p, saved in zip(self.parameters, state, strict=True):
            shapes = {"step": torch.Size(), "exp_avg": p.shape, "exp_avg_sq": p.shape} if saved else {}
            self.inner.state[p] = {key: saved[key].view(shape).to(p.device).clone() for key, shape in shapes.items()}


Optimiser = Muon | AdamW


def build(model: nn.Module, config: TrainConfig) -> list[Optimiser]:
    """Muon for the model's matrices (if any), AdamW for its embeddings and scalars, as far as they take gradients."""
    kinds: dict[str, list[nn.Parameter]] = {"matrix": [], "embedding": [], "scalar": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kinds[parameter_kind(name, parameter.ndim)].append(parameter)
    optimisers: list[Optimiser] = [AdamW(kinds["embedding"], kinds["scalar"], config)]
    if kinds["matrix"]:
        optimisers.append(Muon(kinds["matrix"], config))
    return optimisers


def lr_factor(share: float, config: TrainConfig) -> float:
    """Multiplier of learning rates at this share of the run: linear rise, flat, linear fall to lr_floor."""
    rise = 1.0 if config.lr_warmup <= 0 else min(1.0, (share + 1e-3) / config.lr_warmup)
    fall = 1.0 if config.lr_decay <= 0 else min(1.0, max(0.0, 1 - share) / config.lr_decay)
    return min(rise, config.lr_floor + (1 - config.lr_floor) * fall)
