"""The row of Slice: negative places count from the end, ends are clamped; extents kept as simple as can be proved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mapsto.importers.onnx.rows.axes import bound, chosen, first_axes, integers, known_axes, total
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, product
from mapsto.ir.graph import Value
from mapsto.ops.arranging import reshape
from mapsto.ops.slicing import slice_extent


@row("Slice")
def _slice(call: NodeCall) -> Result:
    x = call.input()
    if not _is_settled(call):
        return _slice_of_run(call)
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


def _slice_axes(call: NodeCall) -> tuple[list[int], list[int]]:
    """(axes, steps), one for each start."""
    x = call.input()
    if call.opset < 10:
        starts, axes, steps = call.integers("starts") or [], call.integers("axes"), None
        count: Dim = len(starts)
    else:
        count = product(call.input(1).shape)
        axes, steps = (call.known_ints(i) if call.has(i) else None for i in (3, 4))
    if not isinstance(count, int) or count > x.rank:
        raise call.wrong(f"{count} starts for {x.rank} axes")
    places = list(range(count)) if axes is None else [call.normal_axis(axis, x.rank) for axis in axes]
    if len(places) != count:
        raise call.wrong(f"{len(places)} axes for {count} starts")
    return places, [1] * count if steps is None else steps


def _slice_end(call: NodeCall, i: int, attribute: str, k: int, count: int) -> Dim | Value:
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


# -- axes, steps or their number of a run ------------------------------------------------------------------------------


def _is_settled(call: NodeCall) -> bool:
    """Whether it is known which axes are cut, and at which steps."""
    if call.opset < 10:
        return True
    known = all(call.known_ints(i) is not None for i in (3, 4) if call.has(i))
    return known and isinstance(product(call.input(1).shape), int)


def _slice_of_run(call: NodeCall) -> Value:
    """Axes that are not named are taken whole: from 0 to their extent, at a step of 1."""
    b, x = call.builder, call.input()
    starts, ends = (_wide(call, i) for i in (1, 2))
    count = starts.shape[0]
    steps = _wide(call, 4) if call.has(4) else b.one("full", [], shape=(count,), value=1, dtype=DType.I64)
    _require_steps(call, steps)
    axes = known_axes(call, 3, x.rank) if call.has(3) else list(range(count)) if isinstance(count, int) else None
    if axes is None:
        named = chosen(call, 3, x.rank) if call.has(3) else first_axes(call, count, x.rank)
        zero, one = (integers(b, [n] * x.rank) for n in (0, 1))
        starts, ends = named.laid(starts, zero), named.laid(ends, integers(b, x.shape))
        steps, axes = named.laid(steps, one), list(range(x.rank))
    if len(set(axes)) != len(axes) or any(v.shape != (len(axes),) for v in (starts, ends, steps)) or len(axes) > x.rank:
        raise call.wrong(f"starts, ends, axes {axes} and steps do not fit each other")
    first: list[Dim] = [0] * x.rank
    step: list[Dim] = [1] * x.rank
    shape = list(x.shape)
    for axis, *found in zip(axes, *_cuts(call, starts, ends, steps, [x.shape[a] for a in axes]), strict=True):
        first[axis], step[axis], shape[axis] = found
    return b.one("slice", [x], starts=tuple(first), steps=tuple(step), shape=tuple(shape))


def _wide(call: NodeCall, i: int) -> Value:
    """Input i as a vector of 64-bit integers."""
    b, value = call.builder, call.input(i)
    if value.rank > 1:
        raise call.wrong(f"{call.port(i)} is no list of integers: {value}")
    wide = value if value.dtype is DType.I64 else b.one("cast", [value], to=DType.I64)
    return reshape(b, wide, wide.shape or (1,))


def _require_steps(call: NodeCall, steps: Value) -> None:
    b = call.builder
    known = b.content(steps)
    if known is not None and all(isinstance(step, int) and step for step in known):
        return
    zeros = b.one("cast", [b.one("eq", [steps, call.scalar(0, steps)])], to=DType.I64)
    call.require_value(-b.bind(total(b, "sum", zeros, 0), "zeros"), f"{call.port(4)} has a step of 0")


# A step as long as this, the largest size, takes one element of any axis.
_LONGEST = 1 << 40


def _cuts(
    call: NodeCall, starts: Value, ends: Value, steps: Value, extents: Sequence[Dim]
) -> tuple[list[Dim], list[Dim], list[Dim]]:
    """(first element, step, number of elements) for each of some axes, by the rules of `slice_extent`."""
    b, n = call.builder, integers(call.builder, extents)
    zero, one, below, longest = (b.constant(np.asarray(v, np.int64)) for v in (0, 1, -1, _LONGEST))

    def op(name: str, *values: Value) -> Value:
        return b.one(name, values)

    def clamped(at: Value, low: Value, high: Value) -> Value:
        front = op("select", op("lt", at, zero), op("add", at, n), at)
        return op("min", op("max", front, low), high)

    upwards = op("gt", steps, zero)
    high = op("select", upwards, n, op("sub", n, one))
    first, last = clamped(starts, zero, high), clamped(ends, op("select", upwards, zero, below), high)
    rising = op("min", op("max", steps, zero), longest)
    falling = op("neg", op("min", op("max", steps, op("neg", longest)), zero))
    size = op("max", op("add", rising, falling), one)
    length = op("select", upwards, op("sub", last, first), op("sub", first, last))
    number = op("max", op("div", op("sub", op("add", length, size), one), size), zero)
    up, down = (bound(call, part, "step") for part in (rising, falling))
    step = [u - d for u, d in zip(up, down, strict=True)]
    inside = op("max", op("min", first, op("sub", n, one)), zero)  # also where there are no elements
    return bound(call, inside, "start"), step, bound(call, number, "size")


# -- starts and ends ---------------------------------------------------------------------------------------------------


def _run_time_slice(call: NodeCall, start: Dim | Value, end: Dim | Value, step: int, dim: Dim) -> tuple[Dim, Dim]:
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
    inside = b.one("max", [b.one("min", [first, known(dim - 1)]), zero])  # also where there are no elements
    return b.dims(inside, "start")[0], b.dims(b.one("max", [count, zero]), "size")[0]
