"""Rows that make tensors from sizes: Constant, Shape, Size, Range, ConstantOfShape, EyeLike."""

from __future__ import annotations

import math

import numpy as np

from mapsto.importers.onnx.rows.common import float_as_dims
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType, scalar
from mapsto.ir.expr import Dim, ceildiv, product
from mapsto.ir.graph import Value
from mapsto.ops.shapes import dim_max


@row("Constant")
def _constant(call: NodeCall) -> Result:
    b = call.builder
    tensor = call.tensor("value")
    if tensor is not None:
        return b.constant(tensor, call.outputs[0] or "c")
    for name, read, dtype in (
        ("value_float", lambda: call.number("value_float"), DType.F32),
        ("value_floats", lambda: call.numbers("value_floats"), DType.F32),
        ("value_int", lambda: call.integer("value_int"), DType.I64),
        ("value_ints", lambda: call.integers("value_ints"), DType.I64),
    ):
        if call.has_attribute(name):
            return b.constant(np.asarray(read(), dtype=dtype.numpy), call.outputs[0] or "c")
    raise call.unsupported(
        f"a constant of {', '.join(call.attributes) or 'nothing'} is not supported; only dense tensors of numbers are"
    )


@row("Shape")
def _shape(call: NodeCall) -> Result:
    shape = call.input().shape
    start, end = call.integer("start", 0), call.integer("end", len(shape))
    return call.builder.known(np.array(shape[slice(*_clamped(start, end, len(shape)))], dtype=object))


def _clamped(start: int, end: int, rank: int) -> tuple[int, int]:
    first, last = (max(0, min(at + rank if at < 0 else at, rank)) for at in (start, end))
    return first, max(first, last)


@row("Size")
def _size(call: NodeCall) -> Result:
    return call.builder.known(product(call.input().shape))


@row("ConstantOfShape")
def _constant_of_shape(call: NodeCall) -> Result:
    value = call.tensor("value")
    element = np.zeros(1, np.float32) if value is None else value.reshape(-1)
    if element.size != 1:
        raise call.wrong(f"attribute value has {element.size} elements, not 1")
    filler = call.builder.constant(element[0])
    if call.input().rank != 1:
        raise call.wrong("the shape must be a list of integers")
    return call.builder.one("full", [], shape=tuple(call.dims(0)), value=scalar(element), dtype=filler.dtype)


# -- Range -------------------------------------------------------------------------------------------------------------


@row("Range")
def _range(call: NodeCall) -> Result:
    """start, start + delta, ... up to limit: max(0, ceil((limit - start) / delta)) elements."""
    b = call.builder
    start, limit, delta = (call.input(i) for i in range(3))
    if any(d != 1 for v in (start, limit, delta) for d in v.shape if isinstance(d, int)):
        raise call.wrong(f"{start}, {limit} and {delta} are not one number each")
    constants = [b.array(v) for v in (start, limit, delta)]
    if all(a is not None for a in constants):
        return _constant_range(call, [a.reshape(-1)[0].item() for a in constants if a is not None], start.dtype)
    dims = [float_as_dims(b, v) for v in (start, limit, delta)]
    if dims[0] is not None and dims[1] is not None and isinstance(dims[2], int) and dims[2] != 0:
        step = dims[2]
        span = dims[1] - dims[0] if step > 0 else dims[0] - dims[1]
        count = dim_max(ceildiv(span, abs(step)), 0)
        if start.dtype.is_float and not isinstance(dims[0], int):
            return _run_time_range(count, call, start, delta)
        return b.one(
            "iota",
            [],
            shape=(count,),
            start=_plain(dims[0], start.dtype),
            step=_plain(step, start.dtype),
            dtype=start.dtype,
        )
    if dims[2] == 0:
        raise call.wrong("delta is zero")
    return _run_time_range(_count(call, start, limit, delta), call, start, delta)


def _plain(dim: Dim, dtype: DType) -> Dim | float:
    return float(dim) if dtype.is_float and isinstance(dim, int) else dim


def _constant_range(call: NodeCall, numbers: list[float], dtype: DType) -> Value:
    start, limit, delta = numbers
    if delta == 0 or not all(math.isfinite(n) for n in numbers):
        raise call.wrong(f"Range({start}, {limit}, {delta}) has no end")
    if isinstance(start, int):
        count = max(0, -((start - limit) // delta))
    else:
        count = max(0, math.ceil((limit - start) / delta))
    return call.builder.one("iota", [], shape=(count,), start=start, step=delta, dtype=dtype)


# The count that stands for no end: more elements than any memory holds.
_ENDLESS = 1 << 40


def _count(call: NodeCall, start: Value, limit: Value, delta: Value) -> Dim:
    """The number of elements, computed in the run and bound to a symbol; a delta of zero stops the run."""
    b = call.builder
    ends = b.one("ne", [delta, call.scalar(0, delta)])
    endless, zero = (b.constant(np.asarray(n, np.int64)) for n in (_ENDLESS, 0))
    if start.dtype.is_float:
        first, last, step = (b.one("cast", [v], to=DType.F64) for v in (start, limit, delta))
        ratio = b.one("div", [b.one("sub", [last, first]), step])
        ends = b.one("and", [ends, b.one("eq", [ratio, ratio])])
        count = b.one("max", [b.one("cast", [b.one("ceil", [ratio])], to=DType.I64), zero])
    else:
        count = _integer_count(call, start, limit, delta)
    count = b.one("select", [ends, b.one("min", [count, endless]), endless])
    elements = b.bind(b.one("reshape", [count], shape=()), "range")
    b.require(_ENDLESS - 1 - elements, "Range has no end: its delta is zero or far too small, or an operand is NaN")
    return elements


def _integer_count(call: NodeCall, start: Value, limit: Value, delta: Value) -> Value:
    """(|limit - start| - 1) // |delta| + 1 where delta points from start to limit, else 0.

    In 64 bits without a sign, which hold the distance of any two integers and the size of any delta.
    """
    b = call.builder
    first, last, step = (b.one("cast", [v], to=DType.I64) for v in (start, limit, delta))
    zero = b.constant(np.asarray(0, np.int64))
    up = b.one("gt", [step, zero])
    ahead = b.one("select", [up, b.one("lt", [first, last]), b.one("gt", [first, last])])
    span = b.one("select", [up, b.one("sub", [last, first]), b.one("sub", [first, last])])
    span, size = (b.one("cast", [v], to=DType.U64) for v in (span, b.one("abs", [step])))
    one = b.constant(np.asarray(1, np.uint64))
    count = b.one("add", [b.one("div", [b.one("sub", [span, one]), size]), one])
    count = b.one("min", [count, b.constant(np.asarray(_ENDLESS, np.uint64))])
    return b.one("select", [ahead, b.one("cast", [count], to=DType.I64), zero])


def _run_time_range(count: Dim, call: NodeCall, start: Value, delta: Value) -> Value:
    b = call.builder
    integers = b.one("iota", [], shape=(count,), start=0, step=1, dtype=DType.I64)
    positions = integers if start.dtype is DType.I64 else b.one("cast", [integers], to=start.dtype)
    return b.one(
        "add", [b.one("mul", [positions, b.one("reshape", [delta], shape=())]), b.one("reshape", [start], shape=())]
    )


# -- the unit matrix ---------------------------------------------------------------------------------------------------


@row("EyeLike")
def _eye_like(call: NodeCall) -> Result:
    b, x = call.builder, call.input()
    if x.rank != 2:
        raise call.wrong(f"the operand has {x.rank} axes, not 2")
    rows = b.one("iota", [], shape=(x.shape[0],), start=call.integer("k", 0), step=1, dtype=DType.I64)
    columns = b.one("iota", [], shape=(x.shape[1],), start=0, step=1, dtype=DType.I64)
    diagonal = b.one("eq", [b.one("reshape", [rows], shape=(x.shape[0], 1)), columns])
    return b.one("cast", [diagonal], to=call.dtype("dtype", x.dtype))
