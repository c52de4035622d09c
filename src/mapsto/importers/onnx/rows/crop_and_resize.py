"""Resize by TensorFlow's crop_and_resize: a region of the input, given as parts of its axes, resampled; what lies
outside of the input is a number. Axis by axis, each output position reads its neighbours by a gather.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mapsto.importers.onnx.rows.common import column, slice_axis
from mapsto.importers.onnx.rows.indexing import positions
from mapsto.importers.onnx.table import NodeCall
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import compute_type
from mapsto.ops.composite import cast


def crop_and_resize(
    call: NodeCall, axes: Sequence[int], sizes: Sequence[Dim] | None, scales: Sequence[float] | None, mode: str,
    nearest: str,
) -> Value:  # fmt: skip
    """roi (input 1): where the region starts on each axis, then where it ends; 0 is the first element, 1 the last."""
    b, x, roi = call.builder, call.input(), call.input(1)
    if call.integer("exclude_outside", 0):
        raise call.unsupported("attribute exclude_outside=1 is not supported with tf_crop_and_resize")
    if roi.rank != 1 or roi.shape[0] != 2 * len(axes):
        raise call.wrong(f"roi {roi} should have {2 * len(axes)} numbers")
    targets = sizes if sizes is not None else _scaled(call, axes, scales or ())
    if len(targets) != len(axes):
        raise call.wrong(f"{len(targets)} sizes or scales for {len(axes)} axes")
    y = x if mode == "nearest" else cast(b, x, compute_type(x.dtype) if x.dtype.is_float else DType.F32)
    beyond: Value | None = None
    for k, axis in enumerate(axes):
        ends = [_corner(call, roi, k), _corner(call, roi, k + len(axes))]
        at, outside = _coordinates(call, ends, x.shape[axis], targets[k])
        y = _read(call, y, axis, at, mode, nearest)
        outside = column(b, outside, axis, x.rank)
        beyond = outside if beyond is None else b.one("or", [beyond, outside])
    if beyond is not None:
        y = b.one("select", [beyond, call.scalar(call.number("extrapolation_value", 0.0), y), y])
    return cast(b, y, x.dtype)


def _corner(call: NodeCall, roi: Value, k: int) -> Value:
    """One number of the region, an f64 scalar."""
    b = call.builder
    return cast(b, b.one("reshape", [slice_axis(b, roi, 0, k, 1)], shape=()), DType.F64)


def _scaled(call: NodeCall, axes: Sequence[int], scales: Sequence[float]) -> list[Dim]:
    """floor(extent * part * scale), which must be known when compiling."""
    roi = call.array(1)
    extents = [call.input().shape[axis] for axis in axes]
    if roi is None or not all(isinstance(d, int) for d in extents):
        raise call.unsupported("scales of a region that only a run knows are not supported; give sizes")
    parts = roi[len(axes) :].astype(np.float64) - roi[: len(axes)]
    found: list[Dim] = []
    for extent, part, scale in zip(extents, parts, scales, strict=False):
        size = float(np.floor(float(extent) * part * scale))  # type: ignore[arg-type]
        if not 0 <= size < 2.0**31:
            raise call.wrong(f"a scale of {scale} makes {size} elements of {extent}")
        found.append(int(size))
    return found


def _coordinates(call: NodeCall, ends: Sequence[Value], extent: Dim, size: Dim) -> tuple[Value, Value]:
    """Where on an axis each of `size` positions lies, and whether that is outside of it."""
    b = call.builder

    def op(name: str, a: Value, other: Value | float) -> Value:
        return b.one(name, [a, other if isinstance(other, Value) else call.scalar(other, a)])

    def real(dim: Dim) -> Value:
        return cast(b, b.known(dim), DType.F64)

    start, end = ends
    last = op("sub", real(extent), 1.0)
    steps = cast(b, positions(b, size), DType.F64)
    step = op("div", op("mul", op("sub", end, start), last), op("max", op("sub", real(size), 1.0), 1.0))
    spread = op("add", op("mul", steps, step), op("mul", start, last))
    middle = op("mul", op("mul", op("add", start, end), 0.5), last)
    at = b.one("select", [op("gt", real(size), 1.0), spread, middle])
    return at, b.one("not", [b.one("and", [op("ge", at, 0.0), op("le", at, last)])])


def _read(call: NodeCall, x: Value, axis: int, at: Value, mode: str, nearest: str) -> Value:
    """x at coordinates along an axis; neighbours outside are those of the border."""
    b = call.builder
    last = b.one("sub", [b.known(x.shape[axis]), b.constant(np.asarray(1, np.int64))])
    zero = call.scalar(0, last)

    def taken(place: Value) -> Value:
        held = b.one("min", [b.one("max", [place, zero]), last])
        return b.one("gather", [x, held], axis=axis)

    if mode == "nearest":
        half = call.scalar(0.5, at)
        moved = {"round_prefer_floor": "sub", "round_prefer_ceil": "add"}.get(nearest)
        shifted = at if moved is None else b.one(moved, [at, half])
        down = nearest in ("round_prefer_ceil", "floor")
        return taken(cast(b, b.one("floor" if down else "ceil", [shifted]), DType.I64))
    below = b.one("floor", [at])
    share = cast(b, b.one("sub", [at, below]), x.dtype)
    low = cast(b, below, DType.I64)
    total: Value | None = None
    for k in (0, 1) if mode == "linear" else (-1, 0, 1, 2):
        weight = column(b, _weight(call, share, k, mode), axis, x.rank)
        part = b.one("mul", [taken(b.one("add", [low, call.scalar(k, low)])), weight])
        total = part if total is None else b.one("add", [total, part])
    assert total is not None
    return total


def _weight(call: NodeCall, share: Value, k: int, mode: str) -> Value:
    """The weight of neighbour k of the element before, for a coordinate `share` past that (cubic: Keys 1981)."""
    b = call.builder

    def op(name: str, v: Value, number: float) -> Value:
        return b.one(name, [v, call.scalar(number, v)])

    d = b.one("abs", [op("sub", share, float(k))])
    if mode == "linear":
        return b.one("sub", [call.scalar(1.0, d), d])
    a = call.number("cubic_coeff_a", -0.75)
    if k in (0, 1):
        square = b.one("mul", [d, d])
        return op("add", b.one("mul", [op("sub", op("mul", d, a + 2), a + 3), square]), 1.0)
    inner = op("add", b.one("mul", [op("sub", op("mul", d, a), 5 * a), d]), 8 * a)
    return op("sub", b.one("mul", [inner, d]), 4 * a)
