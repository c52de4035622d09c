"""Tallies of recurrent layers: products with the weights that a node has, in the type that is computed in."""

from __future__ import annotations

import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, sym
from mapsto.ir.graph import Node, Value
from mapsto.plan.routine_tally import routine_tally

STEPS, BATCH, INPUTS, HIDDEN = 7, 3, 16, 32


def lstm(time: Dim, batch: Dim, dtype: DType, of_x: bool) -> tuple[Node, list[Value | None]]:
    columns = 2 * 4 * HIDDEN
    computed = DType.F64 if dtype is DType.F64 else DType.F32
    x = Value("x", dtype, (time, batch, INPUTS)) if of_x else Value("x", computed, (time, batch, columns))
    r = Value("r", dtype, (2, 4 * HIDDEN, HIDDEN))
    states: list[Value | None] = [None, None, None, None]
    weights = [*states, Value("w", dtype, (2, 4 * HIDDEN, INPUTS))] if of_x else []
    operands: list[Value | None] = [x, r, *weights]
    y, state = Value("y", dtype, (time, 2, batch, HIDDEN)), (2, batch, HIDDEN)
    outputs = (y, Value("h", dtype, state), Value("c", dtype, state))
    return Node(
        "lstm", tuple("" if v is None else v.name for v in operands), outputs, {"direction": "bidirectional"}
    ), operands


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.F64], ids=str)
@pytest.mark.parametrize("time, of_x", [(STEPS, False), (1, False), (1, True), (sym("t"), False)])
def test_products_of_a_recurrent_layer(dtype: DType, time: Dim, of_x: bool) -> None:
    node, operands = lstm(time, sym("b"), dtype, of_x)
    tally = routine_tally(node, operands, {"b": BATCH, "t": STEPS})
    steps, computed = time if isinstance(time, int) else STEPS, DType.F64 if dtype is DType.F64 else DType.F32
    wanted = steps * BATCH * 2 * 4 * HIDDEN * (HIDDEN + (INPUTS if of_x else 0))
    assert tally.products == {(computed, computed, computed): wanted} and tally.operations == 2 * wanted
    units = steps * BATCH * 2 * HIDDEN
    assert tally.elements == {"sigmoid": 3 * units, "tanh": 2 * units}
    assert tally.streams[-1].bytes == (steps - 1) * 2 * 4 * HIDDEN * HIDDEN * computed.size
