"""`copy`: the same elements in memory of their own; `detach`: the same elements, of which no gradient is taken.

Only graph outputs need a copy, where one value would have to be two: an output that is an input or a constant, or that
has two names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Stmt
from mapsto.ops.making import Making
from mapsto.ops.registry import Inference, Lowering, OpSpec, Shape, register


def _infer(inference: Inference) -> list[tuple[DType, Shape]]:
    value = inference.value(0)
    return [(value.dtype, value.shape)]


def _copy(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    return [np.array(inputs[0])]


def _lower(low: Lowering) -> list[Stmt]:
    iters = low.iters(low.output.shape)
    return [low.stmt(iters, low.load(0, [sym(i.name) for i in iters]))]


def _gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    return [incoming[0]]


# Not folded: the copy is what is wanted.
register(OpSpec("copy", "elementwise", _infer, _copy, _lower, gradient=_gradient, foldable=False))


def _no_gradient(b: Making, node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    return [None]


register(OpSpec(
    "detach", "elementwise", _infer, _copy, _lower, content=lambda inputs, attrs, shapes: inputs[0],
    gradient=_no_gradient,
))  # fmt: skip
