"""The graph for sizes that are given."""

from __future__ import annotations

from collections.abc import Mapping

from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph
from mapsto.passes.retrace import retrace


def specialise(graph: Graph, sizes: Mapping[str, Dim]) -> Graph:
    """The graph for given sizes: symbols replaced, and all folded that follows. Raises ShapeError for sizes that the
    graph rules out.
    """
    return retrace(graph, sizes=sizes)
