"""Gives values new names throughout a graph and the graphs nested in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mapsto.ir.graph import Graph, Node, Value


def rename_values(graph: Graph, names: Mapping[str, str]) -> Graph:
    """The same graph with values renamed; names that are not mentioned stay. The new names must not clash with those
    that stay.
    """
    if not names:
        return graph
    return replace(
        graph,
        inputs=tuple(_value(v, names) for v in graph.inputs),
        outputs=tuple(names.get(n, n) for n in graph.outputs),
        nodes=tuple(_node(n, names) for n in graph.nodes),
        constants={names.get(n, n): array for n, array in graph.constants.items()},
        updates=tuple((names.get(a, a), names.get(b, b)) for a, b in graph.updates),
    )


def _value(value: Value, names: Mapping[str, str]) -> Value:
    return Value(names[value.name], value.dtype, value.shape) if value.name in names else value


def _node(node: Node, names: Mapping[str, str]) -> Node:
    inputs = tuple([names.get(n, n) for n in node.inputs])
    outputs = tuple([_value(v, names) for v in node.outputs])
    graphs = tuple([rename_values(inner, names) for inner in node.graphs])
    return Node(node.op, inputs, outputs, node.attrs, graphs, node.provenance)
