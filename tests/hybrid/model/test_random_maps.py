"""Frozen maps are functions of integers, with the bits pinned here."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.model import random_maps as rm
from hybrid.settings.config import BASES

# First 32 hex digits of SHA-256, made on 2026-11-21; a change here breaks every artifact ever written
GOLDEN = {
    ("hadamard", 48, 32): "ff1a0522b55f0da26db97492ba3769d7",
    ("hadamard", 32, 48): "671de1eeb6c00898545a68cea0d1c7e2",
    ("orthogonal", 48, 32): "7cdc15c03b732d2d1868f56ed0071b57",
    ("orthogonal", 32, 48): "d89cb255f3bce305c87a7be6898db1cb",
    ("gaussian", 48, 32): "478253d4b0329f538c12a0fac8a3d54c",
    ("uniform", 48, 32): "e8f58636dd9fd26e170bdea61f7b61a1",
    ("hadamard", 1536, 512): "3697de76234fb2f56def44699c059a1d",
    ("orthogonal", 256, 512): "8cd84543f7eadc3c1e4ead3042958e98",
}


def as_float(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def splitmix_by_hand(seed, count):
    """The generator as published: a 64-bit state that grows by the golden gamma, plain integers."""
    out, state = [], seed
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        out.append(z ^ (z >> 31))
    return out


def test_the_generator_gives_the_published_first_word_of_seed_0():
    assert int(rm.words(0, 1)[0]) == 0xE220A8397B1DCDAF


@given(st.integers(0, 2**64 - 1), st.integers(1, 20))
def test_the_generator_equals_plain_integer_arithmetic(seed, count):
    assert rm.words(seed, count).tolist() == splitmix_by_hand(seed, count)


@pytest.mark.parametrize(("basis", "fan_out", "fan_in"), GOLDEN)
def test_maps_keep_their_pinned_bits(basis, fan_out, fan_in):
    assert rm.map_checksum(rm.map_bits(basis, 1095, fan_out, fan_in)) == GOLDEN[basis, fan_out, fan_in]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_rounding_to_bf16_equals_torch(values):
    ours = rm.to_bf16_bits(np.array(values, dtype=np.float32))
    theirs = torch.tensor(values, dtype=torch.float32).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("order", [1, 2, 4, 12, 16, 24, 48, 96])
def test_the_hadamard_table_is_a_kronecker_product_with_orthogonal_columns(order):
    signs = np.where(rm.hadamard_signs(order, np.arange(order)), -1, 1)
    assert (signs.T @ signs == order * np.eye(order, dtype=int)).all()
    if order % 12:
        sylvester = np.ones((1, 1), dtype=int)
        while len(sylvester) < order:
            sylvester = np.kron([[1, 1], [1, -1]], sylvester)
        assert (signs == sylvester).all()


@pytest.mark.parametrize("shape", [(512, 512), (256, 512), (768, 768), (1536, 512), (512, 1536), (1536, 1536), (192, 192), (576, 192)])
def test_hadamard_maps_are_exactly_orthogonal_in_integers(shape):
    signs = as_float(rm.map_bits("hadamard", 7, *shape))
    tall = signs if shape[0] >= shape[1] else signs.T
    assert set(np.unique(signs)) == {-1.0, 1.0}
    order = rm.hadamard_order(max(shape))
    if order == max(shape):  # no column of the tall side was cut
        assert (tall.T @ tall == order * np.eye(min(shape))).all()  # sums of ±1 are exact in float64


def test_hidden_units_of_a_wide_hadamard_map_are_all_different():
    signs = as_float(rm.map_bits("hadamard", 7, 2048, 128))
    lined_up = signs * signs[:, :1]  # a row and its negative are the same direction
    assert len(np.unique(lined_up, axis=0)) > 2040


@pytest.mark.parametrize("shape", [(96, 64), (64, 96), (64, 64)])
def test_orthogonal_maps_are_orthogonal_up_to_bf16(shape):
    values = as_float(rm.map_bits("orthogonal", 3, *shape))
    singular = np.linalg.svd(values, compute_uv=False)
    assert np.abs(singular - 1).max() < 2**-7


def test_orthogonal_maps_come_from_the_integer_gaussians_with_a_positive_diagonal():
    gaussian = rm.integer_gaussian(5, 24 * 16).reshape(24, 16) / 65536
    q = as_float(rm.map_bits("orthogonal", 5, 24, 16))
    r = q.T @ gaussian
    assert (np.diagonal(r) > 0).all()
    assert np.abs(np.tril(r, -1)).max() < 0.1
    assert np.abs(q @ r - gaussian).max() < 0.1


def test_gaussians_are_sums_of_twelve_lanes_of_the_words():
    stream = b"".join(word.to_bytes(8, "little") for word in splitmix_by_hand(9, 30))
    lanes = [int.from_bytes(stream[i : i + 2], "little") for i in range(0, len(stream), 2)]
    by_hand = [sum(lanes[12 * i : 12 * i + 12]) - 393210 for i in range(10)]
    assert rm.integer_gaussian(9, 10).tolist() == by_hand


def test_gaussians_have_the_moments_of_a_normal_distribution():
    z = rm.integer_gaussian(11, 200_000) / 65536
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs((z**4).mean() - 2.9) < 0.1  # 3 - 6/5/12 for twelve uniforms


@pytest.mark.parametrize("basis", BASES)
def test_scaled_maps_keep_the_size_of_a_normed_vector_on_average(basis):
    scaled = as_float(rm.map_bits(basis, 2, 128, 128)) * rm.map_scale(basis, 128, 128)
    expected = 1 / 3 if basis == "uniform" else 1.0  # ±1/√in has a third of the variance
    assert abs((scaled**2).sum() / 128 - expected) < 0.03


@pytest.mark.parametrize("basis", BASES)
def test_seeds_give_unrelated_maps_and_the_same_seed_the_same_map(basis):
    one, again, other = (rm.map_bits(basis, seed, 64, 64) for seed in (1, 1, 2))
    assert (one == again).all()
    correlation = np.corrcoef(as_float(one).ravel(), as_float(other).ravel())[0, 1]
    assert abs(correlation) < 0.08


def test_derived_seeds_do_not_collide():
    seeds = {rm.derive_seed(s, layer, part) for s in range(3) for layer in range(64) for part in range(7)}
    assert len(seeds) == 3 * 64 * 7


@settings(max_examples=20)
@given(st.integers(0, 63), st.integers(0, 15))
def test_the_checksum_sees_every_bit_and_the_shape(entry, bit):
    bits = rm.map_bits("gaussian", 1, 8, 8)
    changed = bits.copy()
    changed.reshape(-1)[entry] ^= np.uint16(1 << bit)
    assert rm.map_checksum(changed) != rm.map_checksum(bits)
    assert rm.map_checksum(bits.reshape(4, 16)) != rm.map_checksum(bits)


def test_the_checksum_is_sha256_of_shape_and_little_endian_bits():
    bits = rm.map_bits("uniform", 1, 2, 3)
    raw = b"2x3:" + b"".join(int(b).to_bytes(2, "little") for b in bits.reshape(-1))
    assert rm.map_checksum(bits) == hashlib.sha256(raw).hexdigest()[:32]


def test_an_unknown_basis_is_refused():
    with pytest.raises(ValueError, match="unknown basis"):
        rm.map_bits("fourier", 1, 8, 8)
