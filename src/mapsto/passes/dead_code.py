"""Removes what nothing reads: nodes, constants, sizes that no shape mentions, conditions on such sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mapsto.ir.expr import Expr, symbols
from mapsto.ir.graph import Graph, Node, free_values

# Ops without outputs that somebody else needs: `bind_dim` for its symbol, `require` for what its sizes are used for.
_BIND, _REQUIRE = "bind_dim", "require"


@dataclass(frozen=True)
class DeadCode:
    """Keeps what the outputs need, in this graph and those nested in it."""

    name: str = "dead-code"

    def __call__(self, graph: Graph) -> Graph:
        return _live(graph, set())


def _live(graph: Graph, outside: set[str]) -> Graph:
    """`outside`: symbols that the graphs around have."""
    bound = {str(n.attrs["symbol"]) for n in graph.nodes if n.op == _BIND}
    needed = set(graph.outputs)
    sizes: set[str] = set()
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not _is_needed(node, needed, sizes, bound):
            continue
        if node.graphs:
            node = replace(node, graphs=tuple(_live(inner, outside | bound) for inner in node.graphs))
        kept.append(node)
        needed.update(n for n in node.inputs if n)
        for inner in node.graphs:
            needed |= free_values(inner)
        if bound:
            sizes |= sizes_of(node)
    nodes = tuple(reversed(kept))
    constants = {name: array for name, array in graph.constants.items() if name in needed}
    return replace(graph, nodes=nodes, constants=constants)


def _is_needed(node: Node, needed: set[str], sizes: set[str], bound: set[str]) -> bool:
    if node.op == _BIND:
        return str(node.attrs["symbol"]) in sizes
    if node.op == _REQUIRE:
        # asked of the model's own sizes it always stands; of a bound size, where something uses that size
        return not bound or all(s in sizes for s in sizes_of(node) & bound)
    return any(value.name in needed for value in node.outputs)


def sizes_of(node: Node) -> set[str]:
    """Symbols in a node's attributes and output shapes, those of its nested graphs included."""
    found: set[str] = set()
    for expression in _expressions(node):
        found |= symbols(expression)
    return found


def _expressions(node: Node) -> Iterator[Expr]:
    yield from _in(node.attrs.values())
    for value in node.outputs:
        yield from _in(value.shape)
    for inner in node.graphs:
        for nested in inner.nodes:
            yield from _expressions(nested)


def _in(attrs: Iterable[Any]) -> Iterator[Expr]:
    for attr in attrs:
        if isinstance(attr, Expr):
            yield attr
        elif isinstance(attr, tuple):
            yield from _in(attr)
