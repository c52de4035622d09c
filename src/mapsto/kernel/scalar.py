"""What each scalar function and conversion means, in numpy: the kernel interpreter and the ops' references share it.

Choices where numpy, C and ONNX leave room:
- float to integer truncates and saturates; NaN gives 0. Integer to integer wraps.
- integer `div` truncates; an integer divided by zero is 0, and so is its modulus.
- integer `pow` is exact modulo 2^bits; its exponent is read without a sign (`ops.power` sees to negative ones).
- f16 and bf16 are computed in f32 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mapsto.ir.dtypes import Array, DType, from_numpy


def compute_type(dtype: DType) -> DType:
    """The type that arithmetic on `dtype` is done in."""
    return DType.F32 if dtype.is_half else dtype


def widen(array: Array) -> Array:
    """f16 and bf16 as f32, everything else as it is."""
    return array.astype(np.float32) if from_numpy(array.dtype).is_half else array


def doubled(array: Array) -> Array:
    """Floats as f64, everything else as it is: what an oracle sums products in. BLAS sums f32 in an order, and with a
    rounding, that differ from one processor's kernels to another's.
    """
    return array.astype(np.float64) if from_numpy(array.dtype).is_float else array


def convert(array: Array, dtype: DType) -> Array:
    """Elements as another type (see the module's choices)."""
    source = from_numpy(array.dtype)
    if source is dtype:
        return array
    if dtype is DType.BOOL:
        return np.asarray(widen(array) != 0)
    if source.is_float and dtype.is_integer:
        return _float_to_integer(np.asarray(widen(array)), dtype)
    with np.errstate(all="ignore"):
        return array.astype(dtype.numpy)


def _float_to_integer(array: Array, dtype: DType) -> Array:
    limits = np.iinfo(dtype.numpy)
    whole = np.trunc(array.astype(np.float64))
    above = whole >= float(limits.max) if limits.bits < 64 else whole >= 2.0**limits.bits / (2 if limits.min else 1)
    below = whole <= float(limits.min)
    inside = ~(above | below | np.isnan(whole))
    result = np.where(inside, whole, 0).astype(dtype.numpy)
    return np.where(above, limits.max, np.where(below, limits.min, result)).astype(dtype.numpy)


def _erf(x: Array) -> Array:
    flat = np.fromiter(map(math.erf, np.asarray(x, dtype=np.float64).ravel().tolist()), np.float64, count=x.size)
    return flat.reshape(x.shape).astype(x.dtype)


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def _divide(a: Array, b: Array) -> Array:
    if not _is_integer(a):
        return np.asarray(a / b)
    quotient = np.floor_divide(a, b)
    inexact = a - quotient * b != 0
    return np.asarray(np.where(b == 0, 0, quotient + (inexact & ((a < 0) != (b < 0)))))


def _power(a: Array, b: Array) -> Array:
    if not _is_integer(a):
        # numpy takes a lone exponent of 1/2 for a square root, where C's pow differs: -inf ^ 1/2 is inf, -0 ^ 1/2 is +0
        root = np.where(a == -np.inf, a.dtype.type(np.inf), a.dtype.type(0))
        return np.asarray(np.where(((a == -np.inf) | (a == 0)) & (b == 0.5), root, np.power(a, b)))
    return _integer_power(a, b)


def _integer_power(a: Array, b: Array) -> Array:
    """By squaring, in the type."""
    square, exponent = np.broadcast_arrays(np.atleast_1d(a), np.atleast_1d(b))
    left = exponent.astype(f"u{b.dtype.itemsize}")
    result = np.ones_like(square)
    while left.any():
        result = np.where(left & 1 != 0, result * square, result)
        square = square * square
        left = left >> 1
    return result.reshape(np.broadcast_shapes(a.shape, b.shape))


def _fma(a: Array, b: Array, c: Array) -> Array:
    if a.dtype == np.float32:
        return np.asarray(a.astype(np.float64) * b + c)
    return np.asarray(a * b + c)


def _is_integer(a: Array) -> bool:
    return a.dtype.kind in "iu"


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "sqrt": np.sqrt, "exp": np.exp, "log": np.log, "tanh": np.tanh,
    "erf": _erf, "sigmoid": _sigmoid, "sin": np.sin, "cos": np.cos, "tan": np.tan, "floor": np.floor, "ceil": np.ceil,
    "round": np.rint, "not": np.logical_not, "isnan": np.isnan, "isinf": np.isinf,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "bitnot": np.bitwise_not,
    "log1p": np.log1p, "expm1": np.expm1,
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": _divide, "pow": _power,
    "mod": np.mod, "fmod": np.fmod,
    "min": np.minimum, "max": np.maximum,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor,
    "bitand": np.bitwise_and, "bitor": np.bitwise_or, "bitxor": np.bitwise_xor,
    "shl": np.left_shift, "shr": np.right_shift, "select": np.where, "fma": _fma,
}  # fmt: skip


def apply(fn: str, args: Sequence[Array], dtype: DType) -> Array:
    """The scalar function `fn` of kernel.ast.SCALAR_FNS, element by element with broadcasting, as `dtype`."""
    if fn == "bitcast":
        return np.ascontiguousarray(args[0]).view(dtype.numpy).reshape(np.shape(args[0]))
    wide = [widen(np.asarray(a)) for a in args]
    with np.errstate(all="ignore"):
        result = np.asarray(_FUNCTIONS[fn](*wide))
    return convert(result, dtype)


def lowest(dtype: DType) -> float | int | bool:
    """The neutral element of max."""
    if dtype.is_float:
        return -math.inf
    return False if dtype is DType.BOOL else int(np.iinfo(dtype.numpy).min)


def highest(dtype: DType) -> float | int | bool:
    """The neutral element of min."""
    if dtype.is_float:
        return math.inf
    return True if dtype is DType.BOOL else int(np.iinfo(dtype.numpy).max)


def neutral(kind: str, dtype: DType) -> float | int | bool:
    """What a reduction over nothing gives."""
    if kind == "max":
        return lowest(dtype)
    if kind == "min":
        return highest(dtype)
    return {"sum": 0, "mean": 0, "prod": 1, "any": False, "all": True}[kind]
