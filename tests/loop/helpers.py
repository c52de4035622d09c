"""Functions of the loop language built around one expression, for tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mapsto.ir.dtypes import DType, from_numpy
from mapsto.loop.ast import Function, Load, Param, Statement, Store, Type, Value
from mapsto.loop.interpret import interpret


def fresh_names() -> Callable[[str], str]:
    count = 0

    def fresh(hint: str) -> str:
        nonlocal count
        count += 1
        return f"{hint}{count}"

    return fresh


def elementwise(
    build: Callable[[list[Value]], tuple[list[Statement], Value]], elements: list[DType], lanes: int
) -> Function:
    """out[0:lanes] = build(in0[0:lanes], in1[0:lanes], ...)."""
    loads: list[Value] = [Load(f"in{i}", 0, Type(e, lanes)) for i, e in enumerate(elements)]
    statements, value = build(loads)
    params = tuple(Param(f"in{i}", e) for i, e in enumerate(elements))
    out = Param("out", value.type.element, writes=True)
    return Function("elementwise", (*params, out), (), (*statements, Store("out", 0, value)))


def evaluate_lanes(
    build: Callable[[list[Value]], tuple[list[Statement], Value]], inputs: list[np.ndarray]
) -> np.ndarray:
    """The interpreter's result over all elements of the inputs at once (padded to a power of two)."""
    count = inputs[0].size
    lanes = 1 << (count - 1).bit_length()
    padded = [np.concatenate([x, np.ones(lanes - count, x.dtype)]) for x in inputs]
    function = elementwise(build, [from_numpy(x.dtype) for x in inputs], lanes)
    out = np.zeros(lanes, function.params[-1].element.numpy)
    interpret(function, [*padded, out], {}, 0, 1)
    return out[:count]
