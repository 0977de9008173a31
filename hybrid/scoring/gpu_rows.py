"""The product's rows on a GPU, by kernels of Triton, which PyTorch for CUDA brings along.  No row depends on those beside it."""

import triton
import triton.language as tl
from torch import Tensor

PART = 1024  # entries of a row that one program writes


@triton.jit
def _spread(unigram, children, lists, shares, rows, size: tl.constexpr, step, LENGTHS: tl.constexpr, PART: tl.constexpr):
    target, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * PART + tl.arange(0, PART)
    row = tl.load(unigram + tl.load(lists + LENGTHS * step + target) * size + at, mask=at < size)
    for k in range(LENGTHS):
        one = tl.load(lists + k * step + target)
        row = row * tl.load(shares + one) + tl.load(children + one * size + at, mask=at < size)
    tl.store(rows + target * size + at, row, mask=at < size)


def spread(unigram_BV: Tensor, children_LV: Tensor, lists_KS: Tensor, shares_L: Tensor) -> Tensor:
    """(S, V) float64 from RowParts, by the operations of `fill_from_parts`, none of them fused."""
    rows_SV = children_LV.new_empty(lists_KS.shape[1], children_LV.shape[1])
    grid, sizes = (len(rows_SV), triton.cdiv(rows_SV.shape[1], PART)), (rows_SV.shape[1], lists_KS.stride(0), len(lists_KS) - 1)
    _spread[grid](unigram_BV, children_LV, lists_KS, shares_L, rows_SV, *sizes, PART, enable_fp_fusion=False)
    return rows_SV


@triton.jit
def _mixed(a, b, first, second, there, LEAST: tl.constexpr):
    return a * tl.maximum(tl.load(first, mask=there, other=0.0), LEAST) + b * tl.load(second, mask=there, other=0.0)


@triton.jit
def _mix(first, second, exponents, targets, out, size: tl.constexpr, LEAST: tl.constexpr, WHOLE: tl.constexpr, PART: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    a = tl.load(exponents + 2 * row).to(first.dtype.element_ty)
    b = tl.load(exponents + 2 * row + 1).to(first.dtype.element_ty)
    first += row * size
    second += row * size
    most, total = tl.full((), float("-inf"), tl.float64), tl.full((), 0.0, tl.float64)
    for begin in range(0, size, PART):
        at = begin + tl.arange(0, PART)
        mixed = _mixed(a, b, first + at, second + at, at < size, LEAST)
        mixed = tl.where(at < size, mixed.to(tl.float64), float("-inf"))
        higher = tl.maximum(most, tl.max(mixed, 0))
        total = total * tl.exp(most - higher) + tl.sum(tl.exp(mixed - higher), 0)
        most = higher
    whole = most + tl.log(total)
    if WHOLE:
        for begin in range(0, size, PART):
            at = begin + tl.arange(0, PART)
            mixed = _mixed(a, b, first + at, second + at, at < size, LEAST)
            tl.store(out + row * size + at, tl.exp(mixed.to(tl.float64) - whole), mask=at < size)
    else:
        at = tl.load(targets + row)
        mixed = _mixed(a, b, first + at, second + at, at < size, LEAST)
        tl.store(out + row, tl.exp(mixed.to(tl.float64) - whole))


def mix(first_SV: Tensor, second_SV: Tensor, exponents_S2: Tensor, targets_S: Tensor | None, least: float) -> Tensor:
    """(S,) float64 probabilities of the targets, or (S, V) of all tokens; least: of a logarithm."""
    whole, size = targets_S is None, first_SV.shape[1]
    out = exponents_S2.new_empty((len(first_SV), size) if whole else len(first_SV))
    given = first_SV.contiguous(), second_SV.contiguous(), exponents_S2, exponents_S2 if targets_S is None else targets_S
    _mix[(len(first_SV),)](*given, out, size, least, whole, PART, enable_fp_fusion=False)
    return out
