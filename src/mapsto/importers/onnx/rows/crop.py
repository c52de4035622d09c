"""Resize in the mode tf_crop_and_resize: a region of each axis, between two fractions of it, brought to a size.

The fractions are floats, which a run may give, so coordinates are floats as well (f64), not the fractions of integers
that `ops.resize` has. Along each axis the elements around a coordinate are gathered and weighed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.importers.onnx.rows.common import float_element
from mapsto.importers.onnx.table import NodeCall
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import compute_type
from mapsto.ops import composite
from mapsto.ops.arranging import column, positions, reshape
from mapsto.ops.builder import Builder


def crop_and_resize(call: NodeCall, axes: Sequence[int], sizes: Sequence[Dim], mode: str, nearest: str) -> Value:
    """Elements whose coordinate lies outside along any axis are the attribute extrapolation_value."""
    b, x, regions = call.builder, call.input(), call.input(1)
    if call.integer("antialias", 0):
        raise call.unsupported("attribute antialias=1 beside tf_crop_and_resize is not supported; export without it")
    if regions.rank != 1:
        raise call.wrong(f"{call.port(1)} is no list of fractions: {regions}")
    b.same(regions.shape[0], 2 * len(axes), "Resize")
    regions = reshape(b, regions, (2 * len(axes),))
    wide = x if mode == "nearest" else composite.cast(b, x, compute_type(x.dtype) if x.dtype.is_float else DType.F32)
    found, inside = wide, None
    for k, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
        extent = x.shape[axis]
        if size == extent and [float_element(b, regions, i) for i in (k, k + len(axes))] == [0.0, 1.0]:
            continue
        ends = [b.one("cast", [reshape(b, b.scalar_element(regions, i), ())], to=DType.F64) for i in (k, k + len(axes))]
        along = _Along(call, axis, extent, _coordinates(call, ends, extent, size))
        found = along.nearest(found, nearest) if mode == "nearest" else along.weighed(found, mode)
        fits = column(b, along.inside(along.at), axis, x.rank)
        inside = fits if inside is None else b.one("and", [inside, fits])
    if inside is None:
        return x
    other = call.scalar(call.number("extrapolation_value", 0.0), found)
    return composite.cast(b, b.one("select", [inside, found, other]), x.dtype)


def scaled_regions(call: NodeCall, axes: Sequence[int]) -> list[Dim]:
    """floor(extent * part * scale), which must be known when compiling."""
    scales, regions = call.array(2), call.array(1)
    extents = [call.input().shape[axis] for axis in axes]
    if scales is None or regions is None or not all(isinstance(d, int) for d in extents):
        raise call.unsupported("scales of a region that only a run knows are not supported; give sizes")
    if len(scales) != len(axes) or len(regions) != 2 * len(axes):
        raise call.wrong(f"{len(scales)} scales and {len(regions)} fractions for {len(axes)} axes")
    parts = regions[len(axes) :].astype(np.float64) - regions[: len(axes)]
    found: list[Dim] = []
    for extent, part, scale in zip(extents, parts, scales, strict=True):
        size = float(np.floor(float(extent) * part * float(scale)))  # type: ignore[arg-type]
        if not 0 <= size < 2.0**31:
            raise call.wrong(f"a scale of {scale} makes {size} elements of {extent}")
        found.append(int(size))
    return found


def _coordinates(call: NodeCall, ends: Sequence[Value], extent: Dim, size: Dim) -> Value:
    """Where each element of the result lies along an axis; the middle of the region where there is but one."""
    b = call.builder
    start, end = ends

    def op(name: str, *values: Value) -> Value:
        return b.one(name, values)

    def number(dim: Dim) -> Value:
        return b.one("cast", [b.known(dim)], to=DType.F64)

    one = call.scalar(1, start)
    span = op("mul", op("sub", end, start), number(extent - 1))
    steps = op("mul", b.one("cast", [positions(b, size)], to=DType.F64), span)
    spread = op("div", steps, op("max", number(size - 1), one))
    middle = op("mul", span, call.scalar(0.5, start))
    at = op("select", op("gt", number(size), one), spread, middle)
    return op("add", at, op("mul", start, number(extent - 1)))


@dataclass(frozen=True)
class _Along:
    """One axis of an extent, and the coordinates `at` of the result's elements along it: f64[size]."""

    call: NodeCall
    axis: int
    extent: Dim
    at: Value

    @property
    def b(self) -> Builder:
        return self.call.builder

    def op(self, name: str, *values: Value | float) -> Value:
        """An operation of f64, with numbers as constants."""
        return self.b.one(name, [v if isinstance(v, Value) else self.call.scalar(v, self.at) for v in values])

    def inside(self, at: Value) -> Value:
        """Whether coordinates lie on the axis; one that is no number does not."""
        last = self.b.one("cast", [self.b.known(self.extent - 1)], to=DType.F64)
        return self.b.one("and", [self.op("ge", at, 0), self.op("le", at, last)])

    def read(self, x: Value, at: Value) -> Value:
        """The elements at whole coordinates; those outside are the nearest."""
        b, zero = self.b, self.b.constant(np.asarray(0, np.int64))
        index = b.one("min", [b.one("cast", [at], to=DType.I64), b.known(self.extent - 1)])
        return b.one("gather", [x, b.one("max", [index, zero])], axis=self.axis)

    def nearest(self, x: Value, mode: str) -> Value:
        if mode == "round_prefer_floor":
            return self.read(x, self.op("ceil", self.op("sub", self.at, 0.5)))
        if mode == "round_prefer_ceil":
            return self.read(x, self.op("floor", self.op("add", self.at, 0.5)))
        return self.read(x, self.op(mode, self.at))

    def weighed(self, x: Value, mode: str) -> Value:
        """The sum over the neighbours of each coordinate, by their weights."""
        b, floor = self.b, self.op("floor", self.at)
        t = self.op("sub", self.at, floor)
        taps = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
        places = [self.op("add", floor, k) for k in taps]
        weights = [self.op("sub", 1, t), t] if mode == "linear" else self.cubic(t)
        if mode == "cubic" and self.call.integer("exclude_outside", 0):
            weights = self.of_inside(places, weights)
        total: Value | None = None
        for place, weight in zip(places, weights, strict=True):
            w = column(b, b.one("cast", [weight], to=x.dtype), self.axis, x.rank)
            part = b.one("mul", [self.read(x, place), w])
            total = part if total is None else b.one("add", [total, part])
        assert total is not None
        return total

    def cubic(self, t: Value) -> list[Value]:
        """Of distances 1+t, t, 1-t, 2-t (Keys 1981)."""
        a = self.call.number("cubic_coeff_a", -0.75)

        def near(d: Value) -> Value:
            inner = self.op("sub", self.op("mul", d, a + 2), a + 3)
            return self.op("add", self.op("mul", self.op("mul", inner, d), d), 1)

        def far(d: Value) -> Value:
            inner = self.op("add", self.op("mul", self.op("sub", self.op("mul", d, a), 5 * a), d), 8 * a)
            return self.op("sub", self.op("mul", inner, d), 4 * a)

        rest = self.op("sub", 1, t)
        return [far(self.op("add", t, 1)), near(t), near(rest), far(self.op("add", rest, 1))]

    def of_inside(self, places: Sequence[Value], weights: Sequence[Value]) -> list[Value]:
        """Weights of elements outside set to 0, the others made to add up to 1."""
        kept = [self.op("select", self.inside(p), w, 0) for p, w in zip(places, weights, strict=True)]
        total = kept[0]
        for weight in kept[1:]:
            total = self.op("add", total, weight)
        return [self.op("div", weight, total) for weight in kept]
