"""Whether the controls of a plan are those of its graph, and what sizes its items work with.

A control binds a size, checks a condition on sizes, or checks indices; code and layouts rely on what it has seen to. So
each stands in the items of its own graph, once, in the graph's order, before all that the graph has behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mapsto.errors import ParseError
from mapsto.ir.expr import Dim, symbols
from mapsto.ir.graph import Graph, Node, binds, dims_in
from mapsto.ops.guards import required_of
from mapsto.ops.registry import op
from mapsto.plan.home import Home
from mapsto.plan.items import Branches, Control, Item, Looped, View, reads_of, targets_of
from mapsto.plan.rounds import BODY
from mapsto.plan.task import Task

Fault = Callable[[str, str], ParseError]


@dataclass(frozen=True)
class Size:
    """A symbol that has a value, among names of values that are written."""

    symbol: str


def is_control(node: Node) -> bool:
    """Whether a node is no kernel and no region, but a step of its own."""
    return node.op == "bind_dim" or op(node.op).kind == "control" and not node.graphs


def check_controls(graph: Graph, items: Sequence[Item], fault: Fault) -> None:
    """Raises what `fault` makes of a key of a plan's lines and of words."""
    for own, listed in _levels(graph, items):
        _check(own, listed, fault)


def _levels(graph: Graph | None, items: Sequence[Item]) -> Iterator[tuple[Graph | None, Sequence[Item]]]:
    """Each list of items with the graph whose nodes it has; None: what is done around the rounds of a loop."""
    yield graph, items
    for item in items:
        if isinstance(item, Looped):
            for at, arm in enumerate(item.arms):
                yield from _levels(item.node.graphs[0] if at == BODY else None, arm)
        elif isinstance(item, Branches):
            for inner, arm in zip(item.node.graphs, item.arms, strict=True):
                yield from _levels(inner, arm)


def _check(graph: Graph | None, items: Sequence[Item], fault: Fault) -> None:
    nodes = () if graph is None else graph.nodes
    places = {id(node): at for at, node in enumerate(nodes)}
    left = [node for node in nodes if is_control(node)]
    left.reverse()  # the next one is the last
    for item in items:
        where = f"item {item.name}"
        if isinstance(item, Control):
            if not is_control(item.node):
                raise fault(where, f"{item.name}: its node is a {item.node.op}, which is no check and binds no size")
            if id(item.node) not in places:
                raise fault(where, f"{item.name}: its {item.node.op} belongs to another graph, nested or around")
            if not left or left[-1] is not item.node:
                raise fault(where, f"{item.name}: its {item.node.op} is not the next one; keep the graph's order")
            left.pop()
        elif left and places[id(left[-1])] < _place(item, places):
            raise fault(where, f"{item.name}: {_of(left[-1])} must stand before it, as it does in the graph")
    if left:
        raise fault("plan", f"no line has {_of(left[-1])}; make the plan anew, or take the line from one that has it")


def _place(item: Item, places: Mapping[int, int]) -> int:
    """Where the graph has the first node of an item: siblings stand together where the first of them stood. A copy has
    the nodes on whose behalf it is made.
    """
    if isinstance(item, View) or (isinstance(item, Task) and item.recipe.rule == "copy"):
        return -1
    nodes = item.nodes if isinstance(item, Task) else (item.node,)
    return min((places.get(id(node), -1) for node in nodes), default=-1)


def _of(node: Node) -> str:
    of = f" of {', '.join(map(repr, node.provenance))}" if node.provenance else ""
    return f"the control for the {node.op}{of}"


# -- sizes -------------------------------------------------------------------------------------------------------------


def symbols_in(home: Home) -> frozenset[str]:
    """Sizes that say where a value lies."""
    layout = home.layout
    return _in((*layout.shape, *(axis.stride for axis in layout.axes), layout.elements, layout.offset))


def symbols_of(item: Item, homes: Mapping[str, Home]) -> frozenset[str]:
    """Sizes that an item works with, those of the arms of regions left out."""
    touched = [homes[name] for name in (*reads_of(item), *targets_of(item)) if name in homes]
    touched += [homes[home.buffer] for home in touched if home.buffer in homes]
    found = frozenset().union(*map(symbols_in, touched)) if not isinstance(item, Branches) else frozenset()
    if isinstance(item, Task):
        found |= _in([i.extent for stmt in item.stmts for i in stmt.iters])
        return found.union(*(_in(tuple(dims_in(node.attrs.values()))) for node in item.nodes if not node.graphs))
    if isinstance(item, Control):
        found |= frozenset(symbols(required_of(item.node))) if item.node.op == "require" else frozenset()
        return found | _in(tuple(dims_in(item.node.attrs.values())))
    return found


def symbols_bound(item: Item) -> frozenset[str]:
    """Sizes that an item gives their values."""
    return frozenset(binds(item.node)) if isinstance(item, Control) else frozenset()


def all_symbols(graph: Graph) -> frozenset[str]:
    """Sizes that inputs, nodes and the rounds of loops define."""
    found = symbols_of_inputs(graph)
    for node in graph.walk():
        found |= frozenset(binds(node))
        for inner in node.graphs:
            found |= symbols_of_inputs(inner)
    return found


def symbols_of_inputs(graph: Graph) -> frozenset[str]:
    return _in([dim for value in graph.inputs for dim in value.shape])


def _in(dims: Sequence[Dim]) -> frozenset[str]:
    return frozenset().union(*(symbols(dim) for dim in dims if not isinstance(dim, int)))
