"""Muon for matrices, AdamW for embeddings and scalars, and the schedule by progress.

Both optimisers keep a flat `state_dict`: {name: tensor}, so that a checkpoint needs no pickle.  Nothing here knows
of ranks: the caller averages gradients first.  Parameters without a gradient (frozen mid-way) are left alone.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from hybrid.config import TrainConfig
from hybrid.model import parameter_kind

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic of Jordan et al. (2024), "Muon": fast growth of small singular values
PAD_BELOW = 128  # short sides up to this are padded to one common batch: launches cost more than their zeros


class Optimiser(Protocol):
    """What the training loop needs of an optimiser."""

    def step(self) -> None: ...
    def zero_grad(self) -> None: ...
    def reset(self) -> None: ...
    def set_progress(self, share: float) -> None: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


def newton_schulz(x_NSL: Tensor, iterations: int) -> Tensor:
    """Nearly the nearest semi-orthogonal matrices of a batch (N, short, long), in its dtype.  Zero rows or columns stay zero."""
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
        x = torch.cat([nn.functional.pad(wide[i], (0, longest - wide[i].shape[2])) for i in members])
        x = newton_schulz(x, iterations)
        for i, part in zip(members, x.split([wide[i].shape[0] for i in members]), strict=True):
            part = part[:, :, : wide[i].shape[2]]
            out[i] = part if updates[i].shape[1] <= updates[i].shape[2] else part.mT
    return out


class Muon:
    """Nesterov momentum, orthogonalised, times √max(1, rows/cols); matrices of one shape share every kernel.

    Same arithmetic as torch.optim.Muon (which loops over matrices).  Newton–Schulz runs in bf16 on CUDA, float32
    elsewhere.  lr multiplies the whole update, weight decay is decoupled.  Jordan et al. (2024)."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], config: TrainConfig) -> None:
        self.config, self.lr, self.momentum = config, config.matrix_lr, config.matrix_momentum
        shapes: dict[tuple[int, ...], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in named:
            shapes.setdefault(tuple(parameter.shape), []).append((name, parameter))
        self.groups = [([n for n, _ in members], [p for _, p in members]) for members in shapes.values()]
        self.buffers = [torch.zeros((len(ps), *ps[0].shape), dtype=ps[0].dtype, device=ps[0].device) for _, ps in self.groups]

    @torch.no_grad()
    def step(self) -> None:
        live: list[tuple[list[Tensor], float]] = []
        updates: list[Tensor] = []
        for (_, parameters), buffer in zip(self.groups, self.buffers, strict=True):
            keep = [i for i, p in enumerate(parameters) if p.grad is not None]
            if not keep:
                continue
            grad = torch.stack([g for p in parameters if (g := p.grad) is not None])
            part = buffer if len(keep) == len(parameters) else buffer[keep]
            part.lerp_(grad, 1 - self.momentum)
            if part is not buffer:
                buffer[keep] = part
            updates.append(grad.lerp_(part, self.momentum))
            tensors: list[Tensor] = [parameters[i] for i in keep]
            live.append((tensors, max(1.0, grad.shape[1] / grad.shape[2]) ** 0.5))
        if not live:
            return
        dtype = torch.bfloat16 if updates[0].is_cuda else torch.float32
        for (tensors, ratio), update in zip(live, orthogonalise(updates, self.config.muon_iterations, dtype), strict=True):
            if self.config.matrix_weight_decay:
                torch._foreach_mul_(tensors, 1 - self.lr * self.config.matrix_weight_decay)
            torch._foreach_add_(tensors, list(update.to(tensors[0].dtype).contiguous().unbind()), alpha=-self.lr * ratio)

    def zero_grad(self) -> None:
        for _, parameters in self.groups:
            for p in parameters:
                p.grad = None

    def reset(self) -> None:
        """Forgets everything, as if never stepped: for the warm-up before the clock starts."""
        for buffer in self.buffers:
            buffer.zero_()

    def set_progress(self, share: float) -> None:
        self.lr = self.config.matrix_lr * lr_factor(share, self.config)

    def state_dict(self) -> dict[str, Tensor]:
        pairs = zip(self.groups, self.buffers, strict=True)
        return {f"momentum.{name}": buffer[i].clone() for (names, _), buffer in pairs for i, name in enumerate(names)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Raises KeyError on a missing entry, RuntimeError on another shape."""
        for (names, _), buffer in zip(self.groups, self.buffers, strict=True):
            for i, name in enumerate(names):
                buffer[i].copy_(state[f"momentum.{name}"])


class AdamW:
    """torch.optim.AdamW (fused on CUDA) with one learning rate for embeddings, one for scalars, no weight decay."""

    def __init__(
        self, embeddings: Sequence[tuple[str, nn.Parameter]], scalars: Sequence[tuple[str, nn.Parameter]], config: TrainConfig
    ) -> None:
        self.config = config
        sets = [(members, lr) for members, lr in ((embeddings, config.embed_lr), (scalars, config.scalar_lr)) if members]
        self.names = [name for members, _ in sets for name, _ in members]
        self.base_lrs = [lr for _, lr in sets]
        groups = [{"params": [p for _, p in members], "lr": lr} for members, lr in sets]
        on_cuda = any(p.is_cuda for members, _ in sets for _, p in members)
        self.inner = torch.optim.AdamW(groups, betas=config.adam_betas, eps=1e-8, weight_decay=0.0, fused=on_cuda)

    def step(self) -> None:
        self.inner.step()

    def zero_grad(self) -> None:
        self.inner.zero_grad(set_to_none=True)

    def reset(self) -> None:
        self.inner.state.clear()

    def set_progress(self, share: float) -> None:
        for group, lr in zip(self.inner.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * lr_factor(share, self.config)

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.inner.param_groups for p in group["params"]]

    def state_dict(self) -> dict[str, Tensor]:
        pairs = zip(self.names, self._parameters(), strict=True)
        return {f"{key}.{name}": value.clone() for name, p in pairs for key, value in self.inner.state[p].items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """A parameter without entries (never stepped) starts afresh."""
        for name, p in zip(self.names, self._parameters(), strict=True):
            found = {key: state[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in state}
            self.inner.state[p] = {key: value.to(p.device if key != "step" or p.is_cuda else "cpu").clone() for key, value in found.items()}


def trained_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Named parameters that take gradients, in one fixed order: what a flat gradient bucket is made of."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def build(model: nn.Module, config: TrainConfig) -> list[Optimiser]:
    """Muon for the model's matrices (if any), AdamW for its embeddings and scalars."""
    kinds: dict[str, list[tuple[str, nn.Parameter]]] = {"matrix": [], "embedding": [], "scalar": []}
    for name, parameter in trained_parameters(model):
        kinds[parameter_kind(name, parameter.ndim)].append((name, parameter))
    optimisers: list[Optimiser] = [AdamW(kinds["embedding"], kinds["scalar"], config)]
    if kinds["matrix"]:
        optimisers.append(Muon(kinds["matrix"], config))
    return optimisers


def lr_factor(share: float, config: TrainConfig) -> float:
    """Multiplier of every learning rate at this share of the run: linear rise, flat, linear fall to zero."""
    rise = 1.0 if config.lr_warmup <= 0 else min(1.0, (share + 1e-3) / config.lr_warmup)
    fall = 1.0 if config.lr_decay <= 0 else min(1.0, max(0.0, 1 - share) / config.lr_decay)
    return min(rise, fall)


def set_progress(optimisers: Sequence[Optimiser], share: float) -> None:
    """Sets every learning rate for this share of the run, in [0, 1]; see `lr_factor`."""
    for optimiser in optimisers:
        optimiser.set_progress(share)


def flat_gradients(parameters: Sequence[Tensor]) -> Tensor:
    """One float32 buffer of which every parameter's .grad is a view: one all-reduce, one zeroing."""
    flat = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)
    return flat
