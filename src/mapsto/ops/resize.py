"""resize(sizes, scales, mode, coordinate_mode, nearest_mode, cubic_coeff_a, exclude_outside): separable interpolation.

sizes: the output's dims. scales: floats, one an axis, or None where the sizes are what was asked for (then scale = size
/ extent).
mode: nearest, linear, cubic. coordinate_mode, nearest_mode: ONNX's names. Coordinates are computed in f32, in the order
of ONNX Runtime's formulas, so that a tie is broken as it breaks it.

Every axis that changes gets a table of the elements that an output position reads, and, except for nearest, of their
weights; where the ratio is a whole number the table of nearest is an index expression. The value is a sum over the
taps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ShapeError, UnsupportedError
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import Dim, floordiv, load, sym
from mapsto.kernel.ast import Cast, Const, Index, Iter, Load, Op, Reduce, Scalar, Stmt
from mapsto.kernel.scalar import convert, widen
from mapsto.ops.elementwise import converted, widened
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import ANY, FLOATS, INTEGERS, describe, require_dtype

Array = np.ndarray[Any, Any]
F32 = DType.F32
MODES = ("nearest", "linear", "cubic")
COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def _infer(inference: Inference) -> list[tuple[DType, Shape]]:
    value, attrs = inference.value(0), inference.attrs
    for key, known in (("mode", MODES), ("coordinate_mode", COORDINATES), ("nearest_mode", NEAREST)):
        if attrs.get(key, known[0]) not in known:
            raise UnsupportedError(f"resize: no {key} {attrs[key]!r}; known: {', '.join(known)}")
    sizes, scales = attrs["sizes"], attrs.get("scales")
    if len(sizes) != value.rank or (scales and len(scales) != value.rank):
        raise ShapeError(f"{describe(inference)}: sizes and scales must say one number for each of {value.rank} axes")
    dtype = require_dtype(inference, 0, ANY if attrs["mode"] == "nearest" else FLOATS | INTEGERS)
    for axis in _changing(value.shape, attrs):
        inference.at_least(value.shape[axis], 1, f"resizing axis {axis} needs an element")
    return [(dtype, tuple(sizes))]


def _changing(shape: Sequence[Dim], attrs: Mapping[str, Any]) -> list[int]:
    """The axes whose elements move."""
    scales = attrs.get("scales") or [None] * len(shape)
    return [
        k
        for k, (d, s, f) in enumerate(zip(shape, attrs["sizes"], scales, strict=True))
        if d != s or f not in (None, 1.0)
    ]


def taps_of(mode: str) -> int:
    return {"nearest": 1, "linear": 2, "cubic": 4}[mode]


# ---- the reference ---------------------------------------------------------------------------------------------------


def _coordinate(mode: str, at: Array, extent: int, size: int, scale: np.float32) -> Array:
    """Where output position `at` lies on the input axis, in f32."""
    f = np.float32
    if mode == "align_corners":
        return at * f(0) if size == 1 else at * f(extent - 1) / f(size - 1)
    if mode == "asymmetric":
        return at / scale
    if mode == "pytorch_half_pixel" and size <= 1:
        return at * f(0)
    centred = (at + f(0.5)) / scale - f(0.5)
    if mode == "half_pixel_symmetric":
        adjustment = f(size) / (scale * f(extent))
        return np.asarray(f(extent) / f(2) * (f(1) - adjustment) + centred)
    return centred


def _nearest(mode: str, x: Array) -> Array:
    if mode == "floor":
        return np.floor(x)
    if mode == "ceil":
        return np.ceil(x)
    # a tie goes down or up: round half down is ceil(x - 1/2), round half up floor(x + 1/2)
    half = np.float32(0.5)
    return np.ceil(x - half) if mode == "round_prefer_floor" else np.floor(x + half)


def _cubic(t: Array, a: np.float32) -> Array:
    """Weights of the four neighbours at distances 1+t, t, 1-t, 2-t (Keys 1981)."""
    f = np.float32

    def near(d: Array) -> Array:
        return ((a + f(2)) * d - (a + f(3))) * d * d + f(1)

    def far(d: Array) -> Array:
        return ((a * d - f(5) * a) * d + f(8) * a) * d - f(4) * a

    return np.stack([far(t + f(1)), near(t), near(f(1) - t), far(f(2) - t)], axis=-1)


def _inside(place: Array, last: int) -> Array:
    """Whole coordinates as elements of an axis; in integers, as f32 would round the last of a long axis up."""
    return np.clip(convert(place, DType.I64), 0, last)


def axis_table(attrs: Mapping[str, Any], extent: int, size: int, scale: float | None) -> tuple[Array, Array]:
    """(elements, weights) of an axis: i64[size, taps], f32[size, taps]."""
    f = np.float32
    ratio = f(scale) if scale is not None else f(size) / f(max(extent, 1))
    x = _coordinate(attrs["coordinate_mode"], np.arange(size).astype(f), extent, size, ratio).astype(f)
    last = max(extent - 1, 0)
    if attrs["mode"] == "nearest":
        places = _inside(_nearest(attrs["nearest_mode"], x), last)[:, None]
        return places, np.ones_like(places, dtype=f)
    if attrs["mode"] == "linear":
        x = np.clip(x, f(0), f(last))
        low = np.floor(x)
        t = x - low
        places = _inside(np.stack([low, np.minimum(low + 1, last)], axis=-1), last)
        return places, np.stack([f(1) - t, t], axis=-1)
    low = np.floor(x)
    weights = _cubic(x - low, f(attrs.get("cubic_coeff_a", -0.75)))
    places = low[:, None] + np.arange(-1, 3, dtype=f)
    if attrs.get("exclude_outside", False):
        weights = np.where((places < 0) | (places > last), f(0), weights)
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return _inside(places, last), weights


def _reference(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    dtype, x = from_numpy(inputs[0].dtype), inputs[0]
    changing = _changing(x.shape, attrs)
    if 0 in shapes[0]:
        return [np.zeros(shapes[0], dtype=x.dtype)]
    scales = attrs.get("scales") or [None] * x.ndim
    if attrs["mode"] != "nearest":
        x = widen(x).astype(np.float64)
    for axis in changing:
        places, weights = axis_table(attrs, x.shape[axis], shapes[0][axis], scales[axis])
        if attrs["mode"] == "nearest":
            x = np.take(x, places[:, 0], axis=axis)
            continue
        picked = np.moveaxis(np.take(x, places, axis=axis), (axis, axis + 1), (-2, -1))
        x = np.moveaxis((picked * weights.astype(np.float64)).sum(axis=-1), -1, axis)
    if dtype.is_float and dtype is not DType.F64:
        x = x.astype(np.float32) if x.dtype == np.float64 else x
    return [convert(np.ascontiguousarray(x), dtype)]


# ---- the lowering ----------------------------------------------------------------------------------------------------


def _f(value: Dim | float) -> Scalar:
    """A number in f32: a literal, or a size converted."""
    if isinstance(value, (int, float)):
        return Const(float(np.float32(value)), F32)
    return Cast(Index(value), F32)


def _op(fn: str, *args: Scalar) -> Scalar:
    return Op(fn, args, F32)


def _scalar_coordinate(mode: str, at: Scalar, extent: Dim, size: Dim, scale: float | None) -> Scalar:
    """`_coordinate`, as a scalar expression."""
    one = Op("le", (Index(size), Const(1, DType.I64)), DType.BOOL) if not isinstance(size, int) else None
    if mode == "align_corners":
        if size == 1:
            return _f(0)
        moved = _op("div", _op("mul", at, _f(extent - 1)), _f(size - 1))
        return moved if one is None else _op("select", one, _f(0), moved)
    ratio = _f(scale) if scale is not None else _ratio(extent, size)
    if mode == "asymmetric":
        return _op("div", at, ratio)
    centred = _op("sub", _op("div", _op("add", at, _f(0.5)), ratio), _f(0.5))
    if mode == "half_pixel_symmetric":
        adjustment = _op("div", _f(size), _op("mul", ratio, _f(extent)))
        centre = _op("mul", _op("div", _f(extent), _f(2)), _op("sub", _f(1), adjustment))
        return _op("add", centre, centred)
    if mode == "pytorch_half_pixel":
        if isinstance(size, int):
            return _f(0) if size <= 1 else centred
        assert one is not None
        return _op("select", one, _f(0), centred)
    return centred


def _ratio(extent: Dim, size: Dim) -> Scalar:
    if isinstance(extent, int) and isinstance(size, int):
        return _f(float(np.float32(size) / np.float32(extent)))
    return _op("div", _f(size), _f(extent))


def _scalar_nearest(mode: str, x: Scalar) -> Scalar:
    if mode in ("floor", "ceil"):
        return _op(mode, x)
    if mode == "round_prefer_floor":
        return _op("ceil", _op("sub", x, _f(0.5)))
    return _op("floor", _op("add", x, _f(0.5)))


def _element(x: Scalar, last: Dim) -> Scalar:
    """`_inside`, as a scalar expression."""
    below = Op("min", (Cast(x, DType.I64), Index(last)), DType.I64)
    return Op("max", (below, Const(0, DType.I64)), DType.I64)


def _clamped(x: Scalar, last: Dim) -> Scalar:
    return _op("min", _op("max", x, _f(0)), _f(last))


def _whole_ratio(extent: Dim, size: Dim, scale: float | None) -> int | None:
    """k where every element is repeated k times."""
    if scale is not None:
        k = int(scale) if scale >= 1 and float(scale).is_integer() else None
        return k if k is not None and size == extent * k else None
    if extent == 0:
        return None
    ratio = floordiv(size, extent)
    return ratio if isinstance(ratio, int) and ratio >= 1 and size == extent * ratio else None


def _nearest_index(attrs: Mapping[str, Any], at: Dim, extent: Dim, size: Dim, scale: float | None) -> Dim | None:
    """The element that nearest takes, where that is at // k."""
    k = _whole_ratio(extent, size, scale)
    coordinate, rounding = attrs["coordinate_mode"], attrs["nearest_mode"]
    if k is None or math.log2(k) % 1:  # a ratio that is no power of two may round either way in f32
        return None
    if coordinate == "asymmetric" and rounding == "floor":
        return floordiv(at, k)
    if coordinate in ("half_pixel", "half_pixel_symmetric") and rounding.startswith("round"):
        return floordiv(at, k)  # at = q*k + r lies at q + (r + 1/2)/k - 1/2, within less than 1/2 of q
    return None


def _tables(low: Lowering, axis: int, extent: Dim, size: Dim, scale: float | None) -> tuple[list[Stmt], str, str]:
    """Statements that fill the tables of an axis, and their names (elements, weights)."""
    attrs, taps = low.attrs, taps_of(low.attrs["mode"])
    places, weights = low.temp(f"place{axis}"), low.temp(f"weight{axis}")
    outer, tap = Iter(low.fresh("i"), size), Iter(low.fresh("t"), taps)
    at, t = Cast(Index(sym(outer.name)), F32), Index(sym(tap.name))
    x = _scalar_coordinate(attrs["coordinate_mode"], at, extent, size, scale)
    if attrs["mode"] == "nearest":
        place = _element(_scalar_nearest(attrs["nearest_mode"], x), extent - 1)
        return [Stmt(places, DType.I64, (outer, tap), place)], places, ""
    if attrs["mode"] == "linear":
        x = _clamped(x, extent - 1)
        floor = _op("floor", x)
        place = _element(_op("add", floor, Cast(t, F32)), extent - 1)
        share = _op("sub", x, floor)
        first = Op("eq", (t, Const(0, DType.I64)), DType.BOOL)
        weight = _op("select", first, _op("sub", _f(1), share), share)
        return [Stmt(places, DType.I64, (outer, tap), place), Stmt(weights, F32, (outer, tap), weight)], places, weights
    return _cubic_tables(low, x, places, weights, (outer, tap), extent)


def _cubic_tables(
    low: Lowering, x: Scalar, places: str, weights: str, iters: tuple[Iter, Iter], extent: Dim
) -> tuple[list[Stmt], str, str]:
    attrs = low.attrs
    a = float(np.float32(attrs.get("cubic_coeff_a", -0.75)))
    floor = _op("floor", x)
    tap = Cast(Index(sym(iters[1].name)), F32)
    place = _op("add", floor, _op("sub", tap, _f(1)))
    d = _op("abs", _op("sub", _op("sub", x, floor), _op("sub", tap, _f(1))))
    near = _op("add", _op("mul", _op("mul", _op("sub", _op("mul", _f(a + 2), d), _f(a + 3)), d), d), _f(1))
    inner = _op("add", _op("mul", _op("sub", _op("mul", _f(a), d), _f(5 * a)), d), _f(8 * a))
    far = _op("sub", _op("mul", inner, d), _f(4 * a))
    weight = _op("select", Op("le", (d, _f(1)), DType.BOOL), near, far)
    stmts = [Stmt(places, DType.I64, iters, _element(place, extent - 1))]
    if not attrs.get("exclude_outside", False):
        return [*stmts, Stmt(weights, F32, iters, weight)], places, weights
    below, above = Op("lt", (place, _f(0)), DType.BOOL), Op("gt", (place, _f(extent - 1)), DType.BOOL)
    inside = _op("select", Op("or", (below, above), DType.BOOL), _f(0), weight)
    raw = f"{weights}.raw"
    tap_iter = Iter(low.fresh("t"), 4)
    total = Reduce("sum", (tap_iter,), Load(raw, (sym(iters[0].name), sym(tap_iter.name)), F32))
    share = _op("div", Load(raw, (sym(iters[0].name), sym(iters[1].name)), F32), total)
    return [*stmts, Stmt(raw, F32, iters, inside), Stmt(weights, F32, iters, share)], places, weights


def _lower(low: Lowering) -> list[Stmt]:
    shape, attrs = low.value(0).shape, low.attrs
    sizes = low.output.shape
    scales = attrs.get("scales") or [None] * len(shape)
    iters = low.iters(sizes)
    index: list[Dim] = [sym(i.name) for i in iters]
    stmts: list[Stmt] = []
    taps: list[Iter] = []
    factors: list[Scalar] = []
    for axis in _changing(shape, attrs):
        at = index[axis]
        if attrs["mode"] == "nearest":
            direct = _nearest_index(attrs, at, shape[axis], sizes[axis], scales[axis])
            if direct is not None:
                index[axis] = direct
                continue
        made, places, weights = _tables(low, axis, shape[axis], sizes[axis], scales[axis])
        stmts.extend(made)
        tap: Dim = 0
        if weights:
            taps.append(Iter(low.fresh("t"), taps_of(attrs["mode"])))
            tap = sym(taps[-1].name)
            factors.append(Load(weights, (at, tap), F32))
        index[axis] = load(places, (at, tap))
    value: Scalar = low.load(0, index)
    if not factors:
        return [*stmts, low.stmt(iters, value)]
    value = converted(widened(value), DType.F64 if value.dtype is DType.F64 else F32)
    for factor in factors:
        value = Op("mul", (value, converted(factor, value.dtype)), value.dtype)
    return [*stmts, low.stmt(iters, converted(Reduce("sum", tuple(taps), value), low.output.dtype))]


register(OpSpec("resize", "movement", _infer, _reference, _lower))
