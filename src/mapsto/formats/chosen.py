"""Which products of a graph are computed in which format, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mapsto.errors import ArgumentError
from mapsto.formats.format import ProductFormat, Quantisation, WantedFormats
from mapsto.formats.integers import MOST_TERMS, terms_of
from mapsto.formats.stored import Stored
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Node
from mapsto.ir.region import nested

PRODUCTS = frozenset({"conv", "matmul"})

# The least number that is rounded to infinity.
_BEYOND = {DType.F16: 2.0**16 - 2.0**4, DType.BF16: 2.0**128 - 2.0**119}


@dataclass(frozen=True)
class ChosenFormat:
    """The format of a product: None for one that stays as the model says. value: what it yields, by its name. by: how
    its first operand is quantised, where the format is of bytes.
    """

    value: str
    sources: tuple[str, ...]
    format: ProductFormat | None
    because: str
    by: Quantisation | None = None

    @property
    def stored(self) -> Stored | None:
        """How operands that are computed in a run are stored; None: as they are."""
        if self.format is None or self.format.weights_only:
            return None
        return Stored(self.format.operands, self.by)


def chosen(
    graph: Graph, asked: WantedFormats, ranges: Mapping[str, Quantisation] | None = None
) -> tuple[ChosenFormat, ...]:
    """Of each product of f32 for which something was asked, in order. ranges: how values may be quantised, by name.

    Raises ArgumentError for a pattern that fits no node.
    """
    known = {name for node in graph.walk() if node.outputs for name in _names(node)}
    if (missing := asked.unmet(known)) is not None:
        pattern, close = missing
        like = f"; names like it: {', '.join(close)}" if close else ""
        raise ArgumentError(f"formats: no node of the model is named {pattern!r}{like}")
    return tuple(
        _of_bytes(graph, node, found, asked, ranges or {}) if found.is_of_bytes else _of(graph, node, found)
        for node, found in _asked_of(graph, asked)
    )


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


def _of_bytes(
    graph: Graph, node: Node, asked: ProductFormat, wanted: WantedFormats, ranges: Mapping[str, Quantisation]
) -> ChosenFormat:
    w = _constant(graph, node.inputs[1])
    refused = ""
    if w is None or _constant(graph, node.inputs[0]) is not None:
        refused = "its second operand is no constant, or both are"
    elif node.op == "matmul" and w.ndim != 2:
        refused = "its weights are no matrix"
    elif not np.isfinite(w).all():
        refused = "a weight is not finite"
    elif terms_of(node.op, w) > MOST_TERMS:
        refused = f"32 bits do not hold a sum of {terms_of(node.op, w)} products"
    by = wanted.quantisation_of(_names(node)) or ranges.get(node.inputs[0])
    if not refused and by is None:
        refused = "what it reads was not seen while data ran through the network"
    return ChosenFormat(
        node.output.name, _names(node), None if refused else asked, refused or "asked for", None if refused else by
    )


def _constant(graph: Graph, name: str) -> np.ndarray | None:
    return next((each.constants[name] for each in nested(graph) if name in each.constants), None)
