"""variadic(fn: add | max | min): many operands taken together from the first to the last, with numpy's broadcasting.

((x0 fn x1) fn x2) fn ...: the same as a chain of binary nodes, as one, so that a sum of thousands of values is not
thousands of nodes that are composed one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import Array, DType, from_numpy
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Op, Scalar
from mapsto.kernel.scalar import apply, convert, widen
from mapsto.ops.elementwise import content_of, lower_pointwise
from mapsto.ops.making import Making
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, op, register
from mapsto.ops.shapes import NUMBERS, broadcast_shape, describe, dim_max, dim_min, require_dtype, require_same_dtype

# Operands of one node. All of them are read in one statement, which holds that many addresses.
MOST_OPERANDS = 64
_DIMS = {"add": lambda a, b: a + b, "max": dim_max, "min": dim_min}


def combined(b: Making, fn: str, values: Sequence[Value]) -> Value:
    """The values taken together by a binary op: by binary nodes where they are few, else many to a node."""
    if len(values) <= MOST_OPERANDS:
        return functools.reduce(lambda x, y: b.one(fn, [x, y]), values)
    total, rest = values[0], values[1:]
    for start in range(0, len(rest), MOST_OPERANDS - 1):
        total = b.one("variadic", [total, *rest[start : start + MOST_OPERANDS - 1]], fn=fn)
    return total


def _infer(inference: Inference) -> list[tuple[DType, Shape]]:
    if inference.attrs["fn"] not in _DIMS or not inference.inputs:
        raise ShapeError(f"{describe(inference)}: it takes values together by one of {', '.join(_DIMS)}")
    require_dtype(inference, 0, NUMBERS)
    dtype = require_same_dtype(inference)
    return [(dtype, broadcast_shape(inference, [inference.value(i).shape for i in range(len(inference.inputs))]))]


def _reference(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
    dtype = from_numpy(inputs[0].dtype)
    wide = from_numpy(widen(inputs[0]).dtype)
    total = functools.reduce(lambda a, b: apply(attrs["fn"], [a, b], wide), inputs[1:], widen(inputs[0]))
    return [convert(np.asarray(total), dtype)]


def _build(low: Lowering, operands: list[Scalar]) -> Scalar:
    return functools.reduce(lambda a, b: Op(low.attrs["fn"], (a, b), a.dtype), operands)


def _content(inputs: list[Array], attrs: Mapping[str, Any], shapes: Sequence[Shape]) -> Array | None:
    def rule(*elements: Dim) -> Dim:
        return functools.reduce(_DIMS[attrs["fn"]], elements)

    return content_of(rule)(inputs, attrs, shapes)


def _gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """That of the chain of binary nodes, from its end."""
    spec = op(str(node.attrs["fn"]))
    assert spec.gradient is not None
    operands = [b.lookup(n) for n in node.inputs]
    partial = [operands[0]]
    for value in operands[1:]:
        partial.append(b.one(spec.name, [partial[-1], value]))
    found: list[Value | None] = []
    whole = incoming[0]
    for before, value, after in zip(partial[-2::-1], operands[:0:-1], partial[:0:-1], strict=True):
        step = Node(spec.name, (before.name, value.name), (after,))
        whole, own = spec.gradient(b, step, [whole])
        found.append(own)
    return [whole, *reversed(found)]


register(OpSpec("variadic", "elementwise", _infer, _reference, lower_pointwise(_build), _content, _gradient))
