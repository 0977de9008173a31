"""The cache's rows on a GPU, by one kernel of Triton, which PyTorch for CUDA brings along."""

import triton
import triton.language as tl
from torch import Tensor

PART = 1024  # entries of a row that one program writes


@triton.jit
def _spread(unigram, children, lists, shares, rows, size, step, LENGTHS: tl.constexpr, PART: tl.constexpr):
    target, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * PART + tl.arange(0, PART)
    row = tl.load(unigram + at, mask=at < size)
    for k in range(LENGTHS):
        one = tl.load(lists + k * step + target)
        row = row * tl.load(shares + one) + tl.load(children + one * size + at, mask=at < size)
    tl.store(rows + target * size + at, row, mask=at < size)


def spread(unigram_V: Tensor, children_LV: Tensor, lists_KS: Tensor, shares_L: Tensor) -> Tensor:
    """(S, V) float64: what RowParts describes (ngram/online/kernels.py), by the same multiplications and additions, none of them fused."""
    rows_SV = children_LV.new_empty(lists_KS.shape[1], children_LV.shape[1])
    grid, sizes = (len(rows_SV), triton.cdiv(rows_SV.shape[1], PART)), (rows_SV.shape[1], lists_KS.stride(0), len(lists_KS))
    _spread[grid](unigram_V, children_LV, lists_KS, shares_L, rows_SV, *sizes, PART, enable_fp_fusion=False)
    return rows_SV
