"""Rows of resampling: upsample in all modes, and grids of places."""

from __future__ import annotations

from collections.abc import Sequence

from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.ops.sampling import grid_sample

Scales = Sequence[float | None]


def _sizes(call: AtenCall, rank: int) -> tuple[list[Dim], Scales]:
    """(the result's space, the scales that the caller gave)"""
    if "scale_factors" in call.given:  # the form that takes either
        factors = call.given["scale_factors"]
        scales: Scales = [None] * rank if factors is None else [float(f) for f in factors]
    else:
        names = [a.name for a in call.target._schema.arguments if a.name.startswith("scales")]
        scales = [None if call.given[n] is None else call.number(n) for n in names]
        scales = scales or [None] * rank
    return list(call.shape[-rank:]), scales


def resized(call: AtenCall, mode: str, coordinates: str, rank: int, nearest: str = "floor", **more: object) -> Value:
    x = call.value("input" if "input" in call.given else "self")
    space, scales = _sizes(call, rank)
    if coordinates == "align_corners":
        scales = [None] * rank
    target = (*x.shape[:-rank], *space)
    by_scale: tuple[float | tuple[Dim, Dim] | None, ...] | None = None
    if any(s is not None for s in scales):
        ends = zip(scales, space, x.shape[-rank:], strict=True)
        by_scale = (*[1.0] * (x.rank - rank), *((n, d) if s is None else s for s, n, d in ends))
    if target == x.shape and by_scale is None:
        return x
    return call.one(
        "resize", [x], sizes=target, scales=by_scale, mode=mode, coordinate_mode=coordinates, nearest_mode=nearest,
        cubic_coeff_a=-0.5 if "antialias" in more else -0.75, exclude_outside="antialias" in more, **more,
    )  # fmt: skip


@aten("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def _nearest(call: AtenCall) -> Value:
    return resized(call, "nearest", "asymmetric", int(call.name[-2]))


@aten("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")
def _nearest_exact(call: AtenCall) -> Value:
    return resized(call, "nearest", "half_pixel", int(call.name[-2]), "round_prefer_ceil")


_LINEAR = {"upsample_linear1d": 1, "upsample_bilinear2d": 2, "upsample_trilinear3d": 3}


@aten(*_LINEAR)
def _linear(call: AtenCall) -> Value:
    return resized(call, "linear", _coordinates(call), _LINEAR[call.name])


def _coordinates(call: AtenCall) -> str:
    return "align_corners" if call.flag("align_corners") else "half_pixel"


@aten("upsample_bicubic2d")
def _bicubic(call: AtenCall) -> Value:
    return resized(call, "cubic", _coordinates(call), 2)


@aten("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
def _antialiased(call: AtenCall) -> Value:
    if call.flag("align_corners"):
        raise call.unsupported("antialias with align_corners is not supported; leave one of them out")
    mode = "linear" if "bilinear" in call.name else "cubic"
    return resized(call, mode, "half_pixel", 2, antialias=True)


@aten("grid_sampler_2d", "grid_sampler_3d")
def _grid_sampler(call: AtenCall) -> Value:
    mode = ("linear", "nearest", "cubic")[call.integer("interpolation_mode")]
    padding = ("zeros", "border", "reflection")[call.integer("padding_mode")]
    x, grid = call.value("input"), call.value("grid")
    return grid_sample(call.builder, x, grid, mode, padding, call.flag("align_corners"))
