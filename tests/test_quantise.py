"""Weights to bytes and back; the codecs of the sections."""

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hybrid import codecs, quantise
from hybrid.config import ConfigError, ModelConfig, QuantConfig
from hybrid.gptq import round_columns, second_moments
from hybrid.model import HybridLM, parameter_kind
from ngram import threads

TINY = ModelConfig(
    vocab_size=48, layers=2, d_model=16, heads=2, kv_heads=1, rope_dims=4, basis="hadamard", rank_attention=4, rank_mlp=4,
    bigram_buckets=16, bigram_dim=4, value_embed_dim=4, value_embed_layers=1, skips=True, smear_gate=True,
)  # fmt: skip

rows = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-1e4, 1e4, width=32))


def state():
    torch.manual_seed(0)
    model = HybridLM(TINY)
    return {name: value + 0.05 * torch.randn_like(value) for name, value in model.state_dict().items()}


def through_json(meta):
    return json.loads(json.dumps(meta))


@settings(max_examples=60)
@given(rows, st.integers(4, 8))
def test_a_rows_error_is_at_most_that_of_unclipped_rounding(weight, bits):
    integers, stored, exponent = quantise.quantise_rows(weight, bits)
    top = 2 ** (bits - 1) - 1
    assert np.abs(integers).max(initial=0) <= top
    back = quantise.dequantise_rows(integers, stored, exponent).astype(np.float64)
    largest = np.abs(weight.astype(np.float64)).max(axis=1)  # a denormal divided by 7 is no float32
    plain = np.rint(weight / np.where(largest > 0, largest / top, 1)[:, None]) * (largest / top)[:, None]
    error, bound = (np.sqrt(np.square(weight - other).sum(1)) for other in (back, plain))
    # a float16 scale is off by 2^-11 of itself, or by 2^-38 of the tensor's largest scale when that is far larger
    slack = 1.1 * np.sqrt(np.square(weight, dtype=np.float64).sum(1)) * 2**-11 + np.abs(weight).max(initial=0) * weight.shape[1] * 2**-30
    assert (error <= bound * 1.0001 + slack).all()


def test_zero_rows_and_empty_matrices_survive():
    weight = np.zeros((3, 4), dtype=np.float32)
    weight[1] = [1, -2, 3, -4]
    back = quantise.dequantise_rows(*quantise.quantise_rows(weight, 8))
    assert not back[0].any()
    assert not back[2].any()
    assert np.abs(back - weight).max() < 4 / 127
    assert quantise.quantise_rows(np.zeros((0, 4), dtype=np.float32), 8)[0].shape == (0, 4)


def test_clipping_helps_rows_with_an_outlier_at_few_bits():
    weight = np.random.default_rng(0).normal(size=(1, 2000)).astype(np.float32)
    weight[0, 0] = 8
    integers, stored, exponent = quantise.quantise_rows(weight, 4)
    back = quantise.dequantise_rows(integers, stored, exponent)
    plain = np.rint(weight / (8 / 7)) * (8 / 7)
    assert np.square(weight - back).sum() < 0.8 * np.square(weight - plain).sum()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("embed_bits", [8, 9, 11, 15, 16])
def test_a_state_dict_comes_back_with_names_shapes_and_small_errors(bits, embed_bits):
    before = state()
    meta, sections = quantise.encode_state(before, QuantConfig(weight_bits=bits, embed_bits=embed_bits))
    after = quantise.decode_state(through_json(meta), sections)
    assert list(after) == list(before)
    for name, value in before.items():
        kind = parameter_kind(name, value.ndim)
        step = {"matrix": 2.0 ** (1 - bits), "embedding": 2.0 ** (1 - min(embed_bits, 11)), "scalar": 2**-10}[kind]
        assert after[name].shape == value.shape
        assert after[name].dtype == torch.float32
        rms = (after[name] - value).square().mean().sqrt()
        if kind == "embedding" and 11 < embed_bits < 16:
            step *= 1.5  # the half-float scale limits what more bits can do
        assert rms <= 0.35 * step * value.abs().max() + 1e-7, name  # 0.29 of a step is what rounding costs
    HybridLM(TINY).load_state_dict(after)


def test_encoding_is_a_fixed_point_after_one_round():
    first = quantise.decode_state(*quantise.encode_state(state(), QuantConfig()))
    second = quantise.decode_state(*quantise.encode_state(first, QuantConfig()))
    for name, value in first.items():
        assert (second[name] - value).abs().max() <= 2e-3 * value.abs().max(), name


def test_the_bytes_of_a_pinned_state_are_pinned():
    ramp = (torch.arange(60, dtype=torch.float32).view(5, 12) - 20) ** 3 / 1000
    tensors = {"embedding": ramp, "blocks.0.mlp.up.a.up": -ramp, "blocks.0.mlp_gain": torch.linspace(0, 2, 7)}
    meta, sections = quantise.encode_state(tensors, QuantConfig(weight_bits=6))
    text = json.dumps([meta, {name: data.hex() for name, data in sections.items()}])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "d1e9743c5aa3eb92"
    assert quantise.encode_state(tensors, QuantConfig(weight_bits=6)) == (meta, sections)


def test_a_scalar_beyond_half_floats_is_kept_in_float32():
    big = {"blocks.0.mlp_gain": torch.tensor([1e6, 1.0])}
    meta, sections = quantise.encode_state(big, QuantConfig())
    assert meta[0][2] == 32
    assert torch.equal(quantise.decode_state(meta, sections)["blocks.0.mlp_gain"], big["blocks.0.mlp_gain"])


def spoil(meta, sections, how):
    """Malformed variants of an encoded state."""
    name, shape, bits, exponent = meta[0]
    if how == "short section":
        return meta, sections | {"embeddings": sections["embeddings"][:-1]}
    if how == "long section":
        return meta, sections | {"scales": sections["scales"] + b"00"}
    if how == "missing section":
        return meta, {k: v for k, v in sections.items() if k != "scales"}
    if how == "huge shape":
        return [[name, [10**12, 10**12], bits, exponent], *meta[1:]], sections
    if how == "negative shape":
        return [[name, [-1, 4], bits, exponent], *meta[1:]], sections
    if how == "odd bits":
        return [[name, shape, 1, exponent], *meta[1:]], sections
    return [[name, shape, bits, 10**9], *meta[1:]], sections


@pytest.mark.parametrize(
    "how", ["short section", "long section", "missing section", "huge shape", "negative shape", "odd bits", "huge exponent"]
)
def test_malformed_states_are_refused_before_anything_is_allocated(how):
    meta, sections = quantise.encode_state(state(), QuantConfig())
    with pytest.raises((ValueError, KeyError)):
        quantise.decode_state(*spoil(through_json(meta), sections, how))


# ---- GPTQ ----------------------------------------------------------------------------------------------------------


def correlated(seed, fan_in=40, count=400):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 8)) @ rng.normal(size=(8, fan_in)) + 0.3 * rng.normal(size=(count, fan_in))


@pytest.mark.parametrize("fan_in", [40, 300])
def test_gptq_halves_the_output_error_of_rounding_on_correlated_inputs(fan_in):
    x = correlated(1, fan_in, 800)
    weight = np.random.default_rng(2).normal(size=(16, fan_in)).astype(np.float32)
    nearest, stored, exponent = quantise.quantise_rows(weight, 4)
    scales = quantise.load_scales(stored, exponent)
    better = round_columns(weight, scales, 7, x.T @ x)
    errors = [np.square(x @ (weight - q * scales[:, None]).T).sum() for q in (nearest, better)]
    assert np.abs(better).max() <= 7
    assert errors[1] < 0.5 * errors[0]


def test_gptq_with_independent_inputs_is_rounding_to_nearest():
    weight = np.random.default_rng(3).normal(size=(5, 200)).astype(np.float32)
    nearest, stored, exponent = quantise.quantise_rows(weight, 6)
    assert (round_columns(weight, quantise.load_scales(stored, exponent), 31, np.eye(200)) == nearest).all()


def test_gptq_ignores_inputs_that_never_fire():
    x = correlated(4)
    x[:, 7] = 0
    weight = np.random.default_rng(5).normal(size=(3, 40)).astype(np.float32)
    nearest, stored, exponent = quantise.quantise_rows(weight, 4)
    found = round_columns(weight, quantise.load_scales(stored, exponent), 7, x.T @ x)
    assert (found[:, 7] == nearest[:, 7]).all()


@pytest.mark.parametrize("freeze", ["all", "none"])
def test_second_moments_are_those_of_the_inputs_of_every_matrix(freeze):
    torch.manual_seed(0)
    model = HybridLM(ModelConfig(**(TINY.__dict__ | {"freeze": freeze})))
    windows = [torch.randint(0, 48, (2, 7)) for _ in range(2)]
    moments = second_moments(model, windows)
    stored = {name for name, value in model.state_dict().items() if any(part in name for part in (".a.", ".b.", ".weights."))}
    assert set(moments) == stored
    seen = []
    handle = model.blocks[1].mlp.down.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach().double()))
    for window in windows:
        model(window)
    handle.remove()
    x = torch.cat(seen).numpy()
    key = "blocks.1.mlp.down.b.down" if freeze == "all" else "blocks.1.mlp.down.weights.down"
    np.testing.assert_allclose(moments[key], x.T @ x, rtol=1e-4, atol=1e-5)
    if freeze == "all":
        low = x @ model.blocks[1].mlp.down.b["down"].detach().double().numpy().T
        np.testing.assert_allclose(moments["blocks.1.mlp.down.a.down"], low.T @ low, rtol=1e-4, atol=1e-5)
    coded = quantise.decode_state(*quantise.encode_state(model.state_dict(), QuantConfig(weight_bits=4), moments))
    model.load_state_dict(coded)


# ---- codecs --------------------------------------------------------------------------------------------------------

INSTALLED = [name for name in codecs.CODECS if codecs.is_installed(name)]


@pytest.mark.parametrize("codec", ["best", *INSTALLED])
@given(data=st.one_of(st.binary(max_size=300), st.binary(min_size=1, max_size=3).map(lambda b: b * 400)))
@settings(max_examples=15, deadline=None)
def test_codecs_give_the_bytes_back(codec, data):
    name, packed = codecs.compress(data, codec)
    assert codecs.decompress(packed, name, len(data)) == data
    if codec == "best":
        assert len(packed) <= len(data)
    else:
        assert name == codec


@pytest.mark.parametrize("codec", ["none", *INSTALLED])
@pytest.mark.parametrize("claimed", [0, 99, 101])
def test_a_wrong_size_is_refused_without_unpacking_more_than_claimed(codec, claimed):
    packed = b"x" * 100 if codec == "none" else codecs.compress(b"x" * 100, codec)[1]
    with pytest.raises(ValueError, match="promised"):
        codecs.decompress(packed, codec, claimed)


@pytest.mark.parametrize("codec", INSTALLED)
def test_garbage_is_a_value_error(codec):
    with pytest.raises(ValueError):
        codecs.decompress(b"\xff\xfenot compressed at all" * 3, codec, 10)


def test_best_is_never_worse_than_any_installed_codec():
    data = bytes(np.random.default_rng(0).normal(0, 20, 5000).astype(np.int8))
    sizes = [len(codecs.compress(data, name)[1]) for name in INSTALLED]
    assert len(codecs.compress(data, "best")[1]) == min([*sizes, len(data)])


def test_a_missing_codec_is_found_at_the_start_with_the_remedy(monkeypatch):
    monkeypatch.setattr(codecs, "is_installed", lambda name: name != "brotli")
    codecs.check_codecs(QuantConfig(codec="best"))
    with pytest.raises(ConfigError, match="pip install brotli"):
        codecs.check_codecs(QuantConfig(codec="brotli"))
    assert codecs.compress(b"abc" * 100, "best")[0] != "brotli"


def test_the_number_of_threads_changes_no_byte_of_a_section(monkeypatch):
    data = np.random.default_rng(0).integers(-20, 20, 20_000).astype(np.int8).tobytes()
    packed = []
    for count in (1, 4):
        monkeypatch.setattr(threads, "COUNT", count)
        packed.append(codecs.compress(data, "best"))
    assert packed[0] == packed[1] and len(packed[0][1]) == min(len(codecs.compress(data, name)[1]) for name in codecs.CODECS if codecs.is_installed(name))
