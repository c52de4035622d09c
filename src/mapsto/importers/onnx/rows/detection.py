"""Rows of object detection: non-maximum suppression."""

from __future__ import annotations

from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.expr import Dim


@row("NonMaxSuppression")
def _non_max_suppression(call: NodeCall) -> Result:
    """Rows (batch, class, box) of what stays; their number is bound in the run. Without a limit: none."""
    b = call.builder
    limit: Dim = 0
    if call.has(2):  # below zero it is none as well
        most = b.one("max", [call.input(2), call.scalar(0, call.input(2))])
        limit = call.only(b.dims(most, "limit", call.place(2)), 2)
    operands = [call.input(0), call.input(1), call.optional(3), call.optional(4)]
    attrs = {"limit": limit, "center": bool(call.integer("center_point_box", 0))}
    indices, count = b.add("non_max_suppression", operands, attrs)
    return b.one("slice", [indices], starts=(0, 0), steps=(1, 1), shape=(b.bind(count, "count"), 3))
