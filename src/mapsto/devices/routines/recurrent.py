"""lstm, gru, rnn: the steps of a recurrent network, whose x W + b for all of them are a matrix product before (see
`ops.projection`). What is left of a step, the state times R, is the contraction template's work as well.

In a network of one time step (a streaming model) threads share its hidden units, and x W is made along with the state's
product; in one of many steps they share the batch rows and directions, since a step needs the whole state before it.
Every number is summed in the same order whichever tile and thread it falls to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mapsto.devices.routines.cells import Cell, gru_cell, lstm_cell, rnn_cell
from mapsto.devices.routines.code import RoutineCode, Vectors
from mapsto.devices.routines.recurrence import Recurrence
from mapsto.devices.routines.single_step import single_step
from mapsto.devices.routines.time_loop import time_loop
from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Node, Value
from mapsto.kernel.scalar import compute_type

_CELLS: dict[str, Callable[[Mapping[str, Any]], Cell]] = {"lstm": lstm_cell, "gru": gru_cell, "rnn": rnn_cell}
_REVERSE = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def recurrent(node: Node, inputs: tuple[Value | None, ...], name: str, vectors: Vectors) -> RoutineCode:
    """The calls of an lstm, gru or rnn node: pack R; step."""
    rec = _recurrence(node, inputs, name, vectors)
    if 0 in (rec.hidden, rec.batch):
        return RoutineCode(())
    return time_loop(rec) if rec.weights is None else single_step(rec)


def _recurrence(node: Node, inputs: tuple[Value | None, ...], name: str, vectors: Vectors) -> Recurrence:
    given, matrix = inputs[:2]
    assert given is not None and matrix is not None
    if not isinstance(matrix.shape[2], int):
        raise UnsupportedError(
            f"{node.op} {name!r}: its hidden units, {matrix.shape[2]}, must be counted before the run"
        )
    rest = dict(enumerate(inputs))
    fifth, element = rest.get(4), compute_type(matrix.dtype)
    return Recurrence(
        name=name,
        cell=_CELLS[node.op](node.attrs),
        given=given,
        matrix=matrix,
        lengths=rest.get(2),
        h0=rest.get(3),
        c0=fifth if node.op == "lstm" else None,
        bias=fifth if node.op == "gru" else None,
        peepholes=rest.get(5),
        weights=rest.get(6),
        start=rest.get(7),
        outputs=node.outputs,
        reverse=_REVERSE[str(node.attrs["direction"])],
        element=element,
        lanes=max(1, vectors.lanes // 2) if element is DType.F64 else vectors.lanes,
        vectors=vectors,
    )
