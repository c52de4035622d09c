"""Losses: what a model's output has to do with what was wanted, as one float that a gradient is taken of."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.builder import Builder

Loss = Callable[[Builder, Value, str], Value]
"""(builder, the model's output, the name for the input that holds what was wanted) -> a float of shape []."""


def cross_entropy(b: Builder, scores: Value, label: str) -> Value:
    """-log softmax(scores)[label], averaged. scores: float [N, classes]; the label input: i64 [N], each in
    [0, classes).
    """
    if scores.rank != 2 or not scores.dtype.is_float:
        raise ShapeError(f"cross_entropy takes scores of shape [N, classes], not {scores}")
    count, classes = scores.shape
    wanted = b.input(label, DType.I64, (count,))
    places = b.one("iota", [], start=0, step=1, shape=(classes,), dtype=DType.I64)
    chosen = b.one("eq", [b.one("reshape", [wanted], shape=(count, 1)), places])
    logs = composite.log_softmax(b, scores, 1)
    zero = composite.scalar(b, 0.0, logs)
    each = composite.reduce(b, b.one("select", [chosen, logs, zero]), "sum", [1], keepdims=False)
    return b.one("neg", [composite.reduce(b, each, "mean", [0], keepdims=False)])


def mean_squared_error(b: Builder, output: Value, target: str) -> Value:
    """(output - target)^2, averaged over all elements. The target input has the type of the output."""
    if not output.dtype.is_float:
        raise ShapeError(f"mean_squared_error takes a float output, not {output}")
    difference = b.one("sub", [output, b.input(target, output.dtype, output.shape)])
    square = b.one("mul", [difference, difference])
    return composite.reduce(b, square, "mean", range(output.rank), keepdims=False)


LOSSES: Mapping[str, Loss] = {"cross_entropy": cross_entropy, "mean_squared_error": mean_squared_error}
