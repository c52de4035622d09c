"""Which products of a graph are computed in which format, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mapsto.errors import ArgumentError
from mapsto.formats.format import ProductFormat, WantedFormats
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Node
from mapsto.ir.region import nested

PRODUCTS = frozenset({"conv", "matmul"})

# The least number that is rounded to infinity.
_BEYOND = {DType.F16: 2.0**16 - 2.0**4, DType.BF16: 2.0**128 - 2.0**119}


@dataclass(frozen=True)
class ChosenFormat:
    """The format of a product: None for one that stays as the model says. value: what it yields, by its name."""

    value: str
    sources: tuple[str, ...]
    format: ProductFormat | None
    because: str


def chosen(graph: Graph, asked: WantedFormats) -> tuple[ChosenFormat, ...]:
    """Of each product of f32 for which something was asked, in order. Raises ArgumentError for a pattern that fits no
    node.
    """
    known = {name for node in graph.walk() if node.outputs for name in _names(node)}
    if (missing := asked.unmet(known)) is not None:
        pattern, close = missing
        like = f"; names like it: {', '.join(close)}" if close else ""
        raise ArgumentError(f"formats: no node of the model is named {pattern!r}{like}")
    return tuple(_of(graph, node, found) for node, found in _asked_of(graph, asked))


def _names(node: Node) -> tuple[str, ...]:
    """By which it is asked for; a node of a graph that no model stands behind by what it yields."""
    return node.provenance or (node.outputs[0].name,)


def _asked_of(graph: Graph, asked: WantedFormats) -> Iterator[tuple[Node, ProductFormat]]:
    for node in graph.walk():
        if node.op in PRODUCTS and "result" not in node.attrs and node.output.dtype is DType.F32:
            found = asked.of(_names(node))
            if found is not None:
                yield node, found


def _of(graph: Graph, node: Node, asked: ProductFormat) -> ChosenFormat:
    arrays = [array for name in node.inputs[:2] if (array := _constant(graph, name)) is not None]
    refused = "neither operand is constant" if asked.weights_only and not arrays else ""
    for array in arrays:
        largest = float(np.abs(array).max(initial=0.0, where=np.isfinite(array)))
        if largest >= _BEYOND[asked.operands]:
            refused = f"a weight of {largest:.3g} is beyond {asked.operands.value}"
    return ChosenFormat(node.output.name, _names(node), None if refused else asked, refused or "asked for")


def _constant(graph: Graph, name: str) -> np.ndarray | None:
    return next((each.constants[name] for each in nested(graph) if name in each.constants), None)
