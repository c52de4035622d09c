"""Rows of reductions over axes, and cumulative sums."""

from __future__ import annotations

import numpy as np

from mapsto.importers.onnx.rows.movement import axes_of
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops import composite

_KINDS = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod"}
# The opset from which the axes are an input.
_AXES_INPUT = {"ReduceSum": 13}


def _axes(call: NodeCall) -> tuple[int, ...] | None:
    """The axes to reduce over; None where the op leaves its operand alone."""
    x = call.input()
    axes = axes_of(call, 1, _AXES_INPUT.get(call.op, 18))
    if not axes:
        return None if call.integer("noop_with_empty_axes", 0) else tuple(range(x.rank))
    return tuple(sorted({call.normal_axis(axis, x.rank) for axis in axes}))


def _reduce(call: NodeCall, x: Value, kind: str, axes: tuple[int, ...] | None) -> Value:
    if axes is None or x.rank == 0:
        return x
    if x.dtype is DType.BOOL and kind in ("max", "min"):
        kind = "any" if kind == "max" else "all"
    return call.builder.one("reduce", [x], kind=kind, axes=axes, keepdims=bool(call.integer("keepdims", 1)))


@row(*_KINDS)
def _plain(call: NodeCall) -> Result:
    return _reduce(call, call.input(), _KINDS[call.op], _axes(call))


@row("ReduceL1")
def _l1(call: NodeCall) -> Result:
    return _reduce(call, call.builder.one("abs", [call.input()]), "sum", _axes(call))


@row("ReduceSumSquare")
def _sum_square(call: NodeCall) -> Result:
    x = call.input()
    return _reduce(call, call.builder.one("mul", [x, x]), "sum", _axes(call))


@row("ReduceL2")
def _l2(call: NodeCall) -> Result:
    b, x = call.builder, call.input()
    if not x.dtype.is_float:
        return _integer_l2(call, x)
    return b.one("sqrt", [_reduce(call, b.one("mul", [x, x]), "sum", _axes(call))])


def _integer_l2(call: NodeCall, x: Value) -> Value:
    """The root of the sum of squares, rounded down; the largest number of the type where it is larger.

    Sums below 2^63 are held exactly, and the root of their f64 is at most 1 off; larger ones are summed in f64.
    """
    b, axes = call.builder, _axes(call)

    def whole(number: int) -> Value:
        return b.constant(np.asarray(number, np.uint64))

    wide, real = b.one("cast", [x], to=DType.U64), b.one("cast", [x], to=DType.F64)
    total, approximate = (_reduce(call, b.one("mul", [v, v]), "sum", axes) for v in (wide, real))
    root = b.one("cast", [b.one("sqrt", [b.one("cast", [total], to=DType.F64)])], to=DType.U64)
    root = b.one("min", [root, whole((1 << 32) - 1)])
    above = b.one("cast", [b.one("gt", [b.one("mul", [root, root]), total])], to=DType.U64)
    root = b.one("sub", [root, above])
    following = b.one("add", [root, whole(1)])
    fits = b.one("le", [b.one("mul", [following, following]), total])
    root = b.one("min", [b.one("select", [fits, following, root]), whole(int(np.iinfo(x.dtype.numpy).max))])
    exact = b.one("lt", [approximate, b.constant(np.asarray(2.0**63))])
    large = b.one("cast", [b.one("sqrt", [approximate])], to=x.dtype)
    return b.one("select", [exact, b.one("cast", [root], to=x.dtype), large])


@row("ReduceLogSum")
def _log_sum(call: NodeCall) -> Result:
    """Of integers the sum in 64 bits, its logarithm in f64, truncated."""
    b, x = call.builder, call.input()
    if x.dtype.is_float:
        return b.one("log", [_reduce(call, x, "sum", _axes(call))])
    wide = b.one("cast", [x], to=DType.I64 if x.dtype.is_signed else DType.U64)
    total = b.one("cast", [_reduce(call, wide, "sum", _axes(call))], to=DType.F64)
    return b.one("cast", [b.one("log", [total])], to=x.dtype)


@row("ReduceLogSumExp")
def _log_sum_exp(call: NodeCall) -> Result:
    x, axes = call.input(), _axes(call)
    if axes is None or x.rank == 0:
        return x
    keep = bool(call.integer("keepdims", 1))
    if x.dtype.is_float:
        return composite.log_sum_exp(call.builder, x, axes, keep)
    wide = call.builder.one("cast", [x], to=DType.F64)
    return call.builder.one("cast", [composite.log_sum_exp(call.builder, wide, axes, keep)], to=x.dtype)


@row("CumSum", "CumProd")
def _cumsum(call: NodeCall) -> Result:
    x = call.input()
    axis = call.normal_axis(call.static_int(1, "the axis"), x.rank)
    exclusive, backwards = bool(call.integer("exclusive", 0)), bool(call.integer("reverse", 0))
    return call.builder.one(call.op.lower(), [x], axis=axis, exclusive=exclusive, reverse=backwards)
