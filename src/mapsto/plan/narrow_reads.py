"""What is made of bytes alone and read beside something that comes later is computed where it is read: bytes are
stored, and not what they stand for.

    q = u8(...)                          a residual sum of a quantised network: q lies in memory, as products read it
    x = (f32(q) - p) * s                 x is computed by whoever computes y
    y = x + z                            z comes after q
"""

from __future__ import annotations

from collections.abc import Mapping

from mapsto.ir.graph import Graph, Node
from mapsto.ops.registry import op


def read_narrow(graph: Graph) -> frozenset[str]:
    """Names of such values, all on the way from bytes to the reader."""
    makers = {value.name: at for at, node in enumerate(graph.nodes) for value in node.outputs}
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    found: set[str] = set()
    for node in graph.nodes:
        if node.op == "cast" and node.inputs[0] in makers and _widens_a_byte(graph, makers, node):
            found.update(_way(graph, node, makers, readers))
    return frozenset(found)


def _widens_a_byte(graph: Graph, makers: Mapping[str, int], cast: Node) -> bool:
    maker = graph.nodes[makers[cast.inputs[0]]]
    (dtype,) = {value.dtype for value in maker.outputs if value.name == cast.inputs[0]}
    return dtype.is_integer and dtype.size == 1 and cast.output.dtype.size > 1 and not maker.graphs


def _way(
    graph: Graph, cast: Node, makers: Mapping[str, int], readers: Mapping[str, list[Node]]
) -> tuple[str, ...]:
    """From a conversion to the reader of two values, where that is the only one and the other value comes later."""
    way, outputs = [cast.output.name], set(graph.outputs)
    while True:
        reading = readers.get(way[-1], [])
        if len(reading) != 1 or way[-1] in outputs or not _is_pointwise(reading[0]):
            return ()
        (node,) = reading
        others = [name for name in node.inputs if name and name != way[-1] and name not in graph.constants]
        if others:
            last = max(_origin(graph, name, makers) for name in others)
            return tuple(way) if last > makers[cast.inputs[0]] else ()
        if node.output.dtype.size == 1 or len([name for name in node.inputs if name == way[-1]]) != 1:
            return ()
        way.append(node.output.name)


def _is_pointwise(node: Node) -> bool:
    return op(node.op).kind == "elementwise" and len(node.outputs) == 1 and not node.graphs


def _origin(graph: Graph, name: str, makers: Mapping[str, int]) -> int:
    """The place of the node that made what a value is computed from point by point, of it alone; -1: it comes in."""
    while name in makers:
        node = graph.nodes[makers[name]]
        others = [each for each in node.inputs if each and each not in graph.constants]
        if not _is_pointwise(node) or len(others) != 1:
            return makers[name]
        name = others[0]
    return -1
