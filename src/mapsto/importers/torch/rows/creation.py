"""Rows of tensors that are made of numbers: filled, counted, spaced, triangles, random ones."""

from __future__ import annotations

import math

import numpy as np

from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, ceildiv
from mapsto.ir.graph import Value
from mapsto.ops.arranging import column, positions


def _shape(call: AtenCall) -> tuple[Dim, ...]:
    for name in ("size", "sizes"):
        if name in call.given:
            return tuple(call.dims(name))
    return call.value().shape


def filled(call: AtenCall, shape: tuple[Dim, ...], number: object) -> Value:
    """A tensor of one number everywhere, which may be of the run."""
    if isinstance(number, (Value, Expr)):
        return call.one("expand", [call.scalar(number, call.out)], shape=shape)
    one = np.asarray(number).astype(call.out.numpy).item()
    return call.one("full", [], shape=shape, value=one, dtype=call.out)


@aten("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
@aten("_efficientzerotensor", "empty_permuted")
def _zeros(call: AtenCall) -> Value:
    return filled(call, _shape(call), 0)


@aten("ones", "ones_like", "new_ones")
def _ones(call: AtenCall) -> Value:
    return filled(call, _shape(call), 1)


@aten("full", "full_like", "new_full", "fill")
def _full(call: AtenCall) -> Value:
    name = "fill_value" if "fill_value" in call.given else "value"
    return filled(call, _shape(call), call.given[name])


@aten("zero")
def _zero(call: AtenCall) -> Value:
    return filled(call, call.value().shape, 0)


@aten("scalar_tensor")
def _scalar_tensor(call: AtenCall) -> Value:
    return call.scalar(call.given["s"], call.out)


@aten("arange")
def _arange(call: AtenCall) -> Value:
    start, step = (call.given[n] if call.has(n) else d for n, d in (("start", 0), ("step", 1)))
    end, kind = call.given["end"], call.out
    if any(isinstance(v, Value) for v in (start, end, step)):
        raise call.unsupported("a start, end or step that only a run knows is not supported; use sizes")
    if all(isinstance(v, (int, Expr)) for v in (start, end, step)) and isinstance(step, int):
        extent = ceildiv(end - start, step) if step > 0 else ceildiv(start - end, -step)
        return call.one("iota", [], shape=(_held(call, extent),), start=start, step=step, dtype=kind)
    if any(isinstance(v, Expr) for v in (start, end, step)):
        raise call.unsupported("steps of floats up to a size that only a run knows are not supported")
    extent = max(math.ceil((end - start) / step), 0)
    return call.builder.constant(
        (float(start) + np.arange(extent, dtype=np.float64) * float(step)).astype(kind.numpy), "steps"
    )


def _held(call: AtenCall, extent: Dim) -> Dim:
    """An extent that is at least 0, as torch has made sure of."""
    if isinstance(extent, int):
        return max(extent, 0)
    if not call.builder.proves(extent):
        call.builder.require(extent, f"its result would have {extent} elements")
    return extent


@aten("linspace.default", "logspace.default")
def _linspace(call: AtenCall) -> Value:
    """From both ends to the middle, so that the last number is the end."""
    start, end, steps = call.number("start"), call.number("end"), call.integer("steps")
    i = np.arange(steps, dtype=np.float64)
    step = (end - start) / (steps - 1) if steps > 1 else 0.0
    points = np.where(i < steps / 2, start + step * i, end - step * (steps - 1 - i)) if steps > 1 else i * 0 + start
    if call.name == "logspace":
        points = call.number("base", 10.0) ** points
    kind = call.out
    return call.builder.constant(
        points.astype(np.float32).astype(kind.numpy) if kind.is_half else points.astype(kind.numpy), "steps"
    )


@aten("eye")
def _eye(call: AtenCall) -> Value:
    rows, columns = call.shape
    down = column(call.builder, positions(call.builder, rows), 0, 2)
    return call.cast(call.one("eq", [down, positions(call.builder, columns)]), call.out)


@aten("tril", "triu")
def _triangle(call: AtenCall) -> Value:
    b, x = call.builder, call.value()
    down = column(b, positions(b, x.shape[-2]), 0, 2)
    distance = call.one("sub", [positions(b, x.shape[-1]), down])
    kept = call.one("le" if call.name == "tril" else "ge", [distance, call.operand("diagonal", DType.I64)])
    return call.one("select", [kept, x, call.scalar(0, x.dtype)])


@aten("tril_indices", "triu_indices")
def _triangle_indices(call: AtenCall) -> Value:
    function = np.tril_indices if call.name == "tril_indices" else np.triu_indices
    found = function(call.integer("row"), call.integer("offset"), call.integer("col"))
    return call.builder.constant(np.stack(found).astype(call.out.numpy), "places")


@aten("diag_embed")
def _diag_embed(call: AtenCall) -> Value:
    """A last axis laid along the diagonal of two new ones."""
    from mapsto.ops.arranging import transpose, unsqueeze

    b, x, offset = call.builder, call.value(), call.integer("offset")
    rank = x.rank + 1
    first, second = (call.integer(n) % rank for n in ("dim1", "dim2"))
    n = x.shape[-1] + abs(offset)
    low, high = (0, offset) if offset >= 0 else (-offset, 0)
    padded = call.one(
        "pad", [x], before=(*(0,) * (x.rank - 1), low), after=(*(0,) * (x.rank - 1), high), mode="constant",
        value=0.0 if x.dtype.is_float else 0,
    )  # fmt: skip
    down = column(b, positions(b, n), 0, 2)
    on = call.one("eq", [call.one("add", [down, call.scalar(offset, DType.I64)]), positions(b, n)])
    made = call.one("select", [on, unsqueeze(b, padded, [x.rank]), call.scalar(0, x.dtype)])
    perm = [k for k in range(rank) if k not in (first, second)]
    places = {k: at for at, k in enumerate(perm)} | {first: rank - 2, second: rank - 1}
    return transpose(b, made, [places[k] for k in range(rank)])
