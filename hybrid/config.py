"""Every setting of a run, once: frozen dataclasses whose fields carry unit and meaning, and the flags made from them.

A field's `help` ends with its unit where it has one.  Values are checked on construction (ConfigError).  A preset
(presets.py) is an instance; flags override single fields; the artifact stores the result as JSON.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from ngram.cli import OneLineParser as OneLineParser
from ngram.errors import SeedgramError


class ConfigError(SeedgramError):
    """A setting is unknown, of the wrong type or out of range."""


def setting(default: Any, help: str, *, choices: Sequence[str] | None = None, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with its help text and the values it may take."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "low": low, "high": high})


BASES = ("orthogonal", "hadamard", "gaussian", "uniform", "rademacher")
FREEZE_POLICIES = ("all", "mlp", "mlp_up", "attention", "none")
ADAPTER_FORMS = ("merged", "split", "dense")
ACTIVATIONS = ("leaky_relu2", "relu2", "swiglu")


class Checked:
    """Mixin: range and choice checks from the fields' metadata."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, meta = getattr(self, field.name), field.metadata
            where = f"{type(self).__name__}.{field.name}"
            if meta.get("choices") and value not in meta["choices"]:
                raise ConfigError(f"{where}: {value!r} is none of {', '.join(meta['choices'])}")
            values = value if isinstance(value, tuple) else (value,)
            for v in values:
                if isinstance(v, float) and not math.isfinite(v):
                    raise ConfigError(f"{where}: {v} is no setting; give a number")
                if meta.get("low") is not None and v < meta["low"] or meta.get("high") is not None and v > meta["high"]:
                    raise ConfigError(f"{where}: {value} is outside {meta['low']}…{'' if meta['high'] is None else meta['high']}")


@dataclass(frozen=True)
class ModelConfig(Checked):
    vocab_size: int = setting(1024, "pieces of the tokenizer", low=2, high=65535)
    layers: int = setting(5, "transformer blocks", low=1, high=64)
    d_model: int = setting(512, "width of the residual stream", low=8, high=8192)
    heads: int = setting(8, "query heads", low=1)
    kv_heads: int = setting(4, "key/value heads; divides heads", low=1)
    mlp_mult: float = setting(3.0, "hidden width of the MLP as a multiple of d_model", low=0.1, high=64)
    activation: str = setting("leaky_relu2", "non-linearity of the MLP", choices=ACTIVATIONS)
    rope_dims: int = setting(16, "dimensions of each head that RoPE rotates; 0: none", low=0)
    rope_base: float = setting(10000.0, "RoPE base", low=1)
    softcap: float = setting(30.0, "tanh cap of the logits", low=1)
    # frozen random maps
    basis: str = setting("orthogonal", "kind of the frozen random maps", choices=BASES)
    map_scale: float = setting(1.0, "multiplies every frozen map; 1 keeps singular values near 1", low=1e-6, high=1e3)
    map_seed: int = setting(1095, "seed of the frozen random maps", low=0)
    freeze: str = setting("all", "which block matrices are frozen random maps", choices=FREEZE_POLICIES)
    freeze_layers: int = setting(-1, "only the first N layers follow the freeze policy; -1: all", low=-1)
    rank_attention: int = setting(64, "LoRA rank beside frozen attention maps; 0: no adapter", low=0)
    rank_mlp: int = setting(64, "LoRA rank beside frozen MLP maps; 0: no adapter", low=0)
    adapter_form: str = setting(
        "merged", "how map and adapter are multiplied; same result up to rounding, other speed", choices=ADAPTER_FORMS
    )
    progressive: bool = setting(
        False, "parts named by the freeze policy start learned and stop training at train.freeze_at; then they are stored"
    )
    hidden_gate: bool = setting(False, "learned gate per hidden unit of the MLP")
    feature_gain: bool = setting(False, "learned gain per output feature of the frozen MLP up map")
    # extras
    bigram_buckets: int = setting(0, "rows of the hashed bigram embedding; 0: none", low=0)
    bigram_dim: int = setting(128, "width of the bigram embedding before projection", low=1)
    value_embed_dim: int = setting(0, "width of the shared value embedding; 0: none", low=0)
    value_embed_layers: int = setting(0, "last N layers that add the value embedding", low=0)
    xsa_layers: int = setting(0, "last N layers with exclusive self-attention", low=0)
    smear_gate: bool = setting(False, "gate that mixes the previous position's embedding in")
    value_residual: bool = setting(False, "mix the first layer's values into later layers")
    skips: bool = setting(False, "U-net skips from the first half of the layers to the second")
    depth_norm_scale: bool = setting(False, "scale each layer's normed input by 1/√(layer+1)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.heads or self.heads % self.kv_heads:
            raise ConfigError(
                f"ModelConfig: heads {self.heads} must divide d_model {self.d_model} and kv_heads {self.kv_heads} must divide heads"
            )
        width = self.d_model // self.heads
        if self.rope_dims > width or self.rope_dims % 2 or (self.rope_dims and width % 2):
            raise ConfigError(f"ModelConfig.rope_dims: {self.rope_dims} must be even and at most the head's width {width}, also even")


@dataclass(frozen=True)
class TrainConfig(Checked):
    seed: int = setting(1337, "seed of initialisation and data order", low=0)
    seconds: float = setting(600.0, "wall-clock cap of training, compile and warm-up outside; s", low=0)
    steps: int = setting(0, "optimiser steps; 0: as many as fit in --seconds", low=0)
    batch_tokens: int = setting(131072, "target tokens an optimiser step, over all ranks; tokens", low=1)
    microbatch_tokens: int = setting(131072, "largest part of a step sent through the model at once, per rank; tokens", low=1)
    seq_len: int = setting(2048, "training context; tokens", low=1)
    holdout_tokens: int = setting(
        262144, "end of the training text kept for fitting the gate, neither trained on nor counted; tokens", low=0
    )
    warmup_steps: int = setting(20, "untimed warm-up steps before the clock starts, weights restored after", low=0)
    matrix_lr: float = setting(0.03, "Muon learning rate of matrices", low=0)
    muon_iterations: int = setting(5, "Newton-Schulz iterations of Muon", low=1, high=20)
    matrix_momentum: float = setting(0.95, "Muon momentum", low=0, high=1)
    matrix_weight_decay: float = setting(0.0, "decoupled weight decay of matrices", low=0)
    embed_lr: float = setting(0.05, "AdamW learning rate of embeddings", low=0)
    scalar_lr: float = setting(0.02, "AdamW learning rate of gains and gates", low=0)
    adam_betas: tuple[float, float] = setting((0.9, 0.95), "AdamW betas", low=0, high=1)
    lr_warmup: float = setting(0.01, "share of the run over which the learning rate rises", low=0, high=1)
    lr_decay: float = setting(0.5, "share of the run, at its end, over which the learning rate falls to zero", low=0, high=1)
    clip_norm: float = setting(0.0, "gradient norm clip; 0: none", low=0)
    qat_from: float = setting(
        -1.0, "late quantisation-aware training: share of the run after which weights are rounded in the forward pass", low=-1, high=1
    )
    swa_every: int = setting(
        0, "steps between the snapshots of stochastic weight averaging, over the decay of the learning rate; 0: none", low=0
    )
    ema_decay: float = setting(0.0, "decay a step of the weight average that is packed; 0: none", low=0, high=1)
    freeze_at: float = setting(
        -1.0, "progressive freezing: share of the run after which frozen parts stop training; -1: never", low=-1, high=1
    )
    compile: bool = setting(True, "torch.compile the model (CUDA only)")
    checkpoint_seconds: float = setting(0.0, "time between checkpoints; 0: only on SIGTERM; s", low=0)
    log_every: int = setting(20, "steps between log lines", low=1)
    val_every: int = setting(0, "steps between validation losses; 0: only at the end", low=0)


@dataclass(frozen=True)
class CacheConfig(Checked):
    ngram_order: int = setting(7, "longest n-gram counted; 0: no cache", low=0, high=8)
    cap_bytes: int = setting(16_000_000, "code + artifact; bytes", low=1)
    online: bool = setting(True, "go on counting, score-first, at evaluation")
    chunk_tokens: int = setting(1024, "targets scored between two gate updates at evaluation; tokens", low=1)


@dataclass(frozen=True)
class QuantConfig(Checked):
    weight_bits: int = setting(8, "bits of a stored matrix entry; bits", low=4, high=8)
    embed_bits: int = setting(10, "bits of a stored embedding entry, 16: fp16; tied logits feel its rounding most; bits", low=4, high=16)
    gptq_tokens: int = setting(0, "training tokens that calibrate the rounding of matrices (GPTQ); 0: nearest; tokens", low=0)
    codec: str = setting("best", "entropy coder of each section", choices=("best", "zlib", "lzma", "zstd", "brotli"))


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    preset: str = "custom"
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    cache: CacheConfig = CacheConfig()
    quant: QuantConfig = QuantConfig()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Config":
        """Raises ConfigError on unknown or missing fields, wrong types and values out of range."""
        return _from_json(cls, data, "config")


def _from_json(cls: Any, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected an object")
    hints = get_type_hints(cls)
    if set(data) != set(hints):
        raise ConfigError(f"{where}: unknown or missing fields {sorted(set(data) ^ set(hints))}")
    values = {}
    for name, kind in hints.items():
        value = data[name]
        if dataclasses.is_dataclass(kind):
            values[name] = _from_json(kind, value, f"{where}.{name}")
        elif get_origin(kind) is tuple:
            if not isinstance(value, (list, tuple)) or len(value) != len(get_args(kind)):
                raise ConfigError(f"{where}.{name}: expected {len(get_args(kind))} numbers")
            values[name] = tuple(float(v) for v in value)
        elif kind is float and type(value) is int:
            values[name] = float(value)
        elif type(value) is not kind:
            raise ConfigError(f"{where}.{name}: expected {kind.__name__}, found {value!r}")
        else:
            values[name] = value
    return cls(**values)


GROUPS = ("model", "train", "cache", "quant")
PACKING_GROUPS = ("cache", "quant")  # read by packing and evaluation, two fields apart (training_differences)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for every field of every group, with its default and range in the help; absent flags stay absent."""
    for group in GROUPS:
        section = parser.add_argument_group(f"{group} settings (default of the `custom` preset in brackets)")
        cls = get_type_hints(Config)[group]
        for field in dataclasses.fields(cls):
            kind, meta = get_type_hints(cls)[field.name], field.metadata
            options: dict[str, Any] = {
                "default": argparse.SUPPRESS,
                "dest": f"{group}.{field.name}",
                "help": f"{meta['help']} [{field.default}]",
            }
            if kind is bool:
                options["action"] = argparse.BooleanOptionalAction
            elif get_origin(kind) is tuple:
                options |= {"type": float, "nargs": len(get_args(kind)), "metavar": "X"}
            else:
                options |= (
                    {"type": kind, "choices": meta["choices"]}
                    if meta["choices"]
                    else {"type": kind, "metavar": "N" if kind is int else "X"}
                )
            section.add_argument("--" + field.name.replace("_", "-"), **options)


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of `config` with {"group.field": value} replaced, checked again."""
    for group in GROUPS:
        changes = {k.split(".", 1)[1]: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k.startswith(group + ".")}
        if changes:
            config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **changes)})
    return config


def training_differences(one: Config, other: Config) -> list[str]:
    """Dotted names of the settings that differ and that training reads: all but those of packing and evaluation alone.

    Counting reads cache.ngram_order, late quantisation-aware training quant.weight_bits."""
    rounded = max(one.train.qat_from, other.train.qat_from) >= 0
    read = {"cache.ngram_order", *(("quant.weight_bits",) if rounded else ())}
    names = ["preset"] if one.preset != other.preset else []
    for group in GROUPS:
        here, there = getattr(one, group), getattr(other, group)
        for field in dataclasses.fields(here):
            name = f"{group}.{field.name}"
            if getattr(here, field.name) != getattr(there, field.name) and (group not in PACKING_GROUPS or name in read):
                names.append(name)
    return names


def canonical_json(data: Any) -> str:
    """The one spelling used in files and digests."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"))
