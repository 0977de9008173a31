"""What a model's parameters are: their kinds, how many are stored and how many regenerated, and whether the maps came out right."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.random_maps import MapMismatch
from hybrid.settings.config import Config


def parameter_kind(name: str, ndim: int) -> str:
    """ "embedding", "matrix" or "scalar" (gains, gates, mixes), told from a parameter's name: decides its optimiser and its bits."""
    if name.endswith("embedding"):
        return "embedding"
    is_matrix = ndim == 2 and (name.endswith(".project") or any(part in name for part in (".weights.", ".a.", ".b.")))
    return "matrix" if is_matrix else "scalar"


def count_stored(model: HybridLM) -> int:
    """Entries of all parameters, which an artifact stores; also of those that progressive freezing stopped."""
    return sum(p.numel() for p in model.parameters())


def count_frozen(model: HybridLM) -> int:
    """Entries of the frozen random maps, which are regenerated from seeds and stored nowhere."""
    return sum(p.map.numel() for p in model.projections().values() if p.frozen)


def describe(config: Config) -> dict[str, Any]:
    """What `--describe` prints: parameter counts, layers and the whole configuration, as JSON values.

    trained_parameters: stored entries; frozen_parameters: entries of random maps; effective_parameters: their sum."""
    model = HybridLM(config.model, fill_maps=False)
    stored, frozen = count_stored(model), count_frozen(model)
    counts = {"trained_parameters": stored, "frozen_parameters": frozen, "effective_parameters": stored + frozen}
    return {**counts, "layers": config.model.layers, "config": config.to_json()}


def map_checksums(model: HybridLM) -> dict[str, str]:
    """Checksum of each frozen map as it lies in memory, by name such as `blocks.0.attention.input.q`."""
    return {f"{name}.{matrix}": digest for (_, name), p in model.projections().items() for matrix, digest in p.checksums().items()}


def check_maps(model: HybridLM, stored: Mapping[str, str]) -> None:
    """Raises MapMismatch, naming the map, unless this machine regenerates the maps that the model was trained with."""
    found = map_checksums(model)
    for name in sorted({*found, *stored}):
        if found.get(name) != stored.get(name):
            raise MapMismatch(
                f"{name}: this machine's {model.config.basis} map has checksum {found.get(name)}, the model was trained with "
                f"{stored.get(name)}; use the torch of the training machine, or train with --basis hadamard"
            )


def flat_gradients(parameters: Sequence[Tensor]) -> Tensor:
    """One float32 buffer of which every parameter's .grad is a view: one all-reduce, one zeroing."""
    flat = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)
    return flat
