"""A guess for each open size of a graph: what costs are counted with, where a size is known in a run alone."""

from __future__ import annotations

from mapsto.ir.expr import symbols
from mapsto.ir.graph import Graph
from mapsto.plan.patterns import UNKNOWN


def guesses(graph: Graph) -> dict[str, int]:
    """By symbol, in the order in which the graph names them.

    A leading dim of an input of several dims is taken for a batch, of which there is one; another size for `UNKNOWN`.
    """
    found: dict[str, int] = {}
    for value in graph.inputs:
        for dim, extent in enumerate(value.shape):
            usual = 1 if dim == 0 and value.rank > 1 else UNKNOWN
            for name in sorted(symbols(extent)):
                found.setdefault(name, usual)
    for node in graph.walk():
        for value in node.outputs:
            for extent in value.shape:
                if isinstance(extent, int):
                    continue
                for name in sorted(symbols(extent)):
                    found.setdefault(name, UNKNOWN)
    return found
