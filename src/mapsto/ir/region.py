"""Graphs nested in nodes: what they read of the graphs around them, how values go into them and come out, and the ways
through them that every room takes.

What an op does with its graphs it says itself, by a `Region` for each (`ops.registry.Nesting`); nothing else here knows
one op from another.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from mapsto.ir.graph import Graph, Node

_USES = "_uses"  # beside a graph's fields: counted once


@dataclass(frozen=True)
class Region:
    """A graph nested in a node, and the ways of values between the two. Besides, the graph reads the values around it.

    starts: for each of the graph's inputs, the operand of the node that it is at first; None: the op itself gives it
    (the number of a round).
    carried: for each input, the yield that it is in the next round; None: it is not carried on. Empty for a graph that
    runs once.
    results: for each value that the graph yields, the output of the node that it becomes (in the end, or round by
    round); None: none (whether to go on).
    """

    graph: Graph
    starts: tuple[int | None, ...] = ()
    carried: tuple[int | None, ...] = ()
    results: tuple[int | None, ...] = ()


def faults(node: Node, regions: tuple[Region, ...]) -> Iterator[str]:
    """What does not fit between a node and its regions. Types are the business of the op's shape rule."""
    if len(regions) != len(node.graphs):
        yield f"{len(node.graphs)} nested graphs; the op has {len(regions)}"
    for region in regions:
        graph = region.graph
        what = f"graph {graph.name!r}"
        if graph.updates:
            yield f"{what} is nested: it takes over no memory"
        if len(region.starts) != len(graph.inputs):
            yield f"{what} has {len(graph.inputs)} inputs; the op gives it {len(region.starts)}"
        if len(region.results) != len(graph.outputs):
            yield f"{what} yields {len(graph.outputs)} values; the op takes {len(region.results)}"
        if _beyond(region.starts, len(node.inputs)):
            yield f"{what} starts with an operand that the node does not have"
        if _beyond(region.carried, len(graph.outputs)):
            yield f"{what} carries on a value that it does not yield"
        if _beyond(region.results, len(node.outputs)):
            yield f"{what} yields an output that the node does not have"


def _beyond(places: tuple[int | None, ...], count: int) -> bool:
    return any(at is not None and at >= count for at in places)


# ---- ways through nested graphs --------------------------------------------------------------------------------------


def nested(graph: Graph) -> Iterator[Graph]:
    """The graph and all that are nested in it, an outer one before its inner ones."""
    yield graph
    for node in graph.nodes:
        for inner in node.graphs:
            yield from nested(inner)


def mapped(node: Node, change: Callable[[Graph], Graph]) -> Node:
    """The node with its nested graphs changed, each by itself; the same node where none of them is another one then."""
    graphs = tuple([change(inner) for inner in node.graphs])
    return node if all(map(operator.is_, graphs, node.graphs)) else replace(node, graphs=graphs)


# ---- what is read ----------------------------------------------------------------------------------------------------


def free_values(graph: Graph) -> set[str]:
    """Names that a graph reads from the graphs around it."""
    used = set(graph.outputs)
    for node in graph.nodes:
        used.update(reads(node))
    return used - set(graph.values())


def reads(node: Node) -> set[str]:
    """Names that a node reads at its own level: its operands, and what its nested graphs read there."""
    found = {name for name in node.inputs if name}
    for inner in node.graphs:
        found |= free_values(inner)
    return found


def uses(graph: Graph) -> Mapping[str, int]:
    """How often each value is read at this level: by nodes, by each nested graph, as a graph output."""
    known: Mapping[str, int] | None = getattr(graph, _USES, None)
    if known is None:
        known = _counted(graph)
        object.__setattr__(graph, _USES, known)
    return known


def _counted(graph: Graph) -> dict[str, int]:
    count: dict[str, int] = {}
    for node in graph.nodes:
        read = [name for name in node.inputs if name]
        for inner in node.graphs:
            read.extend(free_values(inner))
        for name in read:
            count[name] = count.get(name, 0) + 1
    for name in graph.outputs:
        count[name] = count.get(name, 0) + 1
    return count
