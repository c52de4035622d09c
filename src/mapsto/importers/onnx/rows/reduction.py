"""Rows of reductions over axes, and cumulative sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapsto.importers.onnx.rows.axes import Chosen, around, compacted, integers, known_axes, one_axis, paired
from mapsto.importers.onnx.rows.movement import axes_of
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import reshape

_KINDS = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod"}
# The opset from which the axes are an input.
_AXES_INPUT = {"ReduceSum": 13}


@dataclass(frozen=True)
class _Over:
    """What is reduced over: these axes of `x`, a tensor that is looked at in a shape that has them. None: nothing."""

    call: NodeCall
    x: Value
    axes: tuple[int, ...] | None
    keepdims: bool
    shape: tuple[Dim, ...] | None = None  # what the result is to be brought to

    def like(self, x: Value) -> Value:
        """Another tensor of the operand's shape, looked at in the same way."""
        return reshape(self.call.builder, x, self.x.shape)

    def reduced(self, x: Value, kind: str) -> Value:
        """x, which has the operand's shape, reduced."""
        x = self.like(x)
        if self.axes is None or x.rank == 0:
            return x
        if x.dtype is DType.BOOL and kind in ("max", "min"):
            kind = "any" if kind == "max" else "all"
        return self.brought(self.call.builder.one("reduce", [x], kind=kind, axes=self.axes, keepdims=self.keepdims))

    def brought(self, result: Value) -> Value:
        """A result in the shape that the node says."""
        return result if self.shape is None else reshape(self.call.builder, result, self.shape)


def _over(call: NodeCall) -> _Over:
    """The axes that the node names; all of them, or none, where it names none."""
    x, keepdims = call.input(), bool(call.integer("keepdims", 1))
    noop = bool(call.integer("noop_with_empty_axes", 0))
    axes = axes_of(call, 1, _AXES_INPUT.get(call.op, 18))
    if isinstance(axes, Chosen):
        return _over_chosen(call, axes, keepdims, noop)
    if not axes:
        return _Over(call, x, None if noop else tuple(range(x.rank)), keepdims)
    return _Over(call, x, tuple(sorted({call.normal_axis(axis, x.rank) for axis in axes})), keepdims)


def _over_chosen(call: NodeCall, axes: Chosen, keepdims: bool, noop: bool) -> _Over:
    """Axes that only a run knows. A list that may be empty may stand for all of them."""
    b, x = call.builder, call.input()
    if x.rank == 0:
        return _Over(call, x, None, keepdims)
    if not keepdims and not isinstance(axes.count, int):
        raise call.unsupported(
            f"with keepdims=0 the rank of the result hangs on how many axes {call.port(1)} names; fix that by "
            "`shapes`, or keep the axes",
            [axes.count],
        )
    mask = axes.mask()
    if not noop and isinstance(axes.count, Expr):
        none = b.one("eq", [b.known(axes.count), b.known(0)])
        mask = b.one("or", [mask, none])
    paired_x, kept = paired(call, x, mask)
    odd = tuple(range(1, paired_x.rank, 2))
    shape: list[Dim] = kept
    if not keepdims:
        assert isinstance(axes.count, int)
        left = x.rank - axes.count
        shape = compacted(call, integers(b, x.shape), b.one("not", [mask]), max(left, 0))
    return _Over(call, paired_x, odd, False, tuple(shape))


@row(*_KINDS)
def _plain(call: NodeCall) -> Result:
    return _over(call).reduced(call.input(), _KINDS[call.op])


@row("ReduceL1")
def _l1(call: NodeCall) -> Result:
    return _over(call).reduced(call.builder.one("abs", [call.input()]), "sum")


@row("ReduceSumSquare")
def _sum_square(call: NodeCall) -> Result:
    x = call.input()
    return _over(call).reduced(call.builder.one("mul", [x, x]), "sum")


@row("ReduceL2")
def _l2(call: NodeCall) -> Result:
    b, x = call.builder, call.input()
    if not x.dtype.is_float:
        return _integer_l2(call, x)
    return b.one("sqrt", [_over(call).reduced(b.one("mul", [x, x]), "sum")])


def _integer_l2(call: NodeCall, x: Value) -> Value:
    """The root of the sum of squares, rounded down; the largest number of the type where it is larger.

    Sums below 2^63 are held exactly, and the root of their f64 is at most 1 off; larger ones are summed in f64.
    """
    b, over = call.builder, _over(call)

    def whole(number: int) -> Value:
        return b.constant(np.asarray(number, np.uint64))

    wide, real = b.one("cast", [x], to=DType.U64), b.one("cast", [x], to=DType.F64)
    total, approximate = (over.reduced(b.one("mul", [v, v]), "sum") for v in (wide, real))
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
        return b.one("log", [_over(call).reduced(x, "sum")])
    wide = b.one("cast", [x], to=DType.I64 if x.dtype.is_signed else DType.U64)
    total = b.one("cast", [_over(call).reduced(wide, "sum")], to=DType.F64)
    return b.one("cast", [b.one("log", [total])], to=x.dtype)


@row("ReduceLogSumExp")
def _log_sum_exp(call: NodeCall) -> Result:
    b, x, over = call.builder, call.input(), _over(call)
    if over.axes is None or x.rank == 0:
        return x
    if x.dtype.is_float:
        return over.brought(composite.log_sum_exp(b, over.like(x), over.axes, over.keepdims))
    wide = over.like(b.one("cast", [x], to=DType.F64))
    found = composite.log_sum_exp(b, wide, over.axes, over.keepdims)
    return over.brought(b.one("cast", [found], to=x.dtype))


@row("CumSum", "CumProd")
def _cumsum(call: NodeCall) -> Result:
    b, x = call.builder, call.input()
    attrs = {"exclusive": bool(call.integer("exclusive", 0)), "reverse": bool(call.integer("reverse", 0))}
    axes = known_axes(call, 1, x.rank)
    if axes is not None:
        return b.one(call.op.lower(), [x], axis=call.only(axes, 1), **attrs)
    if not x.rank:
        raise call.wrong(f"{x} has no axis to go along")
    rows = reshape(b, x, around(call, one_axis(call, 1, x.rank), x.shape))
    return reshape(b, b.one(call.op.lower(), [rows], axis=1, **attrs), x.shape)
