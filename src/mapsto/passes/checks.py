"""A graph without the checks of its indices: for who would rather have an index out of range wrap round its axis."""

from __future__ import annotations

from dataclasses import replace

from mapsto.ir.graph import Graph, Node
from mapsto.ir.region import mapped
from mapsto.passes.dead_code import CHECK, DeadCode


def unchecked(graph: Graph) -> Graph:
    """The graph without checks of indices; conditions on sizes stay, and checks of axes, which are a few integers."""
    return DeadCode()(_without_checks(graph))


def _without_checks(graph: Graph) -> Graph:
    kept = (mapped(node, _without_checks) for node in graph.nodes if not _is_of_indices(node))
    return replace(graph, nodes=tuple(kept))


def _is_of_indices(node: Node) -> bool:
    return node.op == CHECK and node.attrs["kind"] != "axis"
