"""Which products of a graph are computed in which format, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.errors import ArgumentError
from mapsto.formats.equalise import ReadingWeights, groups_of
from mapsto.formats.format import ProductFormat, Quantisation, WantedFormats
from mapsto.formats.integers import MOST_TERMS, holds_shorts, steps_for, terms_of
from mapsto.formats.ranges import SeenRange
from mapsto.formats.stored import Stored, symmetric
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Node
from mapsto.ir.region import nested

PRODUCTS = frozenset({"conv", "matmul"})

# Values of 16 bits reach so many times as far as was seen: they have bits to spare, and what is beyond is cut.
HEADROOM = 1.5

# The least number that is rounded to infinity.
_BEYOND = {DType.F16: 2.0**16 - 2.0**4, DType.BF16: 2.0**128 - 2.0**119}


@dataclass(frozen=True)
class ChosenFormat:
    """The format of a product: None for one that stays as the model says. value: what it yields, by its name. by: how
    its first operand is quantised, where the format is of integers; bytes: what such ones lie in memory as, U8, or I16
    where those are what a device multiplies. after: how many axes come after that of its channels.
    """

    value: str
    sources: tuple[str, ...]
    format: ProductFormat | None
    because: str
    by: Quantisation | None = None
    bytes: DType = DType.U8
    after: int = 0

    @property
    def stored(self) -> Stored | None:
        """How operands that are computed in a run are stored; None: as they are."""
        if self.format is None or self.format.weights_only:
            return None
        operands = self.format.operands
        return Stored(self.bytes if operands is DType.U8 else operands, self.by, self.after)


def chosen(
    graph: Graph,
    asked: WantedFormats,
    ranges: Mapping[str, SeenRange] | None = None,
    bytes: DType = DType.U8,
) -> tuple[ChosenFormat, ...]:
    """Of each product of f32 for which something was asked, in order. ranges: what values were seen to be, by name;
    bytes: what they lie in memory as.

    Raises ArgumentError for a pattern that fits no node.
    """
    known = {name for node in graph.walk() if node.outputs for name in _names(node)}
    if (missing := asked.unmet(known)) is not None:
        pattern, close = missing
        like = f"; names like it: {', '.join(close)}" if close else ""
        raise ArgumentError(f"formats: no node of the model is named {pattern!r}{like}")
    every = list(_asked_of(graph, asked))
    steps = _steps(graph, every)
    return tuple(
        _quantised(graph, node, found, _by(node, found, asked, ranges or {}, steps), bytes)
        if found.is_quantised
        else _of(graph, node, found)
        for node, found in every
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
    if asked.is_in_blocks:
        refused = _refused(graph, node, _constant(graph, node.inputs[1]), asked)
        return ChosenFormat(node.output.name, _names(node), None if refused else asked, refused or "asked for")
    arrays = [array for name in node.inputs[:2] if (array := _constant(graph, name)) is not None]
    refused = "neither operand is constant" if asked.weights_only and not arrays else ""
    for array in arrays:
        largest = float(np.abs(array).max(initial=0.0, where=np.isfinite(array)))
        if largest >= _BEYOND[asked.operands]:
            refused = f"a weight of {largest:.3g} is beyond {asked.operands.value}"
    return ChosenFormat(node.output.name, _names(node), None if refused else asked, refused or "asked for")


def _steps(graph: Graph, every: Sequence[tuple[Node, ProductFormat]]) -> dict[str, int]:
    """How many steps to either side values of 16 bits have, by name: as many as all products that read one allow."""
    found: dict[str, int] = {}
    for node, asked in every:
        w = _constant(graph, node.inputs[1])
        if asked.is_of_shorts and w is not None and not _refused(graph, node, w, asked):
            found[node.inputs[0]] = min(steps_for(node.op, w), found.get(node.inputs[0], 1 << 15))
    return found


def _by(
    node: Node,
    asked: ProductFormat,
    wanted: WantedFormats,
    ranges: Mapping[str, SeenRange],
    steps: Mapping[str, int],
) -> Quantisation | None:
    """How what a product reads is quantised: as a plan says, or by what was seen."""
    known, seen = wanted.quantisation_of(_names(node)), ranges.get(node.inputs[0])
    if known is not None or seen is None:
        return known
    if not asked.is_of_shorts:
        return seen.bytes
    return symmetric(seen.reach * HEADROOM, steps[node.inputs[0]]) if node.inputs[0] in steps else None


def _quantised(
    graph: Graph, node: Node, asked: ProductFormat, by: Quantisation | None, bytes: DType
) -> ChosenFormat:
    w = _constant(graph, node.inputs[1])
    refused = _refused(graph, node, w, asked)
    if not refused and by is None:
        refused = "what it reads was not seen while data ran through the network"
    if not refused and by is not None and w is not None:
        terms = terms_of(node.op, w)
        holds = terms <= MOST_TERMS if by.most is None else holds_shorts(node.op, w, by.most)
        refused = "" if holds else f"32 bits do not hold a sum of {terms} products"
        _check_powers(node, w, by)
    names = _names(node)
    if refused:
        return ChosenFormat(node.output.name, names, None, refused)
    after = w.ndim - 2 if w is not None else 0  # a window, or nothing
    return ChosenFormat(node.output.name, names, asked, "asked for", by, bytes, after)


def _check_powers(node: Node, w: np.ndarray, by: Quantisation) -> None:
    """Raises ArgumentError where a plan's powers are not one for each channel."""
    channels = ReadingWeights(node.op, w, groups_of(node.attrs)).channels
    if by.powers and len(by.powers) != channels:
        of = f"{', '.join(_names(node))}: {len(by.powers)} powers, but it reads {channels} channels"
        raise ArgumentError(f"formats: {of}; a plan says one of each")


def _refused(graph: Graph, node: Node, w: np.ndarray | None, asked: ProductFormat) -> str:
    """Why a product cannot be one of integers."""
    if w is None or _constant(graph, node.inputs[0]) is not None:
        return "its second operand is no constant, or both are"
    if (node.op == "matmul" or asked.is_in_blocks) and w.ndim != 2:
        return "its weights are no matrix"
    return "" if np.isfinite(w).all() else "a weight is not finite"


def _constant(graph: Graph, name: str) -> np.ndarray | None:
    return next((each.constants[name] for each in nested(graph) if name in each.constants), None)
