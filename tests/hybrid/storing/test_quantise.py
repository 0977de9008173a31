"""Weights to bytes and back; the codecs of the sections."""

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import parameter_kind
from hybrid.settings.config import ModelConfig, QuantConfig
from hybrid.storing import byte_codecs, quantise
from hybrid.storing.gptq import error_factor, round_columns, second_moments
from ngram import threads
from tests.support.quantising import dequantise_rows, quantise_rows

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
    integers, stored, exponent = quantise_rows(weight, bits)
    top = 2 ** (bits - 1) - 1
    assert np.abs(integers).max(initial=0) <= top
    back = dequantise_rows(integers, stored, exponent).astype(np.float64)
    largest = np.abs(weight.astype(np.float64)).max(axis=1)  # a denormal divided by 7 is no float32
    plain = np.rint(weight / np.where(largest > 0, largest / top, 1)[:, None]) * (largest / top)[:, None]
    error, bound = (np.sqrt(np.square(weight - other).sum(1)) for other in (back, plain))
    # a float16 scale is off by 2^-11 of itself, or by 2^-38 of the tensor's largest scale when that is far larger
    slack = 1.1 * np.sqrt(np.square(weight, dtype=np.float64).sum(1)) * 2**-11 + np.abs(weight).max(initial=0) * weight.shape[1] * 2**-30
    assert (error <= bound * 1.0001 + slack).all()


def test_zero_rows_and_empty_matrices_survive():
    weight = np.zeros((3, 4), dtype=np.float32)
    weight[1] = [1, -2, 3, -4]
    back = dequantise_rows(*quantise_rows(weight, 8))
    assert not back[0].any()
    assert not back[2].any()
    assert np.abs(back - weight).max() < 4 / 127
    assert quantise_rows(np.zeros((0, 4), dtype=np.float32), 8)[0].shape == (0, 4)


def test_clipping_helps_rows_with_an_outlier_at_few_bits():
    weight = np.random.default_rng(0).normal(size=(1, 2000)).astype(np.float32)
    weight[0, 0] = 8
    integers, stored, exponent = quantise_rows(weight, 4)
    back = dequantise_rows(integers, stored, exponent)
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
    nearest, stored, exponent = quantise_rows(weight, 4)
    scales = quantise.load_scales(stored, exponent)
    better = round_columns(weight, scales, 7, error_factor(x.T @ x))
    errors = [np.square(x @ (weight - q * scales[:, None]).T).sum() for q in (nearest, better)]
    assert np.abs(better).max() <= 7
    assert errors[1] < 0.5 * errors[0]


def test_gptq_with_independent_inputs_is_rounding_to_nearest():
    weight = np.random.default_rng(3).normal(size=(5, 200)).astype(np.float32)
    nearest, stored, exponent = quantise_rows(weight, 6)
    assert (round_columns(weight, quantise.load_scales(stored, exponent), 31, error_factor(np.eye(200))) == nearest).all()


def test_gptq_ignores_inputs_that_never_fire():
    x = correlated(4)
    x[:, 7] = 0
    weight = np.random.default_rng(5).normal(size=(3, 40)).astype(np.float32)
    nearest, stored, exponent = quantise_rows(weight, 4)
    found = round_columns(weight, quantise.load_scales(stored, exponent), 7, error_factor(x.T @ x))
    assert (found[:, 7] == nearest[:, 7]).all()


def column_by_column(weight, scales, top, factor):
    """GPTQ as the paper states it, without blocks: every error goes to all columns on its right at once."""
    left, integers = weight.astype(np.float64), np.zeros(weight.shape, np.int16)
    for i in range(weight.shape[1]):
        integers[:, i] = np.clip(np.rint(left[:, i] / np.where(scales > 0, scales, np.inf)), -top, top)
        errors = (left[:, i] - integers[:, i] * scales) / factor[i, i]
        left[:, i + 1 :] -= np.outer(errors, factor[i, i + 1 :])
    return integers


@pytest.mark.parametrize("fan_in", [3, 127, 128, 130, 300])
def test_gptq_is_the_papers_rule_column_by_column(fan_in):
    x = correlated(6, fan_in, 400)
    weight = np.random.default_rng(7).normal(size=(37, fan_in)).astype(np.float32)
    weight[5] = 0
    _, stored, exponent = quantise_rows(weight, 5)
    scales, factor = quantise.load_scales(stored, exponent), error_factor(x.T @ x)
    np.testing.assert_allclose(factor.T @ factor @ (x.T @ x + np.eye(fan_in) * 0.01 * np.mean(np.square(x).sum(0))), np.eye(fan_in), atol=1e-6)
    assert (np.tril(factor, -1) == 0).all()
    assert (round_columns(weight, scales, 15, factor) == column_by_column(weight, scales, 15, factor)).all()


def test_the_bytes_do_not_depend_on_the_number_of_threads(monkeypatch):
    torch.manual_seed(1)
    model = HybridLM(ModelConfig(**(TINY.__dict__ | {"freeze": "none", "d_model": 96, "heads": 4})))
    moments = second_moments(model, [torch.randint(0, 48, (2, 7)) for _ in range(2)])
    coded, before = [], torch.get_num_threads()
    for count in (1, 2, 7):
        monkeypatch.setattr(threads, "COUNT", count)
        torch.set_num_threads(count)
        coded.append(quantise.encode_state(model.state_dict(), QuantConfig(weight_bits=5), moments))
        assert torch.get_num_threads() == count
    torch.set_num_threads(before)
    assert coded[0] == coded[1] == coded[2]
    assert coded[0] != quantise.encode_state(model.state_dict(), QuantConfig(weight_bits=5))


@pytest.mark.parametrize("freeze", ["all", "none"])
def test_second_moments_are_those_of_the_inputs_of_every_matrix(freeze):
    torch.manual_seed(0)
    model = HybridLM(ModelConfig(**(TINY.__dict__ | {"freeze": freeze})))
    windows = [torch.randint(0, 48, (2, 7)) for _ in range(2)]
    moments = second_moments(model, windows)
    stored = {name for name, value in model.state_dict().items() if any(part in name for part in (".a.", ".b.", ".weights."))}
    assert set(moments) == stored | {"embedding"}
    seen = []
    handle = model.blocks[1].mlp.down.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach().double()))
    for window in windows:
        model(window)
    handle.remove()
    x = torch.cat(seen).numpy()
    key = "blocks.1.mlp.down.b.down" if freeze == "all" else "blocks.1.mlp.down.weights.down"
    np.testing.assert_allclose(moments[key], x.T @ x, rtol=1e-4, atol=1e-5)
    if freeze == "all":
        low = x @ model.get_parameter("blocks.1.mlp.down.b.down").detach().double().numpy().T
        np.testing.assert_allclose(moments["blocks.1.mlp.down.a.down"], low.T @ low, rtol=1e-4, atol=1e-5)
    coded = quantise.decode_state(*quantise.encode_state(model.state_dict(), QuantConfig(weight_bits=4), moments))
    model.load_state_dict(coded)


def test_a_step_in_sizes_of_the_row_clips_nothing_and_rare_tokens_get_larger_ones():
    rng = np.random.default_rng(0)
    shapes = {"blocks.0.mlp.up.weights.up": (20, 64), "embedding": (50, 64), "bigram.embedding": (30, 8)}
    tensors = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    tensors["blocks.0.mlp.up.weights.up"][3, 5] = 40.0
    state = {name: torch.from_numpy(value.astype(np.float32)) for name, value in tensors.items()}
    counts = np.arange(50.0) ** 2
    settings = QuantConfig(weight_bits=8, weight_step=0.25, embed_bits=8, embed_step=0.1, rare_step=0.5, table_step=0.5)
    back = quantise.decode_state(*quantise.encode_state(state, settings, None, counts))
    size = state["blocks.0.mlp.up.weights.up"].square().mean(1).sqrt()
    off = {name: (back[name] - value).abs().amax(1) for name, value in state.items()}
    assert (off["blocks.0.mlp.up.weights.up"] <= torch.maximum(0.125 * size, state["blocks.0.mlp.up.weights.up"].abs().amax(1) / 252) * 1.001).all()
    assert off["embedding"][1] > 5 * off["embedding"][49]
    assert 0.2 < off["bigram.embedding"].max() <= 0.25 * tensors["bigram.embedding"].std() * 1.05


# ---- codecs --------------------------------------------------------------------------------------------------------


@given(data=st.one_of(st.binary(max_size=300), st.binary(min_size=1, max_size=3).map(lambda b: b * 400)))
@settings(max_examples=30, deadline=None)
def test_a_section_comes_back_and_is_never_larger_than_stored_as_it_is(data):
    name, packed = byte_codecs.compress(data)
    assert byte_codecs.decompress(packed, name, len(data)) == data
    assert len(packed) <= len(data) and byte_codecs.compress(data) == (name, packed)


@pytest.mark.parametrize("codec", byte_codecs.DECODERS)
@pytest.mark.parametrize("claimed", [0, 99, 101])
def test_a_wrong_size_is_refused_without_unpacking_more_than_claimed(codec, claimed):
    packed = b"x" * 100 if codec == "none" else byte_codecs.compress(b"x" * 100)[1]
    if codec == "brotli parts":
        packed = len(packed).to_bytes(4, "little") + packed
    with pytest.raises(ValueError, match="promised"):
        byte_codecs.decompress(packed, codec, claimed)


def test_a_large_section_is_packed_in_parts_with_the_same_bytes_on_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(byte_codecs, "PART_BYTES", 1000)
    data = np.random.default_rng(0).integers(-7, 8, 4321).astype(np.int8).tobytes()
    made = []
    for count in (1, 3):
        monkeypatch.setattr(threads, "COUNT", count)
        made.append(byte_codecs.compress(data))
    name, packed = made[0]
    assert made[0] == made[1] and name == "brotli parts"
    assert byte_codecs.decompress(packed, name, len(data)) == data
    for claimed in (0, 1, 1000, 4000, 4320, 4322, 5001, 1 << 40):
        with pytest.raises(ValueError):
            byte_codecs.decompress(packed, name, claimed)
    for damaged in (packed[:-1], packed + b"x", packed[:3], b"", b"\xff" * 20 + packed[20:], packed[4:8] + packed[:4] + packed[8:]):
        with pytest.raises(ValueError):
            byte_codecs.decompress(damaged, name, len(data))


def test_garbage_and_unknown_codecs_are_value_errors():
    with pytest.raises(ValueError, match="malformed brotli data"):
        byte_codecs.decompress(b"\xff\xfenot compressed at all" * 3, "brotli", 10)
    with pytest.raises(ValueError, match="'lzma' is none of none, brotli, brotli parts"):
        byte_codecs.decompress(b"", "lzma", 0)


def test_the_bits_that_weights_leave_unused_cost_next_to_nothing():
    integers = np.random.default_rng(0).integers(-15, 16, 20_000).astype(np.int8).tobytes()  # log2(31) = 4.95 bits
    assert len(byte_codecs.compress(integers)[1]) < 1.01 * 20_000 * np.log2(31) / 8
