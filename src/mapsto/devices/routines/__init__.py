"""Ops that no kernel expresses, in the loop language: recurrent networks, top-k, non-zero, non-maximum suppression."""

from __future__ import annotations

from collections.abc import Callable

from mapsto.devices.routines.code import RoutineCall, RoutineCode, RoutineKernel, Scratch, Vectors
from mapsto.devices.routines.nonzero import nonzero
from mapsto.devices.routines.recurrent import recurrent
from mapsto.devices.routines.suppression import non_max_suppression
from mapsto.devices.routines.topk import topk
from mapsto.errors import UnsupportedError
from mapsto.ir.graph import Node, Value

__all__ = ["ROUTINES", "RoutineCall", "RoutineCode", "RoutineKernel", "Scratch", "Vectors", "routine"]

_Write = Callable[[Node, tuple[Value | None, ...], str, Vectors], RoutineCode]
ROUTINES: dict[str, _Write] = {
    "gru": recurrent,
    "lstm": recurrent,
    "non_max_suppression": lambda node, inputs, name, v: non_max_suppression(node, inputs, v.lanes, name),
    "nonzero": lambda node, inputs, name, v: nonzero(node, inputs, v.lanes, name),
    "rnn": recurrent,
    "topk": lambda node, inputs, name, v: topk(node, inputs, v.lanes, name),
}


def routine(node: Node, inputs: tuple[Value | None, ...], name: str, vectors: Vectors) -> RoutineCode:
    """The calls that compute a node.

    inputs: the node's inputs in order, None for an absent one. name: prefix of the names of functions and scratch
    tensors. Operands are plain row-major.

    Raises UnsupportedError for an op or a variant of one without native code.
    """
    if node.op not in ROUTINES:
        raise UnsupportedError(f"op {node.op!r} has no routine; there are routines for {', '.join(sorted(ROUTINES))}")
    return ROUTINES[node.op](node, inputs, name, vectors)
