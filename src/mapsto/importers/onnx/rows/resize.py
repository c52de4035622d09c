"""Rows of resampling: Resize and the older Upsample."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from mapsto.importers.onnx.rows.axes import total
from mapsto.importers.onnx.rows.common import float_element
from mapsto.importers.onnx.rows.crop import crop_and_resize, scaled_regions
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, floordiv
from mapsto.ir.graph import Value
from mapsto.ops.arranging import reshape
from mapsto.ops.resize import Scale

# Scales with larger denominators are multiplied in the run: the standard's product is one of floats, which rounds.
_DENOMINATOR = 4096
# The scales of a run, or of an open extent, whose fraction is held in 64 bits beside any extent: from 2^-16 to 2^16.
_STEEPEST = 1 << 16
# A scale from the first on is exact in units of the second.
_UNITS = ((2.0**-1, 1 << 24), (2.0**-6, 1 << 30), (2.0**-16, 1 << 40))

_CROP = "tf_crop_and_resize"


class _Scaled(NamedTuple):
    """What becomes of an axis: its new extent, and the scale between places, a number or a fraction."""

    size: Dim
    factor: Scale = 1.0


@row("Upsample")
def _upsample(call: NodeCall) -> Result:
    axes = range(call.input().rank)
    if call.opset < 7:
        if len(axes) != 4:
            raise call.wrong(f"{call.input()} has no height and width: it must have 4 axes")
        numbers = [1.0, 1.0, call.number("height_scale"), call.number("width_scale")]
    else:
        numbers = call.numbers("scales") or []
    if call.opset < 9:
        if len(numbers) != len(axes):
            raise call.wrong(f"{len(numbers)} scales for {len(axes)} axes")
        scaled = [_by_number(call, axis, scale) for axis, scale in zip(axes, numbers, strict=True)]
    else:
        scaled = _by_scales(call, 1, axes)
    mode = call.one_of("mode", "nearest", ["nearest", "linear", "bilinear"])
    return _resized(call, axes, scaled, "linear" if mode == "bilinear" else mode, "asymmetric", "simple")


@row("Resize")
def _resize(call: NodeCall) -> Result:
    mode = call.one_of("mode", "nearest", ["nearest", "linear", "cubic"])
    rank = call.input().rank
    if call.opset < 11:
        return _resized(call, range(rank), _by_scales(call, 1, range(rank)), mode, "asymmetric", "simple")
    modes = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
    if call.opset < 13:
        modes.append("tf_half_pixel_for_nn")
    modes.append(_CROP)
    coordinates = call.one_of("coordinate_transformation_mode", "half_pixel", modes)
    nearest = call.one_of(
        "nearest_mode", "round_prefer_floor", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
    )
    axes = [call.normal_axis(axis, rank) for axis in call.integers("axes") or range(rank)]
    by_size = call.has(3) and call.input(3).shape != (0,)
    if coordinates == _CROP:
        sizes = [s.size for s in _by_sizes(call, axes)] if by_size else scaled_regions(call, axes)
        return crop_and_resize(call, axes, sizes, mode, nearest)
    scaled = _by_sizes(call, axes) if by_size else _by_scales(call, 2, axes)
    return _resized(call, axes, scaled, mode, coordinates, nearest)


def _resized(
    call: NodeCall, axes: Sequence[int], scaled: Sequence[_Scaled], mode: str, coordinates: str, nearest: str
) -> Value:
    x = call.input()
    given = dict(zip(axes, scaled, strict=True))
    target, factors = zip(*(given.get(axis, _Scaled(d)) for axis, d in enumerate(x.shape)), strict=True)
    by_scale = any(f != 1.0 for f in factors)
    if target == x.shape and not by_scale:
        return x
    attrs = {"antialias": True} if call.integer("antialias", 0) and mode != "nearest" else {}
    return call.builder.one(
        "resize", [x], **attrs, sizes=target, scales=factors if by_scale else None, mode=mode,
        coordinate_mode=coordinates, nearest_mode=nearest, cubic_coeff_a=call.number("cubic_coeff_a", -0.75),
        exclude_outside=bool(call.integer("exclude_outside", 0)),
    )  # fmt: skip


# -- by scales ---------------------------------------------------------------------------------------------------------


def _by_scales(call: NodeCall, i: int, axes: Sequence[int]) -> list[_Scaled]:
    """The axes by the scales of input i, those that are constants and those that only a run knows."""
    b, scales = call.builder, call.input(i)
    if scales.rank != 1 or (isinstance(scales.shape[0], int) and scales.shape[0] != len(axes)):
        raise call.wrong(f"{scales} are no scales of {len(axes)} axes")
    b.same(scales.shape[0], len(axes), "Resize")
    scales = reshape(b, scales, (len(axes),))
    known = [float_element(b, scales, k) for k in range(len(axes))]
    if None in known:
        _require_scales(call, i, scales)
    return [
        _by_run(call, axis, b.scalar_element(scales, k)) if scale is None else _by_number(call, axis, scale)
        for k, (axis, scale) in enumerate(zip(axes, known, strict=True))
    ]


def _require_scales(call: NodeCall, i: int, scales: Value) -> None:
    b = call.builder
    least, most = (call.scalar(n, scales) for n in (1 / _STEEPEST, _STEEPEST))
    inside = b.one("and", [b.one("ge", [scales, least]), b.one("le", [scales, most])])
    outside = b.one("cast", [b.one("not", [inside])], to=DType.I64)
    message = f"{call.port(i)} has a scale that is not between 1/{_STEEPEST} and {_STEEPEST}"
    call.require_value(-b.bind(total(b, "sum", outside, 0), "outside"), message)


def _by_number(call: NodeCall, axis: int, scale: float) -> _Scaled:
    """floor(extent * scale), the product rounded to a float of 32 bits."""
    if scale <= 0 or not np.isfinite(scale):
        raise call.wrong(f"scale {scale} is not positive")
    extent = call.input().shape[axis]
    if isinstance(extent, int):
        return _Scaled(int(np.floor(np.float32(extent) * np.float32(scale))), scale)
    exact = Fraction(scale)
    if exact.denominator <= _DENOMINATOR:
        return _Scaled(floordiv(extent * exact.numerator, exact.denominator), scale)
    if not 1 / _STEEPEST <= scale <= _STEEPEST:
        raise call.unsupported(
            f"scale {scale} of the open extent {extent} is not supported; fix it by `shapes`", [extent]
        )
    return _Scaled(_product(call, extent, call.builder.constant(np.float32(scale))), scale)


def _by_run(call: NodeCall, axis: int, scale: Value) -> _Scaled:
    """An axis by a scale that only a run knows. A float is an integer in units that are small enough."""
    b = call.builder
    scale = reshape(b, scale, ())
    wide = b.one("cast", [scale], to=DType.F64)
    units = b.constant(np.asarray(_UNITS[-1][1], np.int64))
    for least, number in reversed(_UNITS[:-1]):
        coarse = b.one("ge", [wide, call.scalar(least, wide)])
        units = b.one("select", [coarse, b.constant(np.asarray(number, np.int64)), units])
    whole = b.one("cast", [b.one("mul", [wide, b.one("cast", [units], to=DType.F64)])], to=DType.I64)
    p, q = (b.bind(v, "scale", what=call.builder.place(call.op)) for v in (whole, units))
    return _Scaled(_product(call, call.input().shape[axis], scale), (p, q))


def _product(call: NodeCall, extent: Dim, scale: Value) -> Dim:
    """floor(extent * scale) in floats of 32 bits, by the run."""
    b = call.builder
    product = b.one("mul", [b.one("cast", [b.known(extent)], to=DType.F32), scale])
    return b.bind(b.one("cast", [b.one("floor", [product])], to=DType.I64), "size", what=b.place(call.op))


# -- by sizes ----------------------------------------------------------------------------------------------------------


def _by_sizes(call: NodeCall, axes: Sequence[int]) -> list[_Scaled]:
    """The axes by sizes, under `keep_aspect_ratio_policy` by the one scale that fits them all."""
    sizes = call.dims(3, "size")
    if len(sizes) != len(axes):
        raise call.wrong(f"{len(sizes)} sizes for {len(axes)} axes")
    policy = call.one_of("keep_aspect_ratio_policy", "stretch", ["stretch", "not_larger", "not_smaller"])
    if policy == "stretch":
        return [_Scaled(size) for size in sizes]
    extents = [call.input().shape[axis] for axis in axes]
    if all(isinstance(d, int) and d for d in (*extents, *sizes)):
        ratios = [Fraction(int(s), int(d)) for s, d in zip(sizes, extents, strict=True)]  # type: ignore[arg-type]
        ratio: tuple[Dim, Dim] = (min(ratios) if policy == "not_larger" else max(ratios)).as_integer_ratio()
    else:
        ratio = _ratio_of_run(call, sizes, extents, policy == "not_larger")
    p, q = ratio
    factor: Scale = 1.0 if ratio == (1, 1) else ratio
    return [_Scaled(floordiv(2 * p * d + q, 2 * q), factor) for d in extents]  # rounded, a half upwards


def _ratio_of_run(call: NodeCall, sizes: Sequence[Dim], extents: Sequence[Dim], least: bool) -> tuple[Dim, Dim]:
    """The least or largest size/extent, as the fraction of these two: a/b < c/d where a*d < c*b."""
    b = call.builder
    for d in (*sizes, *extents):
        call.require(d - 1, f"keep_aspect_ratio_policy needs sizes and extents of at least 1, not {d}")
    (p, q), *others = [(b.known(s), b.known(d)) for s, d in zip(sizes, extents, strict=True)]
    for r, s in others:
        ours, theirs = b.one("mul", [p, s]), b.one("mul", [r, q])
        better = b.one("lt", [theirs, ours] if least else [ours, theirs])
        p, q = b.one("select", [better, r, p]), b.one("select", [better, s, q])
    found = [b.bind(v, "ratio", what=b.place(call.op)) for v in (p, q)]
    for dim in found:
        call.require(dim - 1, "the kept ratio must be positive")
    return found[0], found[1]
