"""GPTQ: rounds a matrix column by column and lets the columns to the right make up for the error made.

Calibrated on training text only: the caller passes training windows.  Frantar et al. (2022).
Legend: O fan-out, I fan-in, T calibration tokens.
"""

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.projection import Projection
from ngram import threads
from ngram.arrays import F32, F64
from ngram.compiled import njit

DAMPING = 0.01  # share of the mean diagonal added to it, as in the paper
BLOCK = 128  # columns whose updates are gathered before they reach the rest; a multiple of 4
ROWS = 16  # that a thread rounds at a time
MAX_FAN_IN = 4096  # above, second moments take hundreds of megabytes: rounded to nearest


def second_moments(model: HybridLM, windows: Iterable[Tensor]) -> dict[str, F64]:
    """Σ x xᵀ over the inputs of every stored block matrix, and of the tied embedding as the output matrix: {parameter name: (I, I)}.

    windows: int64 (B, L) of training text.  An adapter's a reads b's output, so its moments are b M bᵀ."""
    sums: dict[str, Tensor] = {}

    def add(name: str, _: Projection | None, inputs: tuple[Tensor]) -> None:
        x_TI = inputs[0].float()
        sums[name] = sums.get(name, 0.0) + x_TI.t() @ x_TI

    read = {name: projection for (_, name), projection in model.projections().items() if projection.fan_in <= MAX_FAN_IN}
    handles = [projection.register_forward_pre_hook(partial(add, name)) for name, projection in read.items()]
    try:
        with torch.no_grad():
            for window_BL in windows:
                add("embedding", None, (model.hidden(window_BL),))
    finally:
        for handle in handles:
            handle.remove()
    inputs = {name: total.double().cpu().numpy() for name, total in sums.items()}
    moments: dict[str, F64] = {"embedding": inputs.pop("embedding")} if inputs else {}
    for name, inner in inputs.items():
        moments |= {f"{name}.{kind}.{matrix}": inner for kind in ("weights", "b") for matrix in getattr(read[name], kind)}
        for matrix, b in read[name].b.items():
            b_RI = b.detach().double().cpu().numpy()
            moments[f"{name}.a.{matrix}"] = b_RI @ inner @ b_RI.T
    return moments


def error_factors(moments: Mapping[str, F64]) -> dict[str, F64]:
    """{name: `error_factor` of its moments}; matrices that share an array of moments share its factor."""
    distinct = {id(moment): moment for moment in moments.values()}
    count = torch.get_num_threads()
    torch.set_num_threads(1)  # with more, the last bits depend on how many, and small products wait for threads longer than they work
    try:
        factors = dict(zip(distinct, threads.each(error_factor, distinct.values()), strict=True))
    finally:
        torch.set_num_threads(count)
    return {name: factors[id(moment)] for name, moment in moments.items()}


def error_factor(moment_II: F64) -> F64:
    """Upper triangular U (I, I) with Uᵀ U = the inverse of the damped second moments: what an error in a column costs the columns to its right."""
    diagonal = np.diagonal(moment_II)
    damping = np.where(diagonal <= 0, 1.0, DAMPING * max(float(diagonal.mean()), 1e-12))
    inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(moment_II + np.diag(damping))))
    return np.ascontiguousarray(torch.linalg.cholesky(inverse_II, upper=True).numpy())


def round_columns(weight_OI: F32, scales_O: F32, top: int, factor_II: F64) -> npt.NDArray[np.int16]:
    """Integers (O, I) in ±top that nearly minimise |x Wᵀ - x (scales · integers)ᵀ|² over inputs with this `error_factor`.

    Rows do not depend on each other: threads share them, and no bit depends on how many there are."""
    left_OI, integers_OI = weight_OI.astype(np.float64), np.zeros(weight_OI.shape, dtype=np.int16)

    def work(begin: int) -> None:
        rows = slice(begin, begin + ROWS)
        _round_rows(left_OI[rows], scales_O[rows], top, factor_II, integers_OI[rows])

    threads.each(work, range(0, len(left_OI), ROWS))
    return integers_OI


@njit
def _round_rows(left_OI: F64, scales_O: F32, top: int, factor_II: F64, integers_OI: npt.NDArray[np.int16]) -> None:
    """Rounds columns in blocks: each error reaches its own block at once, the columns beyond when the block is done."""
    rows, fan_in = left_OI.shape
    errors_B = np.empty(BLOCK)
    for begin in range(0, fan_in, BLOCK):
        end = min(begin + BLOCK, fan_in)
        for r in range(rows):
            scale = np.float64(scales_O[r])
            for i in range(begin, end):
                nearest = np.rint(left_OI[r, i] / scale) if scale > 0 else 0.0
                integers_OI[r, i] = min(max(nearest, -top), top)
                error = (left_OI[r, i] - np.float32(integers_OI[r, i]) * scales_O[r]) / factor_II[i, i]
                errors_B[i - begin] = error
                for j in range(i + 1, end):
                    left_OI[r, j] -= error * factor_II[i, j]
            for b in range(0, end - begin if end < fan_in else 0, 4):  # four at a time: their sum stays in a register
                i, e0, e1, e2, e3 = begin + b, errors_B[b], errors_B[b + 1], errors_B[b + 2], errors_B[b + 3]
                for j in range(end, fan_in):
                    first = left_OI[r, j] - e0 * factor_II[i, j] - e1 * factor_II[i + 1, j]
                    left_OI[r, j] = first - e2 * factor_II[i + 2, j] - e3 * factor_II[i + 3, j]
