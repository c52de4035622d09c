"""Products of a model that is quantised already: each in integers, or in floats where the plan takes less so.

A model that has DequantizeLinear around its products says that they are products of floats, and has rounded what they
read. Which of the two takes less is a question of the plan (`session.weighing`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from mapsto.budget import metering_anew
from mapsto.errors import ArgumentError
from mapsto.formats.format import WantedFormats
from mapsto.ir.graph import Graph, Node
from mapsto.passes.float_products import FloatProducts, float_products
from mapsto.plan.asked import Asked
from mapsto.plan.mapped import Mapped
from mapsto.plan.works import PlannedFormat
from mapsto.session.weighing import Weighed, lightest, told

INTEGERS, FLOATS = "integers", "f32"

Finish = Callable[[Graph], Graph]


@dataclass(frozen=True)
class ByArithmetic:
    """A graph with its products of dequantised integers as they are computed, what a plan says of each, and the
    decisions about the graph, where they have been made.
    """

    graph: Graph
    formats: tuple[PlannedFormat, ...] = ()
    mapped: Mapped | None = None


def in_integers(graph: Graph, finish: Finish, asked: WantedFormats, because: str) -> ByArithmetic:
    """All products in integers. Raises ArgumentError where floats are asked for of one."""
    products = float_products(graph)
    for node in products:
        if asked.name_of(_names(node)) == FLOATS:
            raise ArgumentError(
                f"exact_integers: {_names(node)[0]!r} is asked for in f32, by `formats` or the plan; leave one out"
            )
    return ByArithmetic(finish(graph), tuple(PlannedFormat(INTEGERS, _names(node), because) for node in products))


def as_asked(graph: Graph, finish: Finish, asked: WantedFormats) -> ByArithmetic:
    """Products for which f32 is asked in floats, all others in integers."""
    products = float_products(graph)
    floats = {node.output.name for node in products if asked.name_of(_names(node)) == FLOATS}
    lines = tuple(
        PlannedFormat(FLOATS, _names(node), "asked for") if node.output.name in floats
        else PlannedFormat(INTEGERS, _names(node), "quantised by the model")
        for node in products
    )  # fmt: skip
    return ByArithmetic(finish(FloatProducts(floats)(graph)), lines)


def weighed(graph: Graph, finish: Finish, ask: Callable[[Graph], Asked]) -> ByArithmetic:
    """Each product as it is predicted to take less. graph: before the passes; finish: what is done with it; ask: the
    device, about a graph.
    """
    products = float_products(graph)
    if not products:
        return ByArithmetic(finish(graph))
    sources = {node.output.name: _names(node) for node in products}

    def with_floats(values: Collection[str]) -> Weighed:
        with metering_anew():  # a form that is only looked at takes nothing from the one that is compiled
            return Weighed.of(finish(FloatProducts(values)(graph)), ask)

    found = lightest(Weighed.of(finish(graph), ask), with_floats(sources.keys()), sources, with_floats)
    lines = tuple(_line(node, node.output.name in found.others, found.gains[node.output.name]) for node in products)
    return ByArithmetic(found.taken.mapped.graph, lines, found.taken.mapped)


def _names(node: Node) -> tuple[str, ...]:
    return node.provenance or (node.output.name,)


def _line(node: Node, is_float: bool, gain: float) -> PlannedFormat:
    """gain: seconds that a product takes less in floats than in integers."""
    return PlannedFormat(FLOATS if is_float else INTEGERS, _names(node), told(gain, is_float, FLOATS, INTEGERS))
