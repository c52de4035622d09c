"""Ops that no kernel expresses, in the loop language: recurrent networks, top-k, non-zero, non-maximum suppression."""

from __future__ import annotations

from collections.abc import Callable

from mapsto.devices.routines.code import RoutineCall, RoutineCode, Scratch
from mapsto.devices.routines.nonzero import nonzero
from mapsto.devices.routines.recurrent import recurrent
from mapsto.devices.routines.suppression import non_max_suppression
from mapsto.devices.routines.topk import topk
from mapsto.errors import UnsupportedError
from mapsto.ir.graph import Node, Value

__all__ = ["ROUTINES", "RoutineCall", "RoutineCode", "Scratch", "routine"]

_Write = Callable[[Node, tuple[Value | None, ...], int, str, bool, int], RoutineCode]
ROUTINES: dict[str, _Write] = {
    "gru": recurrent,
    "lstm": recurrent,
    "non_max_suppression": lambda node, inputs, lanes, name, *_: non_max_suppression(node, inputs, lanes, name),
    "nonzero": lambda node, inputs, lanes, name, *_: nonzero(node, inputs, lanes, name),
    "rnn": recurrent,
    "topk": lambda node, inputs, lanes, name, *_: topk(node, inputs, lanes, name),
}


def routine(
    node: Node, inputs: tuple[Value | None, ...], lanes: int, name: str, fused: bool, registers: int
) -> RoutineCode:
    """The calls that compute a node.

    inputs: the node's inputs in order, None for an absent one. lanes: f32 lanes of a vector. name: prefix of the names
    of functions and scratch tensors. fused: whether the device has a fused multiply-add; without one the sums of
    products round twice. registers: vectors that it holds at a time. Operands are plain row-major.

    Raises UnsupportedError for an op or a variant of one without native code.
    """
    if node.op not in ROUTINES:
        raise UnsupportedError(f"op {node.op!r} has no routine; there are routines for {', '.join(sorted(ROUTINES))}")
    return ROUTINES[node.op](node, inputs, lanes, name, fused, registers)
