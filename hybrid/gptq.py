"""GPTQ: rounds a matrix column by column and lets the columns to the right make up for the error made.

Calibrated on training text only: the caller passes training windows.  Frantar et al. (2022).
Legend: O fan-out, I fan-in, T calibration tokens.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hybrid.adapters import Projection
from hybrid.model import HybridLM

DAMPING = 0.01  # share of the mean diagonal added to it, as in the paper
BLOCK = 128  # columns whose updates are gathered before they reach the rest
MAX_FAN_IN = 4096  # above, the second moments alone take hundreds of megabytes; such matrices are rounded to nearest

F64 = npt.NDArray[np.float64]


def second_moments(model: HybridLM, windows: Iterable[Tensor]) -> dict[str, F64]:
    """Σ x xᵀ over the inputs of every stored block matrix: {parameter name: (I, I)}.

    windows: int64 (B, L) of training text.  An adapter's a reads b's output, so its moments are b M bᵀ."""
    sums: dict[str, Tensor] = {}
    handles = []
    for (_, name), projection in model.projections().items():
        if projection.fan_in <= MAX_FAN_IN:

            def hook(module: Projection, args: tuple[Any, ...], key: str = name) -> None:
                x_TI = args[0].detach().float()
                sums[key] = sums.get(key, 0.0) + x_TI.t() @ x_TI

            handles.append(projection.register_forward_pre_hook(hook))
    try:
        with torch.no_grad():
            for window_BL in windows:
                model.hidden(window_BL)
    finally:
        for handle in handles:
            handle.remove()
    moments: dict[str, F64] = {}
    for (_, name), projection in model.projections().items():
        if name in sums:
            inner = sums[name].double().cpu().numpy()
            moments |= {f"{name}.{kind}.{matrix}": inner for kind in ("weights", "b") for matrix in getattr(projection, kind)}
            for matrix, b in projection.b.items():
                b_RI = b.detach().double().cpu().numpy()
                moments[f"{name}.a.{matrix}"] = b_RI @ inner @ b_RI.T
    return moments


def round_columns(weight_OI: npt.NDArray[np.float32], scales_O: npt.NDArray[np.float32], top: int, moment_II: F64) -> npt.NDArray[np.int16]:
    """Integers (O, I) in ±top that nearly minimise |x Wᵀ - x (scales · integers)ᵀ|² over inputs with these second moments."""
    fan_in = weight_OI.shape[1]
    dead = np.diagonal(moment_II) <= 0
    damped = moment_II + np.diag(np.where(dead, 1.0, DAMPING * max(float(np.diagonal(moment_II).mean()), 1e-12)))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T  # inverse = upperᵀ upper
    scale = np.where(scales_O > 0, scales_O.astype(np.float64), np.inf)
    left, integers = weight_OI.astype(np.float64), np.zeros(weight_OI.shape, dtype=np.int16)
    for begin in range(0, fan_in, BLOCK):
        end = min(begin + BLOCK, fan_in)
        errors = np.zeros((len(left), end - begin))
        for i in range(begin, end):
            integers[:, i] = np.clip(np.rint(left[:, i] / scale), -top, top)
            errors[:, i - begin] = (left[:, i] - integers[:, i] * scales_O) / upper[i, i]
            left[:, i + 1 : end] -= np.outer(errors[:, i - begin], upper[i, i + 1 : end])
        left[:, end:] -= errors @ upper[begin:end, end:]
    return integers
