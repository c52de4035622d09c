"""Moves what is the same in every round out of a loop: products and sums of values that the loop does not change, with
what they are made from.

    loop(..; s -> .. s + w x ..)  ==  p = w x; loop(..; s -> .. s + p ..)

Only what is dear moves: an elementwise node costs less where it is read than a value in memory would. Nothing moves
from behind a check to before it: neither what reads by indices, nor what has sizes of which the body checks something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mapsto.ir.graph import Graph, Node, binds
from mapsto.ir.region import mapped
from mapsto.ops.registry import op
from mapsto.passes.dead_code import sizes_of

_DEAR = ("contraction", "reduction", "window", "routine")


@dataclass(frozen=True)
class Hoisting:
    name: str = "hoisting"

    def __call__(self, graph: Graph) -> Graph:
        return _hoisted(graph)


def _hoisted(graph: Graph) -> Graph:
    """The graph with the loops in it emptied of what does not change, inner ones first, so that it may move on."""
    nodes: list[Node] = []
    constants: dict[str, np.ndarray] = {}
    changed = False
    for node in graph.nodes:
        inside = mapped(node, _hoisted)
        moved = _moving(inside) if _is_loop(inside) else []
        if moved:
            inside = replace(inside, graphs=(_without(inside.graphs[0], moved, constants),))
        changed |= inside is not node
        nodes += [*moved, inside]
    if not changed:
        return graph
    return replace(graph, nodes=tuple(nodes), constants={**graph.constants, **constants}, settled=False)


def _is_loop(node: Node) -> bool:
    nesting = op(node.op).nesting
    return nesting is not None and any(region.carried for region in nesting.regions(node))


def _moving(loop: Node) -> list[Node]:
    """The nodes of a loop's body that move, in order."""
    (body,) = loop.graphs
    still = _unchanged(loop)
    wanted: set[str] = set()
    moved: list[Node] = []
    for node in reversed(body.nodes):
        outputs = {v.name for v in node.outputs}
        if outputs & still.keys() and (op(node.op).kind in _DEAR or outputs & wanted):
            moved.append(node)
            wanted.update(node.inputs)
    return moved[::-1]


def _unchanged(loop: Node) -> Mapping[str, Node]:
    """Values of a loop's body that are the same in each round, with their nodes."""
    (body,) = loop.graphs
    changing = {v.name for v in body.inputs}
    pairs: Any = loop.attrs.get("sizes", ())
    sizes = {str(inner) for inner, _ in pairs}
    sizes |= {name for node in body.nodes for name in binds(node)}
    sizes |= {name for node in body.nodes if node.op == "require" for name in sizes_of(node)}
    found: dict[str, Node] = {}
    for node in body.nodes:
        spec = op(node.op)
        pure = spec.foldable and not node.graphs and spec.indices is None and spec.kind != "control"
        if pure and not changing.intersection(node.inputs) and not sizes & sizes_of(node):
            found.update((v.name, node) for v in node.outputs)
        else:
            changing.update(v.name for v in node.outputs)
    return found


def _without(body: Graph, moved: Sequence[Node], constants: dict[str, np.ndarray]) -> Graph:
    """A body without the nodes that move, and without the constants that they read, which move with them."""
    gone = set(map(id, moved))
    read = {name for node in moved for name in node.inputs}
    constants.update((name, array) for name, array in body.constants.items() if name in read)
    left = {name: array for name, array in body.constants.items() if name not in read}
    return replace(body, nodes=tuple(n for n in body.nodes if id(n) not in gone), constants=left, settled=False)
