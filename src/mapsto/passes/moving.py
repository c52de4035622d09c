"""Ops whose results are elements of what they are given: what holds for every element before, holds after."""

from __future__ import annotations

from collections.abc import Sequence

from mapsto.ir.graph import Node

MOVING = frozenset({"reshape", "transpose", "slice", "concat", "expand", "tile", "max_pool"})


def moved(node: Node) -> Sequence[str]:
    """Names of the operands whose elements such a node's results are. Others say where to."""
    return node.inputs if node.op == "concat" else node.inputs[:1]
