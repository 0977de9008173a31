"""The systems of the family as configurations: each differs from the others in nothing but these values.

A comment gives the reason wherever the source leaves a setting open or this project departs from it.
"""

from typing import Any

from hybrid.config import CacheConfig, Config, ConfigError, ModelConfig, QuantConfig, TrainConfig
from hybrid.model import HybridLM


def _seed1095() -> Config:
    """PR #1095: every block matrix a frozen orthogonal map + LoRA of rank 64."""
    return Config(
        preset="seed1095",
        # map_scale 1 instead of the published 1/sqrt(columns): singular values near 1 trained better (REFERENCES §3)
        model=ModelConfig(
            layers=5,
            d_model=512,
            heads=8,
            kv_heads=4,
            mlp_mult=3.0,
            activation="leaky_relu2",
            rope_dims=16,
            basis="orthogonal",
            freeze="all",
        ),
        train=TrainConfig(matrix_lr=0.03, batch_tokens=131072, seq_len=2048),
    )


def _quickstart() -> Config:
    """seed1095's idea at a size that two processor cores train in a minute and a half."""
    return Config(
        preset="quickstart",
        # hadamard: 192 = 12·16 is a Hadamard order, so maps are exactly orthogonal and instant
        model=ModelConfig(
            layers=3,
            d_model=192,
            heads=3,
            kv_heads=3,
            mlp_mult=3.0,
            rope_dims=16,
            basis="hadamard",
            freeze="all",
            rank_attention=32,
            rank_mlp=32,
        ),
        train=TrainConfig(
            seconds=80.0, batch_tokens=4096, microbatch_tokens=4096, seq_len=256, matrix_lr=0.03, holdout_tokens=32768, warmup_steps=2
        ),
        cache=CacheConfig(),
        quant=QuantConfig(),
    )


_PRESETS = {"seed1095": _seed1095, "quickstart": _quickstart}


def names() -> list[str]:
    """All presets, the main system first."""
    return list(_PRESETS)


def get(name: str) -> Config:
    """The configuration of a preset.  Raises ConfigError on an unknown name."""
    if name not in _PRESETS:
        raise ConfigError(f"preset {name!r} is unknown; choose one of {', '.join(_PRESETS)}")
    return _PRESETS[name]()


def describe(config: Config) -> dict[str, Any]:
    """What `--describe` prints: parameter counts, layers and the whole configuration, as JSON values."""
    model = HybridLM(config.model, fill_maps=False)
    trained, frozen = model.trained_parameters(), model.frozen_parameters()
    return {
        "trained_parameters": trained,
        "frozen_parameters": frozen,
        "effective_parameters": trained + frozen,
        "layers": config.model.layers,
        "config": config.to_json(),
    }
