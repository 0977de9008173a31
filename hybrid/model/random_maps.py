"""Frozen random maps as functions of integers: the same bits on every machine, library version and device.

A map is a matrix of bf16 entries (held as uint16 bit patterns) times one float `scale` that the caller applies:

    basis        entries                                       scale
    hadamard     ±1, part of a signed, permuted Hadamard matrix   1/√order        singular values 1 when no columns are cut
    uniform      odd multiples of 2⁻¹⁶ in (-1, 1), rounded     1/√fan_in
    gaussian     sums of 12 uniform 16-bit integers, σ = 1     1/√fan_in
    orthogonal   sign-fixed QR of such Gaussians               1               singular values 1

Only `orthogonal` touches floating-point arithmetic whose last bit may differ (LAPACK's QR); its float64 result is
rounded to bf16, where the difference vanishes, and `map_checksum` tells when it does not.  Shapes: (fan_out, fan_in).
"""

import hashlib
import threading

import numpy as np
import numpy.typing as npt
import torch

from ngram.arrays import I64, U16, U64, Mask
from ngram.errors import SeedgramError
from ngram.splitmix import splitmix64

BF16_ONE = 0x3F80  # bit pattern of 1.0; a set top bit makes it -1.0
GAUSSIAN_LANES = 12  # Irwin–Hall: 12 uniform 16-bit integers have variance 2³² - 1, so σ = 2¹⁶ but for 1e-10
_all_cores = threading.Lock()  # one factorisation at a time: each takes them all


class MapMismatch(SeedgramError):
    """A random map came out with other bits than the ones the model was trained with."""


def words(seed: int, count: int) -> U64:
    """The first `count` words of the stream of `seed`: uint64 (count,)."""
    return splitmix64(seed, np.arange(count, dtype=np.uint64))


def _lanes(seed: int, count: int) -> U16:
    """The same words, cut into uint16 from their low ends on: (count,)."""
    return words(seed, -(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]


def derive_seed(map_seed: int, layer: int, part: int) -> int:
    """Seed of one matrix: word number 64·layer + part of the stream of the model's map seed."""
    return int(splitmix64(map_seed, np.array([64 * layer + part], dtype=np.uint64))[0])


def to_bf16_bits(values: npt.NDArray[np.floating]) -> U16:
    """Bit patterns of bf16, rounded to nearest even from float32: uint16, same shape."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def integer_gaussian(seed: int, count: int) -> I64:
    """`count` integers with mean 0 and standard deviation 2¹⁶ (Irwin–Hall of 12 lanes; kurtosis -0.1, |x| ≤ 6σ): int64."""
    total = np.einsum("nl->n", _lanes(seed, count * GAUSSIAN_LANES).reshape(count, -1), dtype=np.int64)
    return total - GAUSSIAN_LANES * 65535 // 2  # the mean, 393,210, is an integer: nothing is rounded


def hadamard_order(size: int) -> int:
    """Smallest order 2ᵏ or 12·2ᵏ that is at least `size`."""
    return min(order for k in range(64) for order in (1 << k, 12 << k) if order >= size)


def _paley12() -> Mask:
    """Where a Hadamard matrix of order 12 has -1, by Paley's construction from the squares modulo 11."""
    numbers = np.arange(11)
    minus = np.pad(~np.isin((numbers - numbers[:, None]) % 11, numbers**2 % 11), ((1, 0), (1, 0)))  # 0 is a square: plus on the diagonal
    minus[1:, 0] = True
    return minus


def hadamard_signs(order: int, columns: I64) -> U16:
    """Chosen columns of the Hadamard matrix H₁₂ ⊗ H₂⊗…⊗H₂ or H₂⊗…⊗H₂: uint16 (order, C), 0x8000 where the entry is -1.

    order: 2ᵏ or 12·2ᵏ.  Sylvester (1867), Paley (1933)."""
    power = order if order % 3 else order // 12
    table = np.zeros((1, len(columns)), dtype=np.uint16)
    while len(table) < power:  # as many rows again, with the sign of one more column bit
        table = np.concatenate([table, table ^ np.where(columns % power & len(table), 0x8000, 0).astype(np.uint16)])
    if order == power:
        return table
    high = _paley12()[:, columns // power].astype(np.uint16) << np.uint16(15)
    return (high[:, None] ^ table).reshape(order, -1)


def _hadamard(seed: int, tall: int, short: int) -> U16:
    """Rows and columns of a Hadamard matrix in random order with random signs, the shorter side cut from the columns."""
    order = hadamard_order(tall)
    row_seed, column_seed, sign_seed = (derive_seed(seed, 0, part) for part in range(3))
    table = hadamard_signs(order, np.argsort(words(column_seed, order), kind="stable")[:short])
    signs = np.unpackbits(_lanes(sign_seed, tall + short).view(np.uint8), count=tall + short, bitorder="little").astype(np.uint16) << np.uint16(15)
    table ^= signs[None, tall:] ^ np.uint16(BF16_ONE)
    return table[np.argsort(words(row_seed, order), kind="stable")[:tall]] ^ signs[:tall, None]


def _orthogonal(seed: int, tall: int, short: int) -> U16:
    """bf16 of the Q of a QR factorisation with positive diagonal of R: Haar-distributed columns."""
    entries = torch.from_numpy(integer_gaussian(seed, tall * short).reshape(tall, short) * 2.0**-16)
    with _all_cores:
        q, r = torch.linalg.qr(entries)
    return to_bf16_bits((q * torch.where(r.diagonal() < 0, -1.0, 1.0)).numpy())


def map_bits(basis: str, seed: int, fan_out: int, fan_in: int) -> U16:
    """bf16 bit patterns of one frozen map: uint16 (fan_out, fan_in).  Raises ValueError on an unknown basis."""
    count = fan_out * fan_in
    if basis in ("hadamard", "orthogonal"):
        make = _hadamard if basis == "hadamard" else _orthogonal
        bits = make(seed, max(fan_out, fan_in), min(fan_out, fan_in))
        return bits if fan_out >= fan_in else np.ascontiguousarray(bits.T)
    if basis not in ("uniform", "gaussian"):
        raise ValueError(f"unknown basis {basis!r}")
    numbers = integer_gaussian(seed, count) if basis == "gaussian" else _lanes(seed, count).astype(np.float32) * 2 - 65535  # exact: 17 bits
    return to_bf16_bits(numbers * 2.0**-16).reshape(fan_out, fan_in)


def map_scale(basis: str, fan_out: int, fan_in: int) -> float:
    """Factor that makes singular values 1 (orthogonal, hadamard) or entries as in ÷√fan-in initialisation (the others)."""
    return float({"orthogonal": 1, "hadamard": hadamard_order(max(fan_out, fan_in))}.get(basis, fan_in) ** -0.5)


def map_checksum(bits: U16) -> str:
    """32 hex digits of SHA-256 over the shape and the bf16 bit patterns in little-endian C order."""
    digest = hashlib.sha256(f"{bits.shape[0]}x{bits.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(bits.astype("<u2", copy=False)).data)
    return digest.hexdigest()[:32]
