"""Products of a model that is quantised already: each in integers, or in floats where the plan takes less so.

A model that has DequantizeLinear around its products says that they are products of floats, and has rounded what they
read. Both forms are planned, and each product is given the one in which its works are predicted to take less; what all
of that takes together is predicted as well, since values pass from one to the other. The least of the three plans is
taken, where it saves more than predictions are good for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from mapsto.budget import metering_anew
from mapsto.errors import ArgumentError
from mapsto.formats.format import WantedFormats
from mapsto.ir.graph import Graph, Node
from mapsto.passes.float_products import FloatProducts, float_products
from mapsto.plan.asked import Asked
from mapsto.plan.decide import decide
from mapsto.plan.items import tasks
from mapsto.plan.mapped import Mapped
from mapsto.plan.works import PlannedFormat

# The share of the whole that floats have to save: sums and copies on the way are predicted less well than products.
_LEAST_GAIN = 0.05

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
    whole = _Weighed.of(finish(graph), ask)
    names = {node.output.name for node in products}

    def with_floats(values: Collection[str]) -> _Weighed:
        with metering_anew():  # a form that is only looked at takes nothing from the one that is compiled
            return _Weighed.of(finish(FloatProducts(values)(graph)), ask)

    floats = with_floats(names)
    sources = {node.output.name: _names(node) for node in products}
    before, after = (each.seconds_by(sources) for each in (whole, floats))
    better = {name for name in names if after[name] < before[name]}
    ways = [(whole, frozenset[str]()), (floats, frozenset(names))]
    saved = sum(before[name] - after[name] for name in better)
    if better and better != names and saved > _LEAST_GAIN * whole.seconds:
        ways.append((with_floats(better), frozenset(better)))
    taken, chosen = min(ways, key=lambda way: way[0].seconds)
    if taken.seconds > (1 - _LEAST_GAIN) * whole.seconds:
        taken, chosen = whole, frozenset()
    gains = {name: before[name] - after[name] for name in names}
    lines = tuple(_line(node, node.output.name in chosen, gains[node.output.name]) for node in products)
    return ByArithmetic(taken.mapped.graph, lines, taken.mapped)


def _names(node: Node) -> tuple[str, ...]:
    return node.provenance or (node.output.name,)


def _line(node: Node, is_float: bool, gain: float) -> PlannedFormat:
    """gain: seconds that a product takes less in floats than in integers."""
    other = "in integers" if is_float else "in f32"
    more = gain if is_float else -gain
    because = f"{other} it would take {abs(more) * 1e6:.3g} us {'more' if more >= 0 else 'less'}"
    if more < 0:
        because += ", and the whole more"
    return PlannedFormat(FLOATS if is_float else INTEGERS, _names(node), because)


@dataclass(frozen=True)
class _Weighed:
    """A graph that the passes are done with, as it is decided, and what each work is predicted to take."""

    mapped: Mapped
    works: Sequence[tuple[tuple[str, ...], float]]  # nodes of the model that it stands for, seconds

    @staticmethod
    def of(graph: Graph, ask: Callable[[Graph], Asked]) -> _Weighed:
        mapped = decide(graph, ask(graph))
        works = [(task.sources, mapped.choices[task.name].quote.cost.seconds) for task in tasks(mapped.items)]
        return _Weighed(mapped, works)

    @property
    def seconds(self) -> float:
        return sum(seconds for _, seconds in self.works)

    def seconds_by(self, sources: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
        """Of the works that stand for each product; what stands for several is shared among them."""
        of: dict[str, set[str]] = {}
        for name, every in sources.items():
            for source in every:
                of.setdefault(source, set()).add(name)
        found = dict.fromkeys(sources, 0.0)
        for stands_for, seconds in self.works:
            names = {name for source in stands_for for name in of.get(source, ())}
            for name in names:
                found[name] += seconds / len(names)
        return found
