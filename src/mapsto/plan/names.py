"""Names for what planning makes: iterators and values that no size, no value and nothing made before is called."""

from __future__ import annotations

from dataclasses import dataclass, field

from mapsto.ir.expr import symbols
from mapsto.ir.graph import Graph, binds


@dataclass
class FreshNames:
    """Gives names that are not `taken`."""

    taken: frozenset[str]
    count: int = field(default=0)

    def fresh(self, hint: str) -> str:
        while True:
            self.count += 1
            name = f"{hint}{self.count}"
            if name not in self.taken:
                return name


def names_in(graph: Graph) -> frozenset[str]:
    """Sizes and values of a graph and of the graphs nested in it: a model may call them anything, `i7` too."""
    found = {v.name for v in graph.inputs} | set(graph.constants)
    found |= {s for v in graph.inputs for d in v.shape for s in symbols(d)}
    for node in graph.walk():
        found.update(v.name for v in node.outputs)
        found.update(binds(node))
        for inner in node.graphs:
            found |= {*inner.constants, *(v.name for v in inner.inputs)}
            found |= {s for v in inner.inputs for d in v.shape for s in symbols(d)}
    return frozenset(found)


def prefix_in(graph: Graph) -> str:
    """A prefix that no name in a graph begins with."""
    prefix, taken = "%", names_in(graph)
    while any(name.startswith(prefix) for name in taken):
        prefix += "%"
    return prefix
