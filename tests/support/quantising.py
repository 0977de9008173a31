"""Rows of a matrix to integers and scales, as `quantise.encode_state` rounds a tensor."""

from hybrid.storing import quantise


def rounded(weight, scales, bits):
    """Integers (O, I), stored scales (O,) and their exponent, for given scales (O,)."""
    stored, exponent = quantise.store_scales(scales)
    return quantise.round_to_scales(weight, quantise.load_scales(stored, exponent), 2 ** (bits - 1) - 1), stored, exponent


def quantise_rows(weight, bits):
    """The same for the best scales."""
    return rounded(weight, quantise.best_scales(weight, 2 ** (bits - 1) - 1), bits)
