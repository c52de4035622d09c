"""Ops that no kernel expresses, written in the loop language: nonzero, lstm, gru, rnn, topk."""

from __future__ import annotations

from collections.abc import Callable

from mapsto.devices.routines.code import RoutineCall, RoutineCode, Scratch
from mapsto.devices.routines.nonzero import nonzero
from mapsto.devices.routines.recurrent import recurrent
from mapsto.devices.routines.topk import topk
from mapsto.errors import UnsupportedError
from mapsto.ir.graph import Node, Value

__all__ = ["ROUTINES", "RoutineCall", "RoutineCode", "Scratch", "routine"]

ROUTINES: dict[str, Callable[[Node, tuple[Value | None, ...], int, str], RoutineCode]] = {
    "gru": recurrent,
    "lstm": recurrent,
    "nonzero": nonzero,
    "rnn": recurrent,
    "topk": topk,
}


def routine(node: Node, inputs: tuple[Value | None, ...], lanes: int, name: str) -> RoutineCode:
    """The calls that compute a node.

    inputs: the node's inputs in order, None for an absent one. lanes: f32 lanes of a vector. name: prefix of the names
    of functions and scratch tensors. Operands are plain row-major.

    Raises UnsupportedError for an op or a variant of one without native code.
    """
    if node.op not in ROUTINES:
        raise UnsupportedError(f"op {node.op!r} has no routine; there are routines for {', '.join(sorted(ROUTINES))}")
    return ROUTINES[node.op](node, inputs, lanes, name)
