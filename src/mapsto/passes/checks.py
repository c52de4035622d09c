"""A graph without the checks of its indices: for who would rather have an index out of range wrap round its axis."""

from __future__ import annotations

from dataclasses import replace

from mapsto.ir.graph import Graph
from mapsto.ir.region import mapped
from mapsto.passes.dead_code import CHECK, DeadCode


def unchecked(graph: Graph) -> Graph:
    """The graph without checks of indices; conditions on sizes stay."""
    return DeadCode()(_without_checks(graph))


def _without_checks(graph: Graph) -> Graph:
    kept = (mapped(node, _without_checks) for node in graph.nodes if node.op != CHECK)
    return replace(graph, nodes=tuple(kept))
