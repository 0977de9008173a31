"""Rows of a matrix to integers and scales, as `quantise.encode_state` rounds a tensor."""

from hybrid.storing import quantise


def rounded(weight, scales, bits):
    """Integers (O, I), stored scales (O,) and their exponent, for given scales (O,)."""
    stored, exponent = quantise.store_scales(scales)
    return quantise.round_to_scales(weight, quantise.load_scales(stored, exponent), 2 ** (bits - 1) - 1), stored, exponent


def dequantise_rows(integers, stored, exponent):
    """The weights that a reader of the file gets, for at most 8 bits: float32 (O, I)."""
    sections = {"matrices": integers.astype("int8").tobytes(), "scales": stored.astype("<f2").tobytes()}
    return quantise.decode_state([["row.project", list(integers.shape), 8, exponent]], sections)["row.project"].numpy()


def quantise_rows(weight, bits):
    """The same for the best scales."""
    return rounded(weight, quantise.best_scales(weight, 2 ** (bits - 1) - 1), bits)
