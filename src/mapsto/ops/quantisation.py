"""Quantised tensors, composed: a real number is scale * (integer - zero point) (ONNX, QuantizeLinear and
DequantizeLinear).
"""

from __future__ import annotations

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.builder import Builder


def _limits(dtype: DType) -> tuple[int, int]:
    low = -(1 << (dtype.bits - 1)) if dtype.decoded.is_signed else 0
    return low, low + (1 << dtype.bits) - 1


def quantise(b: Builder, x: Value, scale: Value, zero: Value | None, dtype: DType, saturate: bool = True) -> Value:
    """saturate(round(x / scale) + zero point), halves to even; a float is rounded as a cast to its type rounds."""
    ratio = b.one("div", [x, scale])
    if dtype.decoded.is_float:
        return composite.recast(b, ratio if zero is None else _moved(b, ratio, zero), dtype, saturate)
    real = DType.F64 if dtype.size > 2 else DType.F32
    ratio = b.one("round", [ratio])
    ratio = ratio if ratio.dtype is real else b.one("cast", [ratio], to=real)
    if zero is not None and not _is_known_zero(b, zero):  # -0 and 0 are one integer
        ratio = b.one("add", [ratio, composite.recast(b, zero, real)])
    low, high = (b.constant(np.asarray(limit), "limit", real) for limit in _limits(dtype))
    whole = b.one("cast", [b.one("min", [b.one("max", [ratio, low]), high])], to=dtype.decoded)
    return composite.recast(b, whole, dtype)


def _is_known_zero(b: Builder, zero: Value) -> bool:
    array = b.array(zero)
    return array is not None and not np.any(array.astype(np.float32))


def _moved(b: Builder, ratio: Value, zero: Value) -> Value:
    """Plus a zero point that is a float; a zero one, as nearly all are, leaves the sign of a zero."""
    if _is_known_zero(b, zero):
        return ratio
    offset = composite.recast(b, zero, ratio.dtype)
    is_zero = b.one("eq", [offset, b.constant(np.asarray(0), "zero", ratio.dtype)])
    return b.one("select", [is_zero, ratio, b.one("add", [ratio, offset])])


def dequantise(b: Builder, x: Value, scale: Value, zero: Value | None, dtype: DType) -> Value:
    """(integer - zero point) * scale; the difference of 32-bit integers takes 64 bits. Floats are computed in f32."""
    scale = composite.recast(b, scale, DType.F32)
    if x.dtype.decoded is DType.F32:
        real = b.one("decode", [x])
        if zero is not None and not _is_known_zero(b, zero):
            real = b.one("sub", [real, b.one("decode", [zero])])
        return composite.cast(b, b.one("mul", [real, scale]), dtype)
    x, zero = composite.decoded(b, x), None if zero is None else composite.decoded(b, zero)
    exact = DType.I64 if zero is not None and x.dtype.size > 2 else DType.I32
    wide = x if x.dtype is exact else b.one("cast", [x], to=exact)
    if zero is not None:
        wide = b.one("sub", [wide, zero if zero.dtype is exact else b.one("cast", [zero], to=exact)])
    real = b.one("cast", [wide], to=DType.F32)
    product = b.one("mul", [real, scale])
    return product if dtype is DType.F32 else b.one("cast", [product], to=dtype)
