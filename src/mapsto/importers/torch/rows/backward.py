"""Rows of the operators that torch's own rules of differentiation are made of."""

from __future__ import annotations

from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.graph import Value


@aten("tanh_backward")
def _tanh(call: AtenCall) -> Value:
    g, y = call.value("grad_output"), call.value("output")
    return call.one("mul", [g, call.one("sub", [call.scalar(1.0, y.dtype), call.one("mul", [y, y])])])
