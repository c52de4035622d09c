"""Rows of resampling: Resize and the older Upsample."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor

import numpy as np

from mapsto.importers.onnx.rows.crop_and_resize import crop_and_resize
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.expr import Dim, floordiv
from mapsto.ir.graph import Value

# Scales with larger denominators would give extents that nobody can reason about.
_DENOMINATOR = 4096


@row("Upsample")
def _upsample(call: NodeCall) -> Result:
    if call.opset < 7:
        if call.input().rank != 4:
            raise call.wrong(f"{call.input()} has no height and width: it must have 4 axes")
        scales: list[float] | None = [1.0, 1.0, call.number("height_scale"), call.number("width_scale")]
    else:
        scales = call.numbers("scales") if call.opset < 9 else _static_scales(call, 1)
    mode = call.one_of("mode", "nearest", ["nearest", "linear", "bilinear"])
    mode = "linear" if mode == "bilinear" else mode
    return _resized(call, list(range(call.input().rank)), None, scales, mode, "asymmetric", "simple")


@row("Resize")
def _resize(call: NodeCall) -> Result:
    mode = call.one_of("mode", "nearest", ["nearest", "linear", "cubic"])
    if call.opset < 11:
        return _resized(
            call, list(range(call.input().rank)), None, _static_scales(call, 1), mode, "asymmetric", "simple"
        )
    modes = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
    if call.opset < 13:
        modes.append("tf_half_pixel_for_nn")
    modes.append("tf_crop_and_resize")
    coordinates = call.one_of("coordinate_transformation_mode", "half_pixel", modes)
    nearest = call.one_of(
        "nearest_mode", "round_prefer_floor", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
    )
    rank = call.input().rank
    axes = [call.normal_axis(axis, rank) for axis in call.integers("axes") or range(rank)]
    sizes = call.dims(3, "size") if call.has(3) and call.input(3).shape != (0,) else None
    scales = _static_scales(call, 2) if sizes is None else None
    if coordinates == "tf_crop_and_resize":
        return crop_and_resize(call, axes, sizes, scales, mode, nearest)
    return _resized(call, axes, sizes, scales, mode, coordinates, nearest)


def _static_scales(call: NodeCall, i: int) -> list[float]:
    array = call.array(i)
    if array is None:
        raise call.unsupported(
            f"scales (input {i}) that only a run knows are not supported; give sizes, or fix the shapes by `shapes`"
        )
    return [float(np.float32(v)) for v in array.reshape(-1)]


def _resized(
    call: NodeCall,
    axes: Sequence[int],
    sizes: Sequence[Dim] | None,
    scales: Sequence[float] | None,
    mode: str,
    coordinates: str,
    nearest: str,
) -> Value:
    x = call.input()
    given = sizes if sizes is not None else scales
    if given is None or len(given) != len(axes):
        raise call.wrong(f"{len(given or [])} sizes or scales for {len(axes)} axes")
    target = list(x.shape)
    factors: list[float | tuple[int, int]] = [1.0] * x.rank
    if sizes is not None:
        fixed, ratios = _kept_ratio(call, axes, sizes)
        for k, axis in enumerate(axes):
            target[axis] = fixed[k]
        if ratios is not None and ratios != (1, 1):
            factors = [ratios if axis in axes else 1.0 for axis in range(x.rank)]
    if scales is not None:
        for axis, scale in zip(axes, scales, strict=True):
            target[axis], factors[axis] = _scaled(call, x.shape[axis], scale), scale
    if tuple(target) == x.shape and all(f == 1.0 for f in factors):
        return x
    by_scale = scales is not None or any(f != 1.0 for f in factors)
    return call.builder.one(
        "resize", [x], sizes=tuple(target), scales=tuple(factors) if by_scale else None, mode=mode,
        coordinate_mode=coordinates, nearest_mode=nearest, cubic_coeff_a=call.number("cubic_coeff_a", -0.75),
        exclude_outside=bool(call.integer("exclude_outside", 0)),
        **({"antialias": True} if call.integer("antialias", 0) and mode != "nearest" else {}),
    )  # fmt: skip


def _scaled(call: NodeCall, extent: Dim, scale: float) -> Dim:
    """floor(extent * scale)"""
    if scale <= 0 or not np.isfinite(scale):
        raise call.wrong(f"scale {scale} is not positive")
    if isinstance(extent, int):
        return int(np.floor(np.float32(extent) * np.float32(scale)))
    exact = Fraction(scale)
    if exact.denominator > _DENOMINATOR:
        raise call.unsupported(f"scale {scale} of the open extent {extent} is not supported; fix it by `shapes`")
    return floordiv(extent * exact.numerator, exact.denominator)


def _kept_ratio(call: NodeCall, axes: Sequence[int], sizes: Sequence[Dim]) -> tuple[list[Dim], tuple[int, int] | None]:
    """Sizes under `keep_aspect_ratio_policy`, and the one scale that all axes then have."""
    policy = call.one_of("keep_aspect_ratio_policy", "stretch", ["stretch", "not_larger", "not_smaller"])
    if policy == "stretch":
        return list(sizes), None
    extents = [call.input().shape[axis] for axis in axes]
    if not all(isinstance(d, int) and d for d in (*extents, *sizes)):
        raise call.unsupported(
            f"attribute keep_aspect_ratio_policy={policy!r} needs fixed extents; fix them by `shapes`"
        )
    ratios = [Fraction(int(s), int(d)) for s, d in zip(sizes, extents, strict=True)]  # type: ignore[arg-type]
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [floor(ratio * int(d) + Fraction(1, 2)) for d in extents], ratio.as_integer_ratio()  # type: ignore[arg-type]
