"""Builds the graph anew: constants folded, equal nodes shared, sizes followed, decided branches taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph
from mapsto.passes.retrace import retrace


@dataclass(frozen=True)
class Fold:
    name: str = "fold"

    def __call__(self, graph: Graph) -> Graph:
        return retrace(graph)


def specialise(graph: Graph, sizes: Mapping[str, Dim]) -> Graph:
    """The graph for given sizes: symbols replaced, and all folded that follows. Raises ShapeError for sizes that the
    graph rules out.
    """
    return retrace(graph, sizes=sizes)
