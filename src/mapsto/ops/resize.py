"""resize(sizes, scales, mode, coordinate_mode, nearest_mode, cubic_coeff_a, exclude_outside, antialias): separable
interpolation.

sizes: the output's dims. scales: one an axis, each a float (as exact as it is) or a pair (p, q) of positive dims for
p/q; or None where the sizes are what was asked for (then scale = size / extent).
mode: nearest, linear, cubic. coordinate_mode, nearest_mode: ONNX's names; nearest_mode "simple" is that of opset 10,
down where an axis grows and up where it shrinks. antialias: True or left out; along an axis that shrinks weights are
those of a filter stretched by 1/scale, over as many more elements, and made to add up to 1.

Coordinates are rational numbers, (slope * position + offset) / divisor in integers, so ties are ties and no rounding
picks the neighbour.

Every axis that changes gets a table of the elements that an output position reads, and, except for nearest, of their
weights; where the ratio is a whole number the table of nearest is an index expression. The value is a sum over the
taps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from mapsto.errors import ShapeError, UnsupportedError
from mapsto.ir.dtypes import Array, DType, from_numpy
from mapsto.ir.expr import Dim, ceildiv, floordiv, load, maximum, minimum, mod, sym
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Cast, Const, Index, Iter, Load, Op, Reduce, Scalar, Stmt
from mapsto.kernel.scalar import convert, widen
from mapsto.ops.derivatives import along, fixed
from mapsto.ops.elementwise import converted, widened
from mapsto.ops.making import Making
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, register
from mapsto.ops.shapes import ANY, FLOATS, INTEGERS, describe, dim_max, dim_min, require_dtype

F32 = DType.F32
MODES = ("nearest", "linear", "cubic")
COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "tf_half_pixel_for_nn", "align_corners", "asymmetric",
)  # fmt: skip
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple")
Scale = float | tuple[Dim, Dim] | None


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
        inference.needs_element(value.shape[axis], sizes[axis], f"resizing axis {axis} needs an element")
    return [(dtype, tuple(sizes))]


def _changing(shape: Sequence[Dim], attrs: Mapping[str, Any]) -> list[int]:
    """The axes whose elements move."""
    scales = attrs.get("scales") or [None] * len(shape)
    return [
        k
        for k, (d, s, f) in enumerate(zip(shape, attrs["sizes"], scales, strict=True))
        if d != s or (f is not None and f != 1.0)
    ]


# Elements on either side of a coordinate that weigh something.
_REACH = {"linear": 1, "cubic": 2}


def _half(attrs: Mapping[str, Any], extent: Dim, size: Dim, scale: Scale) -> Dim:
    """How many elements are read on either side of a coordinate."""
    reach = _REACH[attrs["mode"]]
    if not attrs.get("antialias", False):
        return reach
    p, q = _fraction(scale, extent, size)
    return dim_max(ceildiv(reach * q, p), reach)


# ---- coordinates -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """Where output position `at` lies on the input axis: (slope * at + offset) / divisor."""

    slope: Dim
    offset: Dim
    divisor: Dim

    def numerator(self, at: Any) -> Any:
        return self.slope * at + self.offset


def _fraction(scale: Scale, extent: Dim, size: Dim) -> tuple[Dim, Dim]:
    """The scale as p/q."""
    if scale is None:
        return (1 if size == 0 else size), extent
    return scale if isinstance(scale, tuple) else Fraction(scale).as_integer_ratio()


def _line(mode: str, extent: Dim, size: Dim, scale: Scale) -> _Line:
    """ONNX's coordinate transformations, multiplied out, for the scale p/q."""
    if mode == "align_corners":  # i * (extent - 1) / (size - 1); the only position of an axis of 1 is 0
        return _Line(extent - 1, 0, dim_max(size - 1, 1))
    p, q = _fraction(scale, extent, size)
    if mode == "asymmetric":  # i / scale
        return _Line(q, 0, p)
    if mode == "tf_half_pixel_for_nn":  # (i + 1/2) / scale
        return _Line(2 * q, q, 2 * p)
    if mode == "half_pixel_symmetric":  # extent/2 * (1 - size / (scale * extent)) + (i + 1/2) / scale - 1/2
        return _Line(2 * q, (extent - 1) * p + (1 - size) * q, 2 * p)
    moves = dim_min(size - 1, 1) if mode == "pytorch_half_pixel" else 1  # 0 where there is one position
    return _Line(2 * q * moves, (q - p) * moves, 2 * p)  # (i + 1/2) / scale - 1/2


def _nearest(mode: str, line: _Line, at: Dim, shrinks: Dim) -> Dim:
    """The coordinate as a whole number; a tie of the rounding modes goes down or up. shrinks: 1 where the axis does."""
    n, d = line.numerator(at), line.divisor
    if mode == "round_prefer_floor":  # ceil(x - 1/2)
        return ceildiv(2 * n - d, 2 * d)
    if mode == "round_prefer_ceil":  # floor(x + 1/2)
        return floordiv(2 * n + d, 2 * d)
    if mode == "ceil":
        return ceildiv(n, d)
    return floordiv(n + (d - 1) * shrinks, d) if mode == "simple" else floordiv(n, d)


def _shrinks(scale: Scale, extent: Dim, size: Dim) -> Dim:
    """1 where the scale p/q is below 1, else 0."""
    p, q = _fraction(scale, extent, size)
    return dim_min(dim_max(q - p, 0), 1)


# ---- the reference ---------------------------------------------------------------------------------------------------


def _near(d: Array, a: np.float32) -> Array:
    """The cubic weight at a distance of at most 1 (Keys 1981)."""
    f = np.float32
    return ((a + f(2)) * d - (a + f(3))) * d * d + f(1)


def _far(d: Array, a: np.float32) -> Array:
    """The same from 1 to 2."""
    f = np.float32
    return ((a * d - f(5) * a) * d + f(8) * a) * d - f(4) * a


def _cubic(t: Array, a: np.float32) -> Array:
    """Weights of the four neighbours at distances 1+t, t, 1-t, 2-t."""
    f = np.float32
    return np.stack([_far(t + f(1), a), _near(t, a), _near(f(1) - t, a), _far(f(2) - t, a)], axis=-1)


def axis_table(attrs: Mapping[str, Any], extent: int, size: int, scale: Scale) -> tuple[Array, Array]:
    """(elements, weights) of an axis: i64[size, taps], f32[size, taps]."""
    f, last = np.float32, max(extent - 1, 0)
    line = _line(attrs["coordinate_mode"], extent, size, scale)
    if attrs["mode"] == "nearest":
        shrinks = _shrinks(scale, extent, size)
        near = [int(_nearest(attrs["nearest_mode"], line, at, shrinks)) for at in range(size)]  # type: ignore[arg-type]
        places = np.clip(np.array(near, dtype=np.int64), 0, last)[:, None]
        return places, np.ones_like(places, dtype=f)
    if attrs.get("antialias", False):
        return _filter_table(attrs, line, extent, size, scale)
    divisor = int(line.divisor)  # type: ignore[arg-type]
    n = [int(line.numerator(at)) for at in range(size)]
    if attrs["mode"] == "linear":
        n = [min(max(v, 0), last * divisor) for v in n]
    low = np.array([v // divisor for v in n], dtype=np.int64)
    t = np.array([v % divisor / divisor for v in n], dtype=f)
    if attrs["mode"] == "linear":
        return np.stack([low, np.minimum(low + 1, last)], axis=-1), np.stack([f(1) - t, t], axis=-1)
    weights = _cubic(t, f(attrs.get("cubic_coeff_a", -0.75)))
    places = low[:, None] + np.arange(-1, 3)
    if attrs.get("exclude_outside", False):
        weights = np.where((places < 0) | (places > last), f(0), weights)
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return np.clip(places, 0, last), weights


def _filter_table(attrs: Mapping[str, Any], line: _Line, extent: int, size: int, scale: Scale) -> tuple[Array, Array]:
    """The elements around each coordinate, and the filter at their distances, which the scale makes shorter."""
    p, q = _fraction(scale, extent, size)
    half, divisor = int(_half(attrs, extent, size, scale)), int(line.divisor)  # type: ignore[arg-type]
    n = np.array([int(line.numerator(at)) for at in range(size)], dtype=np.int64)[:, None]
    places = -(-n // divisor) + np.arange(-half, half)
    shorter = min(int(p), int(q))  # type: ignore[arg-type]
    d = (np.abs(places * divisor - n) * shorter / (divisor * int(q))).astype(np.float32)  # type: ignore[arg-type]
    if attrs["mode"] == "linear":
        weights = np.maximum(np.float32(1) - d, np.float32(0))
    else:
        a = np.float32(attrs.get("cubic_coeff_a", -0.75))
        weights = np.where(d <= 1, _near(d, a), np.where(d < 2, _far(d, a), np.float32(0)))
    if attrs.get("exclude_outside", False):
        weights = np.where((places < 0) | (places > extent - 1), np.float32(0), weights)
    return np.clip(places, 0, max(extent - 1, 0)), weights / weights.sum(axis=-1, keepdims=True)


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


def _inside(place: Dim, extent: Dim) -> Dim:
    return maximum(minimum(place, extent - 1), 0)


def _whole_ratio(extent: Dim, size: Dim, scale: Scale) -> int | None:
    """k where every element is repeated k times."""
    if scale is not None:
        p, q = _fraction(scale, extent, size)
        k = p if q == 1 and isinstance(p, int) else 0
        return k if k >= 1 and size == extent * k else None
    if extent == 0:
        return None
    ratio = floordiv(size, extent)
    return ratio if isinstance(ratio, int) and ratio >= 1 and size == extent * ratio else None


def _nearest_index(attrs: Mapping[str, Any], at: Dim, extent: Dim, size: Dim, scale: Scale) -> Dim | None:
    """The element that nearest takes, where that is at // k."""
    k = _whole_ratio(extent, size, scale)
    coordinate, rounding = attrs["coordinate_mode"], attrs["nearest_mode"]
    if k is None:
        return None
    if coordinate == "asymmetric" and rounding in ("floor", "simple"):
        return floordiv(at, k)
    if coordinate in ("half_pixel", "half_pixel_symmetric") and rounding.startswith("round"):
        return floordiv(at, k)  # at = q*k + r lies at q + (r + 1/2)/k - 1/2, within less than 1/2 of q
    return None


def _tables(low: Lowering, axis: int, extent: Dim, size: Dim, scale: Scale) -> tuple[list[Stmt], str, str]:
    """Statements that fill the tables of an axis, and their names (elements, weights)."""
    attrs = low.attrs
    half: Dim = 0 if attrs["mode"] == "nearest" else _half(attrs, extent, size, scale)
    places, weights = low.temp(f"place{axis}"), low.temp(f"weight{axis}")
    outer, tap = Iter(low.fresh("i"), size), Iter(low.fresh("t"), 2 * half if half != 0 else 1)
    at, t = sym(outer.name), sym(tap.name)
    line = _line(attrs["coordinate_mode"], extent, size, scale)

    def placed(e: Dim) -> Stmt:
        return Stmt(places, DType.I64, (outer, tap), Index(_inside(e, extent)))

    if attrs["mode"] == "nearest":
        return [placed(_nearest(attrs["nearest_mode"], line, at, _shrinks(scale, extent, size)))], places, ""
    n = line.numerator(at)
    if attrs.get("antialias", False):
        place = ceildiv(n, line.divisor) + t - half
        weight = _filter(attrs, place, n, line.divisor, _fraction(scale, extent, size))
        return [placed(place), *_normalised(low, place, weight, weights, (outer, tap), extent)], places, weights
    if attrs["mode"] == "linear":
        n = maximum(minimum(n, (extent - 1) * line.divisor), 0)
        share = _share(n, line.divisor)
        first = Op("eq", (Index(t), Const(0, DType.I64)), DType.BOOL)
        weight = _op("select", first, _op("sub", _f(1), share), share)
        stmts = [placed(floordiv(n, line.divisor) + t), Stmt(weights, F32, (outer, tap), weight)]
        return stmts, places, weights
    place = floordiv(n, line.divisor) + t - 1
    weighing = _cubic_weights(low, place, _share(n, line.divisor), weights, (outer, tap), extent)
    return [placed(place), *weighing], places, weights


def _share(n: Dim, divisor: Dim) -> Scalar:
    """How far n/divisor is past a whole number: f64 divides the integers with one rounding."""
    part, whole = (Cast(Index(e), DType.F64) for e in (mod(n, divisor), divisor))
    return Cast(Op("div", (part, whole), DType.F64), F32)


def _cubic_weights(
    low: Lowering, place: Dim, share: Scalar, weights: str, iters: tuple[Iter, Iter], extent: Dim
) -> list[Stmt]:
    attrs = low.attrs
    tap = Cast(Index(sym(iters[1].name)), F32)
    weight = _cubic_of(attrs, _op("abs", _op("sub", share, _op("sub", tap, _f(1)))))
    if not attrs.get("exclude_outside", False):
        return [Stmt(weights, F32, iters, weight)]
    return _normalised(low, place, weight, weights, iters, extent)


def _filter(attrs: Mapping[str, Any], place: Dim, n: Dim, divisor: Dim, scale: tuple[Dim, Dim]) -> Scalar:
    """The weight of an element at its distance from n/divisor, times the scale where that is below 1."""
    p, q = scale
    parts = (Cast(Index(e), DType.F64) for e in (place * divisor - n, divisor, dim_min(p, q), q))
    apart, whole, shorter, own = parts
    x = Op("div", (Op("mul", (Op("abs", (apart,), DType.F64), shorter), DType.F64), Op("mul", (whole, own), DType.F64)),
           DType.F64)  # fmt: skip
    d = Cast(x, F32)
    if attrs["mode"] == "linear":
        return _op("max", _op("sub", _f(1), d), _f(0))
    return _op("select", Op("lt", (d, _f(2)), DType.BOOL), _cubic_of(attrs, d), _f(0))


def _cubic_of(attrs: Mapping[str, Any], d: Scalar) -> Scalar:
    """The weight at a distance below 2 (Keys 1981)."""
    a = float(np.float32(attrs.get("cubic_coeff_a", -0.75)))
    near = _op("add", _op("mul", _op("mul", _op("sub", _op("mul", _f(a + 2), d), _f(a + 3)), d), d), _f(1))
    inner = _op("add", _op("mul", _op("sub", _op("mul", _f(a), d), _f(5 * a)), d), _f(8 * a))
    far = _op("sub", _op("mul", inner, d), _f(4 * a))
    return _op("select", Op("le", (d, _f(1)), DType.BOOL), near, far)


def _normalised(
    low: Lowering, place: Dim, weight: Scalar, weights: str, iters: tuple[Iter, Iter], extent: Dim
) -> list[Stmt]:
    """Weights that are made to add up to 1; those of elements outside are 0 first where that is asked for."""
    if not low.attrs.get("exclude_outside", False):
        return _over_sum(low, weight, weights, iters)
    below = Op("lt", (Index(place), Const(0, DType.I64)), DType.BOOL)
    above = Op("gt", (Index(place), Index(extent - 1)), DType.BOOL)
    return _over_sum(low, _op("select", Op("or", (below, above), DType.BOOL), _f(0), weight), weights, iters)


def _over_sum(low: Lowering, weight: Scalar, weights: str, iters: tuple[Iter, Iter]) -> list[Stmt]:
    raw = f"{weights}.raw"
    tap_iter = Iter(low.fresh("t"), iters[1].extent)
    total = Reduce("sum", (tap_iter,), Load(raw, (sym(iters[0].name), sym(tap_iter.name)), F32))
    share_of = _op("div", Load(raw, (sym(iters[0].name), sym(iters[1].name)), F32), total)
    return [Stmt(raw, F32, iters, weight), Stmt(weights, F32, iters, share_of)]


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
            taps.append(Iter(low.fresh("t"), 2 * _half(attrs, shape[axis], sizes[axis], scales[axis])))
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



def _gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """Resizing is a matrix along each axis: the gradient goes through its transpose."""
    (g,) = incoming
    if g is None or not g.dtype.is_float:
        return [None]
    shape = b.lookup(node.inputs[0]).shape
    scales: Any = node.attrs.get("scales") or (None,) * g.rank
    for axis in _changing(shape, node.attrs):
        extent, size = (fixed(d, node) for d in (shape[axis], g.shape[axis]))
        g = along(b, g, axis, axis_matrix(node.attrs, extent, size, scales[axis]))
    return [g]


def axis_matrix(attrs: Mapping[str, Any], extent: int, size: int, scale: Scale) -> Array:
    """What an axis is multiplied by, f64[size, extent]."""
    at, weights = axis_table(attrs, extent, size, scale)
    table = np.zeros((size, extent), np.float64)
    np.add.at(table, (np.arange(size)[:, None], np.clip(at, 0, extent - 1)), weights)
    return table


register(OpSpec("resize", "movement", _infer, _reference, _lower, gradient=_gradient))
