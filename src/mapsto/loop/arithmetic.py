"""The loop language's arithmetic in numpy, exact to the rounding: what the interpreter computes with."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np

from mapsto.ir.dtypes import Array, DType, from_numpy
from mapsto.loop.ast import kept_lanes


def _is_float(a: Array) -> bool:
    return from_numpy(a.dtype).is_float


# ---- one operand, two operands -------------------------------------------------------------------------------------


def unary(op: str, a: Array) -> Array:
    result: Array = np.asarray(_UNARY[op](a), a.dtype)
    return result


_UNARY: dict[str, Callable[..., Any]] = {
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "floor": np.floor,
    "ceil": np.ceil,
    "rint": np.rint,
    "trunc": np.trunc,
    "not": np.invert,
}


def binary(op: str, a: Array, b: Array) -> Array:
    if a.dtype != b.dtype or a.shape != b.shape:
        raise TypeError(f"{op} of {a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}")
    table = _FLOAT_BINARY if _is_float(a) and op in _FLOAT_BINARY else _BINARY
    result: Array = np.asarray(table[op](a, b), a.dtype)
    return result


def _divide_integers(a: Array, b: Array) -> Array:
    """Towards zero (C); by zero gives 0, the lowest number / -1 wraps."""
    quotient = a // b
    wrong = (quotient * b != a) & ((a < 0) != (b < 0))
    return np.where(b == 0, 0, quotient + wrong.astype(a.dtype))


def _remainder_integers(a: Array, b: Array) -> Array:
    return np.where(b == 0, 0, a - b * _divide_integers(a, b))


def _shift_left(a: Array, b: Array) -> Array:
    return np.where(_in_width(b), np.left_shift(a, np.where(_in_width(b), b, 0)), 0)


def _shift_right(a: Array, b: Array) -> Array:
    """Arithmetic on signed types. By the width or more: what so many single shifts give."""
    shifted = np.right_shift(a, np.where(_in_width(b), b, 8 * b.dtype.itemsize - 1))
    return np.asarray(shifted * (_in_width(b) | (a.dtype.kind == "i")))


def _in_width(b: Array) -> Array:
    return np.asarray((b >= 0) & (b < 8 * b.dtype.itemsize))


def _minimum(a: Array, b: Array) -> Array:
    """NaN wins; which zero wins between -0 and +0 is not said."""
    return np.where(np.isnan(a) | (a < b), a, b)


def _maximum(a: Array, b: Array) -> Array:
    return np.where(np.isnan(a) | (a > b), a, b)


_BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _divide_integers,
    "rem": _remainder_integers,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": _shift_left,
    "shr": _shift_right,
    "min": np.minimum,
    "max": np.maximum,
    "minnum": np.minimum,
    "maxnum": np.maximum,
}
_FLOAT_BINARY: dict[str, Callable[..., Any]] = {
    "div": np.divide,
    "rem": np.fmod,
    "min": _minimum,
    "max": _maximum,
    "minnum": lambda a, b: np.where(a < b, a, b),  # as x86's minps: the second operand on NaN
    "maxnum": lambda a, b: np.where(a > b, a, b),
    "copysign": np.copysign,
}


def compare(op: str, a: Array, b: Array) -> Array:
    if a.dtype != b.dtype or a.shape != b.shape:
        raise TypeError(f"{op} of {a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}")
    return np.asarray(_COMPARE[op](a, b), np.bool_)


_COMPARE: dict[str, Callable[..., Any]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}

# ---- fused multiply-add --------------------------------------------------------------------------------------------


def fused_multiply_add(a: Array, b: Array, c: Array) -> Array:
    """a*b + c rounded once."""
    if not a.dtype == b.dtype == c.dtype:
        raise TypeError(f"fma of {a.dtype}, {b.dtype} and {c.dtype}")
    if not _is_float(a):
        integers: Array = a * b + c
        return integers
    if a.dtype == np.float64:
        return _fma64(a, b, c)
    # Narrow types: the product is exact in f64; a sum rounded to odd there rounds correctly to the narrow type
    # (Boldo, Melquiond 2008).
    product = a.astype(np.float64) * b.astype(np.float64)
    return convert(_sum_to_odd(product, c.astype(np.float64)), from_numpy(a.dtype))


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """(s, e) with s = round(a + b) and s + e == a + b exactly (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _sum_to_odd(a: Array, b: Array) -> Array:
    """a + b rounded to odd: an inexact result gets an odd last bit."""
    s, error = _two_sum(a, b)
    even = (s.view(np.int64) & 1) == 0
    inexact = np.isfinite(s) & (error != 0)
    return np.where(inexact & even, np.nextafter(s, np.where(error > 0, np.inf, -np.inf)), s)


def _split(a: Array) -> tuple[Array, Array]:
    """High and low half of the significand (Veltkamp)."""
    t = a * 134217729.0  # 2^27 + 1
    high = t - (t - a)
    return high, a - high


def _fma64(a: Array, b: Array, c: Array) -> Array:
    """Boldo, Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd" (2008);
    elements near the ends of the exponent range go through exact fractions."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    upper, lower = _two_sum(c, error)
    total, rest = _two_sum(product, upper)
    result = total + _sum_to_odd(rest, lower)
    finite = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
    result = np.where(finite, result, np.where(np.isfinite(a) & np.isfinite(b), c, product + c))
    sizes = np.stack([np.abs(a), np.abs(b), np.abs(product), np.abs(c)])
    extreme = ((sizes != 0) & ((sizes < 1e-250) | (sizes > 1e250))).any(axis=0) | ((product == 0) & (a != 0) & (b != 0))
    zero = (a == 0) | (b == 0)
    result = np.where(zero & finite, product + c, result)
    for i in np.flatnonzero(finite & extreme & ~zero).tolist():
        result[i] = _exact_fma(float(a[i]), float(b[i]), float(c[i]))
    return result


def _exact_fma(a: float, b: float, c: float) -> float:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c if c == 0 else 0.0  # cancelled exactly: +0 in round-to-nearest
    try:
        rounded = float(exact)
    except OverflowError:
        rounded = float("inf")
        return rounded if exact > 0 else -rounded
    return rounded if rounded else (0.0 if exact > 0 else -0.0)


def dot(kind: str, a: Array, b: Array, c: Array) -> Array:
    """c + the sum of products over each lane's group."""
    if kind in ("u8s8", "s16"):
        products = a.astype(np.int32) * b.astype(np.int32)
        total: Array = c + products.reshape(c.size, 4 if kind == "u8s8" else 2).sum(axis=1, dtype=np.int32)
        return total
    if kind != "bf16":
        raise ValueError(f"no dot of kind {kind}")
    x = a.astype(np.float32).reshape(c.size, 2)
    y = b.astype(np.float32).reshape(c.size, 2)
    # vdpbf16ps adds the odd product first, each step rounded once.
    return fused_multiply_add(x[:, 0], y[:, 0], fused_multiply_add(x[:, 1], y[:, 1], c))


# ---- conversion, reduction -----------------------------------------------------------------------------------------


def convert(a: Array, element: DType) -> Array:
    """Numeric conversion; float to integer truncates and saturates, NaN gives 0."""
    source = from_numpy(a.dtype)
    if element is DType.BOOL:
        return np.asarray(a != 0, np.bool_)
    if source.is_float and element.is_integer:
        return _saturate(a, element)
    if source is DType.F64 and element is DType.BF16:
        return _narrow_to_bf16(a)
    return a.astype(element.numpy)


def _saturate(a: Array, element: DType) -> Array:
    limits = np.iinfo(element.numpy)
    wide = np.trunc(a.astype(np.float64))
    low, high = wide <= float(limits.min), wide >= float(limits.max)
    inside = np.where(low | high | np.isnan(wide), 0.0, wide).astype(element.numpy)
    inside[low], inside[high] = limits.min, limits.max
    return inside


def nearest(a: Array, low: int, high: int) -> Array:
    """The nearest i32, halves to even, between these bounds; of NaN the lower one."""
    held = np.clip(np.where(np.isnan(a), np.float32(low), a), low, high)
    return np.asarray(np.rint(held).astype(np.int32))


def _narrow_to_bf16(a: Array) -> Array:
    """One rounding: through f32 rounded to odd."""
    with np.errstate(over="ignore"):
        narrow = a.astype(np.float32)
    back = narrow.astype(np.float64)
    fix = np.isfinite(narrow) & (back != a) & ((narrow.view(np.int32) & 1) == 0)
    towards = np.where(a > back, np.float32(np.inf), np.float32(-np.inf))
    return np.where(fix, np.nextafter(narrow, towards), narrow).astype(ml_dtypes.bfloat16)


def fold_lanes(op: str, a: Array) -> Array:
    """Lanes folded by an operation of two values, in the order of `ast.ReduceLanes`."""
    while a.size > 1:
        half = kept_lanes(a.size)
        pairs = a.size - half
        a = np.concatenate([binary(op, a[:pairs], a[half:]), a[pairs:half]])
    return a
