"""Rows of reductions over axes, and cumulative sums."""

from __future__ import annotations

from mapsto.importers.onnx.rows.movement import axes_of
from mapsto.importers.onnx.table import Call, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops import composite

_KINDS = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod"}
# The opset from which the axes are an input.
_AXES_INPUT = {"ReduceSum": 13}


def _axes(call: Call) -> tuple[int, ...] | None:
    """The axes to reduce over; None where the op leaves its operand alone."""
    x = call.input()
    axes = axes_of(call, 1, _AXES_INPUT.get(call.op, 18))
    if not axes:
        return None if call.integer("noop_with_empty_axes", 0) else tuple(range(x.rank))
    return tuple(sorted({call.normal_axis(axis, x.rank) for axis in axes}))


def _reduce(call: Call, x: Value, kind: str, axes: tuple[int, ...] | None) -> Value:
    if axes is None or x.rank == 0:
        return x
    if x.dtype is DType.BOOL and kind in ("max", "min"):
        kind = "any" if kind == "max" else "all"
    return call.builder.one("reduce", [x], kind=kind, axes=axes, keepdims=bool(call.integer("keepdims", 1)))


@row(*_KINDS)
def _plain(call: Call) -> Result:
    return _reduce(call, call.input(), _KINDS[call.op], _axes(call))


@row("ReduceL1")
def _l1(call: Call) -> Result:
    return _reduce(call, call.builder.one("abs", [call.input()]), "sum", _axes(call))


@row("ReduceSumSquare")
def _sum_square(call: Call) -> Result:
    x = call.input()
    return _reduce(call, call.builder.one("mul", [x, x]), "sum", _axes(call))


@row("ReduceL2")
def _l2(call: Call) -> Result:
    b, x = call.builder, call.input()
    wide = x if x.dtype.is_float else b.one("cast", [x], to=DType.F32)
    norm = b.one("sqrt", [_reduce(call, b.one("mul", [wide, wide]), "sum", _axes(call))])
    return norm if norm.dtype is x.dtype else b.one("cast", [norm], to=x.dtype)


@row("ReduceLogSum")
def _log_sum(call: Call) -> Result:
    return call.builder.one("log", [_reduce(call, call.input(), "sum", _axes(call))])


@row("ReduceLogSumExp")
def _log_sum_exp(call: Call) -> Result:
    x, axes = call.input(), _axes(call)
    if axes is None or x.rank == 0:
        return x
    return composite.log_sum_exp(call.builder, x, axes, bool(call.integer("keepdims", 1)))


@row("CumSum")
def _cumsum(call: Call) -> Result:
    x = call.input()
    axis = call.normal_axis(call.static_ints(1, "the axis")[0], x.rank)
    exclusive, backwards = bool(call.integer("exclusive", 0)), bool(call.integer("reverse", 0))
    return call.builder.one("cumsum", [x], axis=axis, exclusive=exclusive, reverse=backwards)
