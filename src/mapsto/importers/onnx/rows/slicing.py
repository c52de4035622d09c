"""The row of Slice: negative places count from the end, ends are clamped; extents kept as simple as can be proved."""

from __future__ import annotations

import numpy as np

from mapsto.importers.onnx.rows.common import reshape
from mapsto.importers.onnx.table import Call, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Call as ExprCall
from mapsto.ir.expr import Dim, Expr, atoms, ceildiv, known_at_least, substitute, sym, symbols
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder
from mapsto.ops.shapes import dim_max, dim_min

# Exporters write "to the end" as the largest integer of some width.
FAR = (1 << 31) - 1


@row("Slice")
def _slice(call: Call) -> Result:
    x = call.input()
    axes, steps = _slice_axes(call)
    count = len(axes)
    if len(steps) != count or len(set(axes)) != count or 0 in steps:
        raise call.wrong("axes and steps do not fit each other")
    first: list[Dim] = [0] * x.rank
    step = [1] * x.rank
    shape = list(x.shape)
    for k, (axis, stride) in enumerate(zip(axes, steps, strict=True)):
        dim = x.shape[axis]
        start, end = _slice_end(call, 1, "starts", k, count), _slice_end(call, 2, "ends", k, count)
        if isinstance(start, Value) or isinstance(end, Value):
            first[axis], shape[axis] = _run_time_slice(call, start, end, stride, dim)
        else:
            first[axis], shape[axis] = slice_extent(call.builder, start, end, stride, dim)
        step[axis] = stride
    if tuple(shape) == x.shape and all(f == 0 for f in first) and all(s == 1 for s in step):
        return x
    return call.builder.one("slice", [x], starts=tuple(first), steps=tuple(step), shape=tuple(shape))


def _slice_axes(call: Call) -> tuple[list[int], list[int]]:
    """(axes, steps), one for each start."""
    x = call.input()
    if call.opset < 10:
        starts, axes, steps = call.integers("starts") or [], call.integers("axes"), None
        count: Dim = len(starts)
    else:
        count = call.input(1).shape[0] if call.input(1).rank else 1
        axes = call.static_ints(3, "the list of axes") if call.has(3) else None
        steps = call.static_ints(4, "the list of steps") if call.has(4) else None
    if not isinstance(count, int) or count > x.rank:
        raise call.wrong(f"{count} starts for {x.rank} axes")
    places = list(range(count)) if axes is None else [call.normal_axis(axis, x.rank) for axis in axes]
    if len(places) != count:
        raise call.wrong(f"{len(places)} axes for {count} starts")
    return places, [1] * count if steps is None else steps


def _slice_end(call: Call, i: int, attribute: str, k: int, count: int) -> Dim | Value:
    """Start or end k: a dim, or a scalar that only a run knows and that may be negative."""
    if call.opset < 10:
        values = call.integers(attribute) or []
        if len(values) != count:
            raise call.wrong(f"attribute {attribute} has {len(values)} numbers, not {count}")
        return values[k]
    value = call.input(i)
    if (value.shape[0] if value.rank else 1) != count:
        raise call.wrong(f"{attribute} {value} should have {count} elements")
    found = call.builder.element(value, k)
    return found if found is not None else call.builder.scalar_element(value, k)


def _run_time_slice(call: Call, start: Dim | Value, end: Dim | Value, step: int, dim: Dim) -> tuple[Dim, Dim]:
    """(first element, number of elements) where a run computes them, by the rules of `slice_extent`."""
    b = call.builder

    def known(e: Dim) -> Value:
        return b.known(np.array([e], dtype=object))

    extent, zero = known(dim), known(0)

    def clamped(at: Dim | Value, low: Dim, high: Dim) -> Value:
        value = reshape(b, b.one("cast", [at], to=DType.I64), (1,)) if isinstance(at, Value) else known(at)
        value = b.one("select", [b.one("lt", [value, zero]), b.one("add", [value, extent]), value])
        return b.one("min", [b.one("max", [value, known(low)]), known(high)])

    low, high = (0, dim) if step > 0 else (-1, dim - 1)
    first = clamped(start, 0, high)
    last = clamped(end, low, high)
    length = b.one("sub", [last, first] if step > 0 else [first, last])
    count = b.one("div", [b.one("add", [length, known(abs(step) - 1)]), known(abs(step))])
    return b.dims(b.one("max", [first, zero]), "start")[0], b.dims(b.one("max", [count, zero]), "size")[0]


def slice_extent(b: Builder, start: Dim, end: Dim, step: int, dim: Dim) -> tuple[Dim, Dim]:
    """(first element, number of elements) of a slice with ONNX's rules: negative places count from the end, then both
    are clamped.

    Where the rules only matter for axes shorter than the slice's fixed numbers, a run refuses such axes, so that
    extents stay simple.
    """
    if step > 0:
        low = _start(b, start, dim) if isinstance(start, int) else _clamped(b, start, dim, 0, dim)
        length = _end(b, end, dim, 0, dim) - low
    else:
        low = _clamped(b, start, dim, 0, dim - 1)
        length = low - _end(b, end, dim, -1, dim - 1)
    if isinstance(length, Expr) and isinstance(start, int) and isinstance(end, int) and not _has_extremes(length):
        b.require(length, f"a slice needs {length} to be at least 0")
    if not b.proves(length):
        length = dim_max(length, 0)
    extent = ceildiv(length, abs(step))
    return (0 if extent == 0 else low), extent


def _has_extremes(e: Dim) -> bool:
    return any(isinstance(atom, ExprCall) and atom.fn in ("min", "max") for atom in atoms(e))


def _start(b: Builder, at: int, dim: Dim) -> Dim:
    """Where a slice that goes upwards begins."""
    if isinstance(dim, int):
        return max(0, min(at + dim if at < 0 else at, dim))
    if at >= FAR:
        return dim
    if at == 0 or at <= -FAR:
        return 0
    b.require(dim - abs(at), f"a slice begins {abs(at)} elements into an axis of {dim}")
    return at if at >= 0 else dim + at


def _end(b: Builder, at: Dim, dim: Dim, lowest: int, highest: Dim) -> Dim:
    if isinstance(at, int) and isinstance(dim, Expr) and -FAR < at < 0:
        b.require(dim + at - lowest, f"a slice ends {-at} elements before the end of an axis of {dim}")
        return dim + at
    return _clamped(b, at, dim, lowest, highest)


def _clamped(b: Builder, at: Dim, dim: Dim, lowest: int, highest: Dim) -> Dim:
    if isinstance(at, int) and at >= FAR:
        return highest
    if isinstance(at, int) and at <= -FAR:
        return lowest if isinstance(dim, Expr) else min(lowest, dim)
    at = _from_front(b, at, dim)
    at = at if b.proves(at - lowest) else dim_max(at, lowest)
    if b.proves(highest - at):
        return at
    return highest if b.proves(at - highest) else dim_min(at, highest)


def _from_front(b: Builder, at: Dim, dim: Dim) -> Dim:
    """at + dim where at is negative. Whether it is may hang on no size being 0, which then becomes a condition of the
    run.
    """
    if b.proves(at):
        return at
    if b.proves(-at - 1):
        return at + dim
    names = sorted(symbols(at))
    if known_at_least(substitute(at, {name: sym(name) + 1 for name in names}), 0):
        for name in names:
            b.require(sym(name) - 1, f"{name} must be at least 1")
        return at
    negative = dim_min(dim_max(-at, 0), 1)  # 1 where at < 0, else 0
    return at + dim * negative
