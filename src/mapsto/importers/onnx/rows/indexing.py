"""Rows that choose elements by data: gather, scatter, nonzero, top-k, one-hot, masks."""

from __future__ import annotations

import numpy as np

from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.bounds import Allowed
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, product
from mapsto.ir.graph import Value
from mapsto.ops.arranging import column, flatten, positions, unsqueeze
from mapsto.ops.bounds import check_inside
from mapsto.ops.builder import Builder
from mapsto.ops.composite import log_softmax
from mapsto.ops.indexing import INDEX_TYPES


def as_index(b: Builder, indices: Value) -> Value:
    return indices if indices.dtype in INDEX_TYPES else b.one("cast", [indices], to=DType.I64)


@row("Gather")
def _gather(call: NodeCall) -> Result:
    data = call.input()
    axis = call.axis(data.rank, 0)
    if data.rank == 0:
        raise call.wrong("the data has no axes")
    return call.builder.one("gather", [data, as_index(call.builder, call.input(1))], axis=axis)


@row("GatherElements")
def _gather_elements(call: NodeCall) -> Result:
    b, data = call.builder, call.input()
    return b.one("gather_elements", [data, as_index(b, call.input(1))], axis=call.axis(data.rank, 0))


@row("GatherND")
def _gather_nd(call: NodeCall) -> Result:
    b = call.builder
    return b.one("gather_nd", [call.input(0), as_index(b, call.input(1))], batch_dims=call.integer("batch_dims", 0))


def _reduction(call: NodeCall) -> str:
    return call.one_of("reduction", "none", ["none", "add", "mul", "min", "max"])


@row("ScatterND")
def _scatter_nd(call: NodeCall) -> Result:
    b = call.builder
    return b.one("scatter_nd", [call.input(0), as_index(b, call.input(1)), call.input(2)], reduction=_reduction(call))


@row("ScatterElements", "Scatter")
def _scatter_elements(call: NodeCall) -> Result:
    b, data = call.builder, call.input()
    values = [data, as_index(b, call.input(1)), call.input(2)]
    return b.one("scatter_elements", values, axis=call.axis(data.rank, 0), reduction=_reduction(call))


# -- sizes that depend on data -----------------------------------------------------------------------------------------


def nonzero(b: Builder, mask: Value) -> Value:
    """Indices of the elements that are not zero, [rank, count], in row-major order; the count is bound in the run."""
    indices, count = b.add("nonzero", [mask])
    found = b.bind(count, "count")
    return b.one("slice", [indices], starts=(0, 0), steps=(1, 1), shape=(mask.rank, found))


@row("NonZero")
def _nonzero(call: NodeCall) -> Result:
    x = call.input()
    return nonzero(call.builder, x if x.rank else call.builder.one("reshape", [x], shape=(1,)))


@row("Compress")
def _compress(call: NodeCall) -> Result:
    """The slices along an axis (or the elements) whose condition holds; a condition may be shorter, not longer."""
    b, x, condition = call.builder, call.input(), call.input(1)
    if call.has_attribute("axis"):
        axis = call.axis(x.rank)
    else:
        x, axis = b.one("reshape", [x], shape=(product(x.shape),)), 0
    if condition.rank != 1 or x.rank == 0:
        raise call.wrong(f"the condition {condition} is no vector, or {x} has no axis")
    length, extent = condition.shape[0], x.shape[axis]
    said = f"the condition has {length} elements, axis {axis} has {extent}: it must not be longer"
    b.require(extent - length, said, where=b.place("compress"))
    chosen = nonzero(b, condition)
    return b.one("gather", [x, b.one("reshape", [chosen], shape=(chosen.shape[1],))], axis=axis)


@row("TopK")
def _top_k(call: NodeCall) -> Result:
    b, x = call.builder, call.input()
    k: Dim = call.integer("k") if call.opset < 10 else call.dim(1, "k")
    axis = call.axis(x.rank, -1)
    attrs = {
        "k": k,
        "axis": axis,
        "largest": bool(call.integer("largest", 1)),
        "sorted": bool(call.integer("sorted", 1)),
    }
    return b.add("topk", [x], attrs)


@row("ArgMax", "ArgMin")
def _arg(call: NodeCall) -> Result:
    x = call.input()
    return call.builder.one(
        call.op.lower(), [x], axis=call.axis(x.rank, 0), keepdims=bool(call.integer("keepdims", 1)),
        select_last=bool(call.integer("select_last_index", 0)),
    )  # fmt: skip


# -- masks -------------------------------------------------------------------------------------------------------------


@row("OneHot")
def _one_hot(call: NodeCall) -> Result:
    """values[1] where the new axis' place is the index (counted from the end where negative), else values[0]."""
    b, indices = call.builder, call.input(0)
    depth = _depth(call)
    axis = call.axis(indices.rank + 1, -1)
    off, on = (
        b.one("reshape", [b.one("slice", [call.input(2)], starts=(k,), steps=(1,), shape=(1,))], shape=())
        for k in (0, 1)
    )
    wide = indices if indices.dtype is DType.I64 else b.one("cast", [indices], to=DType.I64)
    extent = b.known(depth)
    front = b.one("select", [b.one("lt", [wide, call.scalar(0, wide)]), b.one("add", [wide, extent]), wide])
    places = column(b, positions(b, depth), axis, indices.rank + 1)
    return b.one("select", [b.one("eq", [unsqueeze(b, front, [axis]), places]), on, off])


def _depth(call: NodeCall) -> Dim:
    """The number of classes, which may be a float."""
    b, depths = call.builder, call.input(1)
    if any(d != 1 for d in depths.shape):
        raise call.wrong(f"the depth {depths} is not one element")
    array = call.array(1)
    if array is not None:
        return int(array.reshape(-1)[0])
    if depths.dtype.is_float:
        depths = b.one("reshape", [depths], shape=())
        unknown = b.one("cast", [b.one("isnan", [depths])], to=DType.I64)
        call.require_value(-b.bind(unknown, "unknown"), f"{call.port(1)} is NaN")
        depths = b.one("cast", [depths], to=DType.I64)
    return b.dims(depths, "depth", call.place(1))[0]


@row("Trilu")
def _trilu(call: NodeCall) -> Result:
    """The upper or lower triangle of the last two axes; diagonal k stays."""
    b, x = call.builder, call.input()
    if x.rank < 2:
        raise call.wrong("the operand is no matrix")
    k = b.one("reshape", [call.input(1)], shape=()) if call.has(1) else b.constant(np.asarray(0, np.int64))
    rows = column(b, positions(b, x.shape[-2]), 0, 2)
    distance = b.one("sub", [positions(b, x.shape[-1]), rows])
    kept = b.one("ge" if call.integer("upper", 1) else "le", [distance, k])
    return b.one("select", [kept, x, call.scalar(0, x)])


@row("ReverseSequence")
def _reverse_sequence(call: NodeCall) -> Result:
    """Along the time axis the first `length` elements of each batch entry turned round."""
    b, x = call.builder, call.input()
    time, batch = call.axis(x.rank, 0, "time_axis"), call.axis(x.rank, 1, "batch_axis")
    allowed = Allowed((time,), (x.shape[time],), "length", "sequence length")
    lengths = as_index(b, call.input(1))
    check_inside(b, lengths, allowed, b.place("reverse_sequence"))
    t = column(b, positions(b, x.shape[time]), time, x.rank)
    length = column(b, lengths, batch, x.rank)
    turned = b.one("sub", [b.one("sub", [length, call.scalar(1, length)]), t])
    source = b.one("select", [b.one("lt", [t, length]), turned, t])
    return b.one("gather_elements", [x, b.one("expand", [source], shape=x.shape)], axis=time)


@row("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def _cross_entropy(call: NodeCall) -> Result:
    """-weight[target] * log p[target], summed, averaged by weight, or for each place. Classes on axis 1."""
    b, scores, target = call.builder, call.input(0), as_index(call.builder, call.input(1))
    softmax = call.op == "SoftmaxCrossEntropyLoss"
    if scores.rank < 2:
        raise call.wrong(f"the scores {scores} have no axis of classes")
    logs = log_softmax(b, scores, 1) if softmax else scores
    weight = call.optional(2)
    ignored = None
    if call.has_attribute("ignore_index"):
        ignored = b.one("eq", [target, b.constant(np.asarray(call.integer("ignore_index")), "c", target.dtype)])
        target = b.one("select", [ignored, call.scalar(0, target), target])
    check_inside(b, target, Allowed((1,), (scores.shape[1],), "place", "target"), b.place("cross_entropy"))
    found = b.one("gather_elements", [logs, unsqueeze(b, target, [1])], axis=1)
    loss = b.one("neg", [b.one("reshape", [found], shape=target.shape)])
    factor = b.one("gather", [weight, target], axis=0) if weight is not None else None
    if ignored is not None:
        ones = factor if factor is not None else b.one("full", [], shape=target.shape, value=1.0, dtype=loss.dtype)
        factor = b.one("select", [ignored, call.scalar(0, loss), ones])
    loss = loss if factor is None else b.one("mul", [loss, factor])
    reduction = call.one_of("reduction", "mean", ["none", "sum", "mean"])
    result = loss if reduction == "none" else _total(b, loss)
    if reduction == "mean":
        count = (
            _total(b, factor) if factor is not None else b.one("cast", [b.known(product(loss.shape))], to=loss.dtype)
        )
        result = b.one("div", [result, count])
    return [result, logs] if softmax else result


def _total(b: Builder, x: Value) -> Value:
    return b.one("reduce", [flatten(b, x, 0)], kind="sum", axes=(0, 1), keepdims=False)
