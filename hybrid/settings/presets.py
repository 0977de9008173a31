"""The systems of the family: each sets what differs from the defaults (config.py), and nothing else.

Shapes are those of the pull requests named (public repository openai/parameter-golf).  docs/decisions.md says what all
share, where a source leaves a setting open and where this project departs from it.
"""

from typing import Any

from hybrid.settings.config import GROUP_OF, Config, ConfigError, override

# What #1095 and #1113 share with the challenge's record line
_RECORD_LINE = dict(depth_norm_scale=True, smear_gate=True, value_embed_dim=128, value_embed_layers=2)
# What gains most in 110 s on one GPU (LOG.md); sharp queries, a low cap
_SHORT_RUN = dict(muon_row_decay=0.95, matrix_weight_decay=0.1, momentum_rise=0.1, lr_floor=0.05)
_SHARP = dict(query_gain=4.0, softcap=15.0)
# #1301: 12 layers of SwiGLU, no adapter
_1301 = dict(layers=12, mlp_mult=1.25, activation="swiglu", rope_dims=64, freeze="mlp_up", rank_attention=0, rank_mlp=0, matrix_lr=0.02)

# By the names of the settings' fields, which are the flags' names too
_PRESETS: dict[str, dict[str, Any]] = {
    # The strongest network that 110 s on one H100 and 16,000,000 bytes allow: everything learned.  Its tokenizer is our own lossless one
    # of 8,192 pieces, trained on the training text (scripts/prepare_data.py --vocab-size 8192).  Half the usual batch.
    "best16mb": dict(
        _SHORT_RUN | _SHARP, vocab_size=8192, layers=9, heads=4, kv_heads=2, mlp_mult=2.0, rope_dims=64, freeze="none",
        skips=True, smear_gate=True, bigram_buckets=8192, bigram_dim=64, value_tables=2, batch_tokens=65536, microbatch_tokens=65536,
        weight_step=0.24, embed_bits=8, embed_step=0.04, rare_step=0.25, table_step=0.5, gptq_tokens=131072,
    ),
    # #1095: every block matrix a frozen orthogonal map + LoRA of rank 64; its extras as listed in its code.  Adapters want half the rate of
    # whole matrices (LOG.md).
    "seed1095": dict(_RECORD_LINE | _SHORT_RUN | _SHARP, window=128, whole_layers=2, bigram_buckets=3072, xsa_layers=5, matrix_lr=0.016, gptq_tokens=131072),
    # #1113: 11 layers, the same idea at rank 32, with value residual and U-net skips.
    "random1113": dict(
        _RECORD_LINE, layers=11, map_seed=1113, rank_attention=32, rank_mlp=32, bigram_buckets=2048, xsa_layers=11, value_residual=True, skips=True
    ),
    # #1295: 12 layers, d 768, uniform ±1/√in maps, rank 16.
    "random1295": dict(layers=12, d_model=768, heads=12, basis="uniform", map_seed=1295, rank_attention=16, rank_mlp=16, skips=True),
    # #1684: learned attention, MLPs 16 times as wide as the model from Gaussian maps, rank 16 and a gate per hidden unit.  Small
    # microbatches: the hidden layer is 8,192 wide.
    "basis1684": dict(
        vocab_size=4096, layers=11, mlp_mult=16.0, basis="gaussian", map_seed=1684, freeze="mlp", rank_mlp=16, hidden_gate=True,
        xsa_layers=11, depth_norm_scale=True, value_embed_dim=128, value_embed_layers=2, skips=True, matrix_lr=0.02, microbatch_tokens=32768,
    ),
    # #1301, random variant: frozen Gaussian gate and up, everything else learned.
    "selective1301": dict(_1301, basis="gaussian", map_seed=1301),
    # #1301, progressive: the same parts are trained for a third of the run, then frozen as learned, and so stored: 21 M entries.
    "progressive1301": dict(_1301, progressive=True, freeze_at=1 / 3, weight_bits=6),
    # #1228: 12 layers, the MLP up-projection of the first five a frozen orthogonal map with a learned gain per feature;
    # late QAT.
    "upfrozen1228": dict(
        _RECORD_LINE, layers=12, map_seed=1228, freeze="mlp_up", freeze_layers=5, feature_gain=True, rank_attention=0, rank_mlp=0,
        bigram_buckets=2048, xsa_layers=4, value_embed_layers=3, skips=True, matrix_lr=0.02, qat_from=0.85, weight_bits=5,
    ),
    # #2058: baseline block, 12 layers, learned attention, two Gaussian MLP maps with adapters of rank 160.
    "adapter2058": dict(
        layers=12, activation="relu2", rope_dims=64, basis="gaussian", map_seed=2058, freeze="mlp", rank_mlp=160, skips=True,
        matrix_lr=0.02, seq_len=1024, weight_bits=6,
    ),
    # #874: the plainest of the family: 5 layers, every matrix a Gaussian map with an adapter of rank 16.
    "gaussian874": dict(activation="relu2", rope_dims=64, basis="gaussian", map_seed=874, rank_attention=16, rank_mlp=16),
    # The yardstick: the challenge's naive baseline, nothing frozen, with windows.  Of 5, 6 and 7 bits, 5 leave the best blend (LOG.md).
    "dense9": dict(
        window=128, whole_layers=2, layers=9, mlp_mult=2.0, activation="relu2", rope_dims=64, freeze="none", skips=True, seq_len=1024, weight_bits=5,
        gptq_tokens=131072,
    ),
    # seed1095's idea at a size that two processor cores train in a minute and a half, chosen on the documentation corpus at equal
    # processor time (LOG.md).  128 is a Hadamard order and 384 = 12·32 too: its maps are instant.
    "quickstart": dict(
        layers=3, d_model=128, heads=2, kv_heads=2, basis="hadamard", bigram_buckets=2048, bigram_dim=64, smear_gate=True,
        seconds=80.0, batch_tokens=2048, microbatch_tokens=2048, seq_len=256, holdout_tokens=32768, warmup_steps=2,
    ),
}


def names() -> list[str]:
    """All presets, the strongest first."""
    return list(_PRESETS)


def get(name: str) -> Config:
    """The configuration of a preset.  Raises ConfigError on an unknown name."""
    if name not in _PRESETS:
        raise ConfigError(f"preset {name!r} is unknown; choose one of {', '.join(_PRESETS)}")
    return override(Config(name), {f"{GROUP_OF[field]}.{field}": value for field, value in _PRESETS[name].items()})
