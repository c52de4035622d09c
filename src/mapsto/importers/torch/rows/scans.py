"""Rows of running sums, products and extremes along an axis."""

from __future__ import annotations

from mapsto.importers.torch.rows.pointwise import wide
from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import column, unsqueeze


@aten("cumsum", "cumprod")
def _running(call: AtenCall) -> Value:
    x = call.cast(call.value(), call.out)
    if x.rank == 0:
        return x
    return call.one(call.name, [x], axis=call.axis(), exclusive=False, reverse=False)


@aten("logcumsumexp")
def _logcumsumexp(call: AtenCall) -> Value:
    """Shifted by the maximum of the whole axis."""
    x = wide(call, call.value())
    if x.rank == 0:
        return call.value()
    top = composite.reduce(call.builder, x, "max", [call.axis()])
    infinite = call.one("isinf", [top], detect_positive=True, detect_negative=True)
    top = call.one("select", [infinite, call.scalar(0.0, x.dtype), top])
    e = call.one("exp", [call.one("sub", [x, top])])
    total = call.one("cumsum", [e], axis=call.axis(), exclusive=False, reverse=False)
    return call.cast(call.one("add", [call.one("log", [total]), top]), call.out)


@aten("bucketize", "searchsorted")
def _bucketize(call: AtenCall) -> Value:
    """How many boundaries lie below each element, or with `right` not above it."""
    b = call.builder
    edges = call.value("boundaries" if call.name == "bucketize" else "sorted_sequence")
    right = call.flag("right") or call.text("side", "left") == "right"
    if call.has("sorter"):
        order = call.cast(call.value("sorter"), DType.I64)
        edges = call.one("gather_elements", [edges, order], axis=edges.rank - 1)
    kind = call.promoted(*[a.name for a in call.target._schema.arguments][:2])
    x, edges = call.operand("self", kind), call.cast(edges, kind)
    several = edges.rank > 1  # a sequence for each row
    spread = unsqueeze(b, edges, [edges.rank - 1]) if several else column(b, edges, x.rank, x.rank + 1)
    below = call.one("le" if right else "lt", [spread, unsqueeze(b, x, [x.rank])])
    found = composite.reduce(b, call.cast(below, call.out), "sum", [x.rank], keepdims=False)
    return found if edges.shape[-1] != 0 else call.one("full", [], shape=x.shape, value=0, dtype=call.out)
