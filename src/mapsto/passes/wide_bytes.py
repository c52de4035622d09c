"""Bytes that integer products read are stored in 16 bits, for devices that multiply such ones and no bytes.

    u8(clip(x, 0, 255))   ->   i16(clip(x, 0, 255))       the same integers; a product of bytes is one of 16 bits

What makes a value then converts it, once, and not each product for itself. That is for values that an operation of the
graph makes and clips to a byte, of which a product is a reader, and that are read by nothing but products, conversions
to wider types, and what only moves elements (a concatenation, a pooling by maxima), whose results are then as wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.region import nested
from mapsto.passes.moving import MOVING, moved
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

_BYTES = frozenset({DType.U8, DType.I8})
_PRODUCTS = frozenset({"conv", "matmul"})

_MOVING = MOVING | {"pad"}  # its constant is a byte as well


@dataclass(frozen=True)
class WideBytes:
    name: str = "wide-bytes"

    def __call__(self, graph: Graph) -> Graph:
        wide = _wide(graph)
        if not wide:
            return graph

        def rewrite(site: Site) -> Sequence[Value] | None:
            if site.node.op != "cast" or site.node.output.name not in wide:
                return None
            return site.builder.add("cast", [site.input(0)], {"to": DType.I16}, (), [site.node.output.name])

        return rewritten(graph, rewrite, {"cast"})


def _wide(graph: Graph) -> set[str]:
    """Names of the values that are to be so."""
    makers = {node.output.name: node for node in graph.nodes if len(node.outputs) == 1}
    found = {name for name, node in makers.items() if node.output.dtype in _BYTES and _can_be(node, graph)}
    readers: dict[str, list[Node]] = {}
    for node in graph.walk():
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    kept = set(graph.outputs)
    for each in nested(graph):
        if each is not graph:
            kept.update(each.outputs, *(node.inputs for node in each.nodes))
    kept.update(*(node.inputs for node in graph.nodes if node.graphs))
    before = -1
    while len(found) != before:
        before = len(found)
        found = {
            name
            for name in found - kept
            if all(_takes(node, name, found) for node in readers.get(name, []))
            and (makers[name].op == "cast" or all(operand in found for operand in moved(makers[name])))
        }
    return {name for name in found if _reaches_a_product(name, readers, found)}


def _can_be(node: Node, graph: Graph) -> bool:
    return node.op in _MOVING or (node.op == "cast" and _is_clipped(node, graph))


def _is_clipped(cast: Node, graph: Graph) -> bool:
    """Whether all that is converted is a byte of this type already."""
    limits, seen = np.iinfo(cast.output.dtype.numpy), set()
    node: Node | None = graph.producers.get(cast.inputs[0])
    while node is not None and node.op in ("min", "max") and node.op not in seen:
        arrays = {name: graph.constants.get(name) for name in node.inputs}
        limit = next((array for array in arrays.values() if array is not None and array.size), None)
        if limit is None or not (limit.min() >= limits.min and limit.max() <= limits.max):
            return False  # in whichever order they are, results lie between two bytes
        seen.add(node.op)
        node = graph.producers.get(next((name for name, array in arrays.items() if array is None), ""))
    return seen == {"min", "max"}


def _takes(node: Node, name: str, wide: set[str]) -> bool:
    """Whether a reader takes a value in 16 bits as well."""
    if node.op in _PRODUCTS:
        return node.attrs.get("result") is DType.I32
    if node.op == "cast":
        return node.output.dtype not in _BYTES and node.output.dtype.size > 1
    return node.op in _MOVING and name in moved(node) and node.output.name in wide


def _reaches_a_product(name: str, readers: Mapping[str, Sequence[Node]], wide: set[str]) -> bool:
    waiting, seen = [name], {name}
    while waiting:
        for node in readers.get(waiting.pop(), ()):
            if node.op in _PRODUCTS:
                return True
            if node.op in _MOVING and node.output.name in wide and node.output.name not in seen:
                seen.add(node.output.name)
                waiting.append(node.output.name)
    return False
