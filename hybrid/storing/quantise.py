"""Weights ↔ bytes (docs/formats.md): integers per row for matrices and embeddings, half floats for the rest.

Plain numpy with a fixed order of summation: the same weights give the same bytes.
"""

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hybrid.model.parameters import parameter_kind
from hybrid.settings.config import QuantConfig
from hybrid.storing.gptq import error_factors, round_columns
from ngram import threads
from ngram.arrays import F32, F64

CLIPS = (1.0, 0.975, 0.95, 0.925, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)  # candidates: share of the row's largest entry
ROWS = 64  # whose clipping a thread searches at a time: what they need stays in its cache
SCALE_EXPONENT = 14  # the tensor's largest scale is moved to 2¹³…2¹⁴, below float16's 65,504

F16 = npt.NDArray[np.float16]
Integers = npt.NDArray[np.int16]
SECTIONS = {"matrix": "matrices", "embedding": "embeddings", "scalar": "vectors"}  # of each kind of parameter


def store_scales(scales: F64) -> tuple[F16, int]:
    """float16 scales and the power of two they were multiplied by."""
    top = float(scales.max(initial=0.0))
    exponent = SCALE_EXPONENT - int(np.frexp(top)[1]) if top > 0 else 0
    return np.ldexp(scales, exponent).astype(np.float16), exponent


def load_scales(stored: F16, exponent: int) -> F32:
    """float32 (rows,) scales."""
    return np.ldexp(stored.astype(np.float64), -exponent).astype(np.float32)


def best_scales(weight_OI: F32, top: int) -> F64:
    """(O,) scales that minimise each row's squared error over CLIPS, with integers in ±top."""
    parts = threads.each(lambda begin: _best_scales(weight_OI[begin : begin + ROWS], top), range(0, len(weight_OI), ROWS))
    return np.concatenate([np.zeros(0), *parts])


def _best_scales(weight_OI: F32, top: int) -> F64:
    scales_CO, errors_CO = np.outer(np.divide(CLIPS, top), np.abs(weight_OI).max(axis=1, initial=0.0)), []
    for scale_O1 in scales_CO[:, :, None]:
        integers = np.clip(np.rint(weight_OI / np.maximum(scale_O1, 1e-300)), -top, top)
        errors_CO.append(np.square(weight_OI - integers * scale_O1).sum(axis=1))
    return scales_CO[np.argmin(errors_CO, axis=0), np.arange(len(weight_OI))]


def round_to_scales(weight_OI: F32, scales_O: F32, top: int) -> Integers:
    """Nearest integers for given scales; rows of scale 0 become 0."""
    safe = np.where(scales_O > 0, scales_O, np.float32(np.inf))
    return np.clip(np.rint(weight_OI / safe[:, None]), -top, top).astype(np.int16)


def _scales(name: str, values: F32, top: int, config: QuantConfig, counts_V: F64 | None) -> F64:
    """(O,) scales by the settings of the tensor's kind: the best, or given steps, with which nothing is clipped (docs/decisions.md)."""
    kind, is_tied = parameter_kind(name, values.ndim), name == "embedding"
    step = config.weight_step if kind == "matrix" else config.embed_step if is_tied else config.table_step
    if not step:
        return best_scales(values, top)
    size_O = np.sqrt(np.square(values, dtype=np.float64).mean(axis=1))
    step_O = step * (size_O if kind == "matrix" else np.full(len(values), np.sqrt(np.square(size_O).mean())))
    if is_tied and counts_V is not None:
        step_O *= ((counts_V + 1) / (counts_V + 1).mean()) ** -config.rare_step
    return np.maximum(step_O, np.abs(values).max(axis=1, initial=0.0) / (top - 0.5))


def encode_state(
    state: Mapping[str, Tensor], config: QuantConfig, moments: Mapping[str, F64] | None = None, counts_V: F64 | None = None
) -> tuple[list[Any], dict[str, bytes]]:
    """Meta data (JSON values) and raw sections of a state dict: matrices, embeddings, remainders, scales, vectors.

    moments: second moments of the inputs (gptq.second_moments); tensors named there are rounded by GPTQ, others to nearest.
    counts_V: of the tokens in training text, for --rare-step.
    meta: one [name, shape, bits, exponent] a tensor, in the state dict's order; bits 4…15 integers, 16 or 32 floats."""
    factors, meta = error_factors(moments or {}), list[Any]()
    parts = {section: bytearray() for section in ("matrices", "embeddings", "remainders", "scales", "vectors")}
    for name, tensor in state.items():
        values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
        kind = parameter_kind(name, values.ndim)
        bits = {"matrix": config.weight_bits, "embedding": config.embed_bits, "scalar": 16}[kind]
        section, exponent = SECTIONS[kind], 0
        if bits == 16:
            bits = 16 if np.abs(values).max(initial=0.0) <= np.finfo(np.float16).max else 32
            parts[section] += values.astype("<f2" if bits == 16 else "<f4").tobytes()
        else:
            top, spare = 2 ** (bits - 1) - 1, max(0, bits - 8)
            stored, exponent = store_scales(_scales(name, values, top, config, counts_V))
            scales = load_scales(stored, exponent)
            integers = round_columns(values, scales, top, factors[name]) if name in factors else round_to_scales(values, scales, top)
            parts[section] += (integers >> spare).astype(np.int8).tobytes()
            if spare:
                parts["remainders"] += (integers & (2**spare - 1)).astype(np.uint8).tobytes()
            parts["scales"] += stored.astype("<f2").tobytes()
        meta.append([name, list(values.shape), bits, exponent])
    return meta, {name: bytes(data) for name, data in parts.items()}


def decode_state(meta: list[Any], sections: Mapping[str, bytes]) -> dict[str, Tensor]:
    """The state dict as float32 tensors.  Raises ValueError, KeyError or TypeError on malformed input, before allocating for it."""
    left, state = {name: io.BytesIO(data) for name, data in sections.items()}, {}

    def take(section: str, dtype: str, count: int) -> npt.NDArray[Any]:
        size = count * np.dtype(dtype).itemsize
        if len(data := left[section].read(min(size, len(sections[section])))) != size:
            raise ValueError(f"section {section} is too short")
        return np.frombuffer(data, dtype)

    for name, shape, bits, exponent in meta:
        if type(name) is not str or any(type(n) is not int or n < 0 for n in (*shape, bits)) or type(exponent) is not int or abs(exponent) > 300:
            raise ValueError(f"{name}: shape {shape}, bits {bits}, exponent {exponent}")
        section, count = SECTIONS[parameter_kind(name, len(shape))], math.prod(shape)
        if bits in (16, 32):
            with np.errstate(invalid="ignore"):  # what is no number is refused below
                values = take(section, "<f2" if bits == 16 else "<f4", count).astype(np.float32).reshape(shape)
        elif 2 <= bits < 16 and len(shape) == 2:
            integers = take(section, "<i1", count).astype(np.int16)
            if bits > 8:
                integers = (integers << (bits - 8)) + take("remainders", "<u1", count)
            scales = take("scales", "<f2", shape[0])
            if not np.isfinite(scales).all():
                raise ValueError(f"{name}: a scale that is no number")
            values = integers.reshape(shape).astype(np.float32) * load_scales(scales, exponent)[:, None]
        else:
            raise ValueError(f"{name}: {bits} bits for shape {shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: a weight that is no number")
        state[name] = torch.from_numpy(values)
    if longer := [name for name, stream in left.items() if stream.read(1)]:
        raise ValueError(f"sections {longer} are longer than the tensors in them")
    return state
