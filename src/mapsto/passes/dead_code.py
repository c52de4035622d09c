"""Removes what nothing reads: nodes, constants, sizes that no shape mentions, conditions on such sizes."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from mapsto.ir.expr import Expr, symbols
from mapsto.ir.graph import Graph, Node, binds, dims_in
from mapsto.ir.region import mapped, nested, reads

# Ops without outputs that somebody else needs: `bind_dim` for its symbol, `require` for what its sizes are used for,
# `bounds_check` for what reads the indices that it has checked, or what was made of them.
_BIND, _REQUIRE, CHECK = "bind_dim", "require", "bounds_check"


@dataclass(frozen=True)
class DeadCode:
    """Keeps what the outputs need, in this graph and those nested in it."""

    name: str = "dead-code"

    def __call__(self, graph: Graph) -> Graph:
        live = _live(graph, set())
        if any(node.op in (CHECK, _BIND) for node in graph.walk()):
            live = _live(graph, _read(live))
        return live


def _read(graph: Graph) -> set[str]:
    """Values that anything reads, here or in a nested graph."""
    found = {name for each in nested(graph) for name in each.outputs}
    return found.union(*(node.inputs for node in graph.walk()))


def _live(graph: Graph, read_by_any: set[str]) -> Graph:
    """`read_by_any`: values for whose sake checks and conditions stand."""
    values = graph.values()
    bound = _bound(graph)
    needed = set(graph.outputs)
    sizes: set[str] = set()
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not _is_needed(node, needed, sizes, bound, read_by_any):
            continue
        node = mapped(node, lambda inner: _live(inner, read_by_any))
        kept.append(node)
        read = reads(node)
        needed |= read
        if bound:  # what a condition speaks of may be the size of an operand alone: an axis that must not be empty
            own = [values[name] for name in read if name in values]  # others have no size that is bound here
            sizes |= sizes_of(node) | {s for value in own for d in value.shape for s in symbols(d)}
    nodes = tuple(reversed(kept))
    constants = {name: array for name, array in graph.constants.items() if name in needed}
    if len(constants) == len(graph.constants) and len(nodes) == len(graph.nodes):
        if all(map(operator.is_, nodes, graph.nodes)):
            return graph  # with all that is known of it
    return replace(graph, nodes=nodes, constants=constants)


def _bound(graph: Graph) -> dict[str, set[str]]:
    """Symbols that a run finds -> what the node that found one has made beside it."""
    scalars = {str(n.attrs["symbol"]): n.inputs[0] for n in graph.nodes if n.op == _BIND}
    asked = set(scalars.values())
    made: dict[str, set[str]] = {}
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        names = {v.name for v in node.outputs}
        if asked:
            made.update(dict.fromkeys(asked & names, names))
        if node.graphs:
            found.update(dict.fromkeys(binds(node), names))
    return found | {symbol: made.get(scalar, set()) for symbol, scalar in scalars.items()}


def _is_needed(
    node: Node, needed: set[str], sizes: set[str], bound: Mapping[str, set[str]], read_by_any: set[str]
) -> bool:
    if node.op == CHECK:
        return node.inputs[0] in read_by_any
    if node.op == _BIND:
        return str(node.attrs["symbol"]) in sizes
    if node.op == _REQUIRE:
        # asked of the model's own sizes, or of what is read for its sake alone, it always stands; of other bound sizes,
        # where something uses them, or elements of which one is the count (an element read by its place may be all that
        # is left of them)
        if not bound or "always" in node.attrs:
            return True
        return all(s in sizes or bound[s] & read_by_any for s in sizes_of(node) & set(bound))
    return any(value.name in needed for value in node.outputs) or any(name in sizes for name in binds(node))


def sizes_of(node: Node) -> set[str]:
    """Symbols in a node's attributes and output shapes, those of its nested graphs included."""
    found: set[str] = set()
    for expression in _expressions(node):
        found |= symbols(expression)
    return found


def _expressions(node: Node) -> Iterator[Expr]:
    yield from dims_in(node.attrs.values())
    for value in node.outputs:
        yield from dims_in(value.shape)
    for inner in node.graphs:
        yield from dims_in(value.shape for value in inner.inputs)
        for each in inner.nodes:
            yield from _expressions(each)
