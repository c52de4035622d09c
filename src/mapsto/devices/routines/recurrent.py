"""lstm, gru, rnn: weights packed by calls of their own, x W for all time steps at once, all steps in a native loop.

A network of one time step (a streaming model) takes x W and h R in one register tile, and threads share its hidden
units; in one of many steps they share the batch rows and directions, since a step needs the whole state before it.
Every number is summed in the same order whichever tile and thread it falls to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mapsto.devices.routines.cells import Cell, gru_cell, lstm_cell, rnn_cell
from mapsto.devices.routines.code import RoutineCode
from mapsto.devices.routines.recurrence import Recurrence, Steps, pack_bias, pack_matrix, project
from mapsto.devices.routines.single_step import single_step
from mapsto.devices.routines.time_loop import time_loop
from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Node, Value

_CELLS: dict[str, Callable[[Any, int], Cell]] = {"lstm": lstm_cell, "gru": gru_cell, "rnn": rnn_cell}
_REVERSE = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def recurrent(node: Node, inputs: tuple[Value | None, ...], lanes: int, name: str) -> RoutineCode:
    """The calls of an lstm, gru or rnn node: pack W, R and B; project; step."""
    rec = _recurrence(node, inputs, lanes, name)
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
    for steps in _by_cell(rec, node):
        calls.append(single_step(steps) if single else time_loop(steps))
    return RoutineCode(tuple(calls))


def _recurrence(node: Node, inputs: tuple[Value | None, ...], lanes: int, name: str) -> Recurrence:
    given = dict(enumerate(inputs))
    x, weights, matrix = inputs[:3]
    assert x is not None and weights is not None and matrix is not None
    if not isinstance(matrix.shape[2], int):
        raise UnsupportedError(
            f"{node.op} {name!r}: its hidden units, {matrix.shape[2]}, must be counted before the run"
        )
    return Recurrence(
        name=name,
        cell=_CELLS[node.op](node.attrs, 0),
        x=x,
        weights=weights,
        recurrent=matrix,
        bias=given.get(3),
        lengths=given.get(4),
        h0=given.get(5),
        c0=given.get(6),
        peepholes=given.get(7),
        outputs=node.outputs,
        reverse=_REVERSE[str(node.attrs.get("direction", "forward"))],
        lanes=max(1, lanes // 2) if x.dtype is DType.F64 else lanes,
        registers=32 if lanes >= 16 else 16,
    )


def _by_cell(rec: Recurrence, node: Node) -> list[Steps]:
    """One call for all directions, or one each where their activations differ."""
    named = tuple(node.attrs.get("activations") or ())  # type: ignore[arg-type]
    half = len(named) // rec.directions
    if all(named[d * half : (d + 1) * half] == named[:half] for d in range(rec.directions)):
        return [Steps(rec, rec.cell, 0, rec.directions, f"{rec.name}_steps")]
    make = _CELLS[node.op]
    return [Steps(rec, make(node.attrs, d), d, 1, f"{rec.name}_steps{d}") for d in range(rec.directions)]
