"""Every setting of a run, once: frozen dataclasses whose fields carry unit and meaning, and the flags made from them.

A field's `help` ends with its unit where it has one.  Values are checked on construction (ConfigError).  A preset
(presets.py) is an instance; flags override single fields; the artifact stores the result as JSON.
"""

import argparse
import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

from ngram.errors import SeedgramError


class ConfigError(SeedgramError):
    """A setting is unknown, of the wrong type or out of range."""


def setting(default: Any, help: str, *, choices: Collection[str] = (), low: float = 0, high: float = math.inf, section: str = "") -> Any:
    """A dataclass field with its help text and the values it may take.  section: of --help, where it is not its group's."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "low": low, "high": high, "section": section})


BASES = ("orthogonal", "hadamard", "gaussian", "uniform")
FREEZE_POLICIES = {"all": ("attention", "up", "down"), "mlp": ("up", "down"), "mlp_up": ("up",), "none": ()}  # and the parts they name
LATER = {"window", "whole_layers"}  # missing in older JSON
# Sections of --help beside the four groups
FIRST = "settings to begin with"
PUBLISHED = "settings of published systems, only to reproduce them"
basic, published = partial(setting, section=FIRST), partial(setting, section=PUBLISHED)


class Checked:
    """Mixin: range and choice checks from the fields' metadata."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, meta = getattr(self, field.name), field.metadata
            if not meta:
                continue
            where = f"{type(self).__name__}.{field.name}"
            if meta["choices"] and value not in meta["choices"]:
                raise ConfigError(f"{where}: {value!r} is not a choice; write one of {', '.join(meta['choices'])}")
            for v in value if isinstance(value, tuple) else () if isinstance(value, str) else (value,):
                if not math.isfinite(v):
                    raise ConfigError(f"{where}: {v} is not a finite number; give one")
                if not meta["low"] <= v <= meta["high"]:
                    raise ConfigError(f"{where}: {value} is outside {meta['low']}…{'' if meta['high'] == math.inf else meta['high']}")


@dataclass(frozen=True)
class ModelConfig(Checked):
    vocab_size: int = basic(1024, "pieces of the tokenizer", low=2, high=65535)
    layers: int = basic(5, "transformer blocks", low=1, high=64)
    d_model: int = basic(512, "width of the residual stream", low=8, high=8192)
    heads: int = setting(8, "query heads", low=1)
    kv_heads: int = setting(4, "key/value heads; divides heads", low=1)
    window: int = setting(0, "tokens that attention looks back over, the position's own among them; 0: the whole context")
    whole_layers: int = setting(0, "layers, spread evenly, that see the whole context although there is a window")
    mlp_mult: float = setting(3.0, "hidden width of the MLP as a multiple of d_model", low=0.1, high=64)
    activation: str = setting("leaky_relu2", "non-linearity of the MLP", choices=("leaky_relu2", "relu2", "swiglu"))
    rope_dims: int = setting(16, "dimensions of each head that RoPE rotates; 0: none")
    rope_base: float = setting(10000.0, "RoPE base", low=1)
    softcap: float = setting(30.0, "tanh cap of the logits", low=1)
    query_gain: float = setting(1.5, "gain of normed queries at the start: how sharply fresh heads look")
    # frozen random maps
    basis: str = setting("orthogonal", "kind of the frozen random maps", choices=BASES)
    map_seed: int = setting(1095, "seed of the frozen random maps", high=(1 << 63) - 1)
    freeze: str = basic("all", "which block matrices are frozen random maps", choices=FREEZE_POLICIES)
    freeze_layers: int = published(-1, "only the first N layers follow the freeze policy; -1: all", low=-1)
    rank_attention: int = setting(64, "LoRA rank beside frozen attention maps; 0: no adapter", high=8192)
    rank_mlp: int = setting(64, "LoRA rank beside frozen MLP maps; 0: no adapter", high=8192)
    progressive: bool = published(False, "parts named by the freeze policy start learned and stop training at train.freeze_at; then they are stored")
    hidden_gate: bool = published(False, "learned gate per hidden unit of the MLP")
    feature_gain: bool = published(False, "learned gain per output feature of the frozen MLP up map")
    # extras
    bigram_buckets: int = setting(0, "rows of the hashed bigram embedding; 0: none, else at least 2", high=1 << 24)
    bigram_dim: int = setting(128, "width of the bigram embedding before projection", low=1, high=8192)
    value_embed_dim: int = published(0, "width of the shared value embedding; 0: none", high=8192)
    value_embed_layers: int = published(0, "last N layers that add the value embedding")
    value_tables: int = setting(0, "layers with a gated value embedding of their own at full width: every other one, from the last on")
    xsa_layers: int = published(0, "last N layers with exclusive self-attention")
    smear_gate: bool = setting(False, "gate that mixes the previous position's embedding in")
    value_residual: bool = published(False, "mix the first layer's values into later layers")
    skips: bool = setting(False, "U-net skips from the first half of the layers to the second")
    depth_norm_scale: bool = published(False, "scale each layer's normed input by 1/√(layer+1)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.heads or self.heads % self.kv_heads:
            raise ConfigError(f"ModelConfig: heads {self.heads} must divide d_model {self.d_model} and kv_heads {self.kv_heads} must divide heads")
        if self.whole_layers > self.layers * (self.window > 0):
            raise ConfigError(f"ModelConfig.whole_layers: {self.whole_layers}; at most {self.layers}, 0 without a window")
        if self.bigram_buckets == 1:
            raise ConfigError("ModelConfig.bigram_buckets: 1 row leaves none for pairs of tokens; take 0 for no bigrams, or at least 2")
        width = self.d_model // self.heads
        if self.rope_dims > width or self.rope_dims % 2 or (self.rope_dims and width % 2):
            raise ConfigError(f"ModelConfig.rope_dims: {self.rope_dims} must be even and at most the head's width {width}, also even")
        if self.value_tables and (self.value_embed_dim or 2 * self.value_tables > self.layers + 1):
            raise ConfigError(f"ModelConfig.value_tables: {self.layers} layers take at most {(self.layers + 1) // 2}, and no value_embed_dim beside them")


@dataclass(frozen=True)
class TrainConfig(Checked):
    seed: int = basic(1337, "seed of initialisation and data order", high=(1 << 63) - 1)
    seconds: float = basic(600.0, "wall-clock cap of training, compile and warm-up outside; s")
    steps: int = basic(0, "optimiser steps; 0: as many as fit in --seconds")
    batch_tokens: int = basic(131072, "target tokens an optimiser step, over all ranks; tokens", low=1)
    microbatch_tokens: int = basic(131072, "largest part of a step sent through the model at once, per rank; tokens", low=1)
    seq_len: int = basic(2048, "training context; tokens", low=1)
    holdout_tokens: int = setting(262144, "end of the training text kept for fitting the gate, neither trained on nor counted; tokens")
    warmup_steps: int = setting(20, "untimed warm-up steps before the clock starts, weights restored after")
    matrix_lr: float = setting(0.03, "Muon learning rate of matrices")
    muon_iterations: int = setting(5, "Newton-Schulz iterations of Muon", low=1, high=20)
    muon_row_decay: float = setting(0.0, "decay a step of the mean square by which Muon evens out the rows of an update; 0: not evened out", high=1)
    matrix_momentum: float = setting(0.95, "Muon momentum", high=1)
    momentum_rise: float = setting(0.0, "share of the run over which Muon's momentum rises from 0.85", high=1)
    matrix_weight_decay: float = setting(0.0, "decoupled weight decay of matrices where it goes the way of the update, falling to zero over the run")
    embed_lr: float = setting(0.05, "AdamW learning rate of embeddings")
    scalar_lr: float = setting(0.02, "AdamW learning rate of gains and gates")
    adam_betas: tuple[float, float] = setting((0.9, 0.95), "AdamW betas", high=1)
    lr_warmup: float = setting(0.01, "share of the run over which the learning rate rises", high=1)
    lr_decay: float = setting(0.5, "share of the run, at its end, over which the learning rate falls", high=1)
    lr_floor: float = setting(0.0, "share of the learning rate that is left at the end", high=1)
    qat_from: float = published(-1.0, "share of the run after which weights are rounded in the forward pass (late quantisation-aware training)", low=-1, high=1)
    freeze_at: float = published(-1.0, "progressive freezing: share of the run after which frozen parts stop training; -1: never", low=-1, high=1)
    compile: bool = setting(True, "torch.compile the model, each direction launched as one recorded graph (CUDA only)")
    checkpoint_seconds: float = setting(300.0, "time between checkpoints; 0: only on SIGTERM and Ctrl-C; s")
    log_every: int = setting(20, "steps between log lines", low=1)
    val_every: int = setting(0, "steps between validation losses; 0: only at the end")


@dataclass(frozen=True)
class CacheConfig(Checked):
    ngram_order: int = basic(7, "longest n-gram counted; 0: no cache", high=8)
    cap_bytes: int = basic(16_000_000, "code + artifact; bytes", low=1)
    online: bool = setting(True, "go on counting, score-first, at evaluation")
    chunk_tokens: int = setting(1024, "targets scored between two gate updates at evaluation; tokens", low=1)


@dataclass(frozen=True)
class QuantConfig(Checked):
    weight_bits: int = basic(8, "bits of a stored matrix entry; bits", low=4, high=8)
    embed_bits: int = setting(10, "bits of a stored embedding entry, 16: fp16; tied logits feel its rounding most; bits", low=4, high=16)
    weight_step: float = setting(
        0.0, "step between the values of a matrix entry, in root mean squares of its row, within --weight-bits; 0: the best of some ranges", high=4
    )
    embed_step: float = setting(0.0, "step of the tied embedding's entries, in its root mean square, within --embed-bits; 0: the best of some ranges", high=4)
    rare_step: float = setting(0.0, "with --embed-step, power of a token's rarity in the training text by which the step of its row grows", high=1)
    table_step: float = setting(0.0, "step of other embeddings' entries, in root mean squares of the whole table; 0: the best of some ranges", high=4)
    gptq_tokens: int = setting(0, "training tokens that calibrate the rounding of matrices and of the tied embedding (GPTQ); 0: nearest; tokens")


@dataclass(frozen=True)
class Config:
    preset: str = "custom"
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    cache: CacheConfig = CacheConfig()
    quant: QuantConfig = QuantConfig()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Config":
        """Raises ConfigError on unknown or missing fields, wrong types, values out of range."""
        return _read(cls(), data, "config")


def _read(default: Any, found: Any, where: str) -> Any:
    """What JSON says in place of `default`, in the same type."""
    if dataclasses.is_dataclass(default):
        fields = vars(default)
        if wrong := sorted((set(found) | LATER & set(fields)) ^ set(fields)) if isinstance(found, Mapping) else "no object":
            raise ConfigError(f"{where}: unknown or missing fields: {wrong}")
        kind: Any = type(default)
        return kind(**{name: _read(fields[name], value, f"{where}.{name}") for name, value in found.items()})
    if isinstance(default, tuple) and isinstance(found, (list, tuple)) and len(found) == len(default):
        return tuple(float(value) for value in found)
    if type(default) is float and type(found) is int:
        return float(found)
    if type(found) is not type(default):
        raise ConfigError(f"{where}: expected {type(default).__name__}, found {found!r}")
    return found


GROUPS = ("model", "train", "cache", "quant")

FIELDS: dict[str, Any] = {f"{group}.{field.name}": field for group in GROUPS for field in dataclasses.fields(getattr(Config, group))}
GROUP_OF = {field.name: key.partition(".")[0] for key, field in FIELDS.items()}  # no two groups share a field's name


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for every field of every group, with its default in the help; absent flags stay absent."""
    sections = {name: parser.add_argument_group(name) for name in (FIRST, *(f"{group} settings" for group in GROUPS), PUBLISHED)}
    for key, field in FIELDS.items():
        section = sections[field.metadata["section"] or f"{GROUP_OF[field.name]} settings"]
        add_flag(section, "--" + field.name.replace("_", "-"), field, default=argparse.SUPPRESS, dest=key)


def add_flag(parser: argparse._ActionsContainer, flag: str, field: Any, **more: Any) -> None:
    """The flag of one setting, with its default in the help."""
    kind = type(field.default)
    shape: dict[str, Any] = {"type": kind, "metavar": "N" if kind is int else "X"}
    if kind is bool:
        shape = {"action": argparse.BooleanOptionalAction}
    elif kind is tuple:
        shape |= {"type": float, "nargs": len(field.default)}
    elif choices := field.metadata["choices"]:
        shape = {"choices": choices}
    default = field.default if "default" in more else "%(default)s"
    parser.add_argument(flag, help=f"{field.metadata['help']} [{default}]", **{"default": field.default, **shape, **more})


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of `config` with {"group.field": value} replaced, checked again."""
    for group in GROUPS:
        changes = {k.split(".", 1)[1]: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k.startswith(group + ".")}
        config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **changes)})
    return config


def training_differences(one: Config, other: Config) -> list[str]:
    """Dotted names of the settings that differ and that training reads: all but those of packing and evaluation alone."""
    read = ["preset", *(key for key in FIELDS if key.startswith(("model", "train"))), "cache.ngram_order"]
    if max(one.train.qat_from, other.train.qat_from) >= 0:
        read += ["quant.weight_bits", "quant.weight_step"]
    return [key for key in read if attrgetter(key)(one) != attrgetter(key)(other)]
