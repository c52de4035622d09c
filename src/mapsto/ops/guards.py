"""Ops that stop a run with a message: `require` (a condition on sizes) and `fail` (a branch that these shapes rule
out).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mapsto.errors import ExecutionError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr
from mapsto.ir.graph import Node
from mapsto.ops.registry import Inference, OpSpec, Shape, register


def _infer_require(inference: Inference) -> list[tuple[DType, Shape]]:
    return []


def _require(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    if attrs["condition"] < 0:
        raise ExecutionError(str(attrs["message"]))
    return []


# require(condition: Dim, message: str, always, liftable: True or left out): no inputs, no outputs; the run stops with
# the message where condition < 0. always: also where nothing but the condition uses the sizes that it speaks of.
# liftable: a graph in which these are fixed may do without it.
register(OpSpec("require", "control", _infer_require, _require, foldable=False))


def _infer_fail(inference: Inference) -> list[tuple[DType, Shape]]:
    return list(zip(inference.attrs["dtypes"], inference.attrs["shapes"], strict=True))


def _fail(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    raise ExecutionError(str(attrs["message"]))


# fail(message: str, dtypes, shapes): yields values of these types that nobody ever sees, as reaching it stops the run.
register(OpSpec("fail", "control", _infer_fail, _fail, foldable=False))


def required_of(node: Node) -> Dim:
    """What a `require` node sees to: that this is at least 0."""
    condition = node.attrs["condition"]
    assert isinstance(condition, (int, Expr))
    return condition
