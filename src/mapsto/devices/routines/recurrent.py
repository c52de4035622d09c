"""lstm, gru, rnn: weights packed by calls of their own, x W for all time steps at once, all steps in a native loop.

A network of one time step (a streaming model) takes x W and h R in one register tile, and threads share its hidden
units; in one of many steps they share the batch rows and directions, since a step needs the whole state before it.
Every number is summed in the same order whichever tile and thread it falls to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mapsto.devices.routines.cells import Cell, gru_cell, lstm_cell, rnn_cell
from mapsto.devices.routines.code import RoutineCode
from mapsto.devices.routines.packing import pack_bias, pack_matrix, project
from mapsto.devices.routines.recurrence import Recurrence
from mapsto.devices.routines.single_step import single_step
from mapsto.devices.routines.time_loop import time_loop
from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Node, Value

_CELLS: dict[str, Callable[[Mapping[str, Any]], Cell]] = {"lstm": lstm_cell, "gru": gru_cell, "rnn": rnn_cell}
_REVERSE = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def recurrent(
    node: Node, inputs: tuple[Value | None, ...], lanes: int, name: str, fused: bool, registers: int
) -> RoutineCode:
    """The calls of an lstm, gru or rnn node: pack W, R and B; project; step."""
    rec = _recurrence(node, inputs, lanes, name, fused, registers)
    if rec.hidden == 0:
        return RoutineCode(())
    calls = [pack_matrix(rec, rec.weights, rec.packed_input)]
    single = rec.time == 1
    if not single or rec.h0 is not None:
        calls.append(pack_matrix(rec, rec.recurrent, rec.packed_recurrent))
    if rec.bias is not None:
        calls.append(pack_bias(rec))
    if not single:
        calls.append(project(rec))
    calls.append(single_step(rec) if single else time_loop(rec))
    return RoutineCode(tuple(calls))


def _recurrence(
    node: Node, inputs: tuple[Value | None, ...], lanes: int, name: str, fused: bool, registers: int
) -> Recurrence:
    given = dict(enumerate(inputs))
    x, weights, matrix = inputs[:3]
    assert x is not None and weights is not None and matrix is not None
    if not isinstance(matrix.shape[2], int):
        raise UnsupportedError(
            f"{node.op} {name!r}: its hidden units, {matrix.shape[2]}, must be counted before the run"
        )
    return Recurrence(
        name=name,
        cell=_CELLS[node.op](node.attrs),
        x=x,
        weights=weights,
        recurrent=matrix,
        bias=given.get(3),
        lengths=given.get(4),
        h0=given.get(5),
        c0=given.get(6),
        peepholes=given.get(7),
        outputs=node.outputs,
        reverse=_REVERSE[str(node.attrs["direction"])],
        lanes=max(1, lanes // 2) if x.dtype is DType.F64 else lanes,
        fused=fused,
        registers=registers,
    )
