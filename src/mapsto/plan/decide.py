"""Deciding: from a graph and a maker to a plan; and from a plan, decided here or read, to what code is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count

from mapsto.errors import ParseError
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph, Value
from mapsto.plan import plan as printed
from mapsto.plan.fuse import fuse
from mapsto.plan.home import Home
from mapsto.plan.initial import setting_of
from mapsto.plan.items import Control, Item, Region, View, tasks
from mapsto.plan.names import Names, names_in
from mapsto.plan.outputs import place_outputs
from mapsto.plan.parts import take_apart
from mapsto.plan.settle import settle
from mapsto.plan.slices import slice_concats
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits
from mapsto.plan.votes import wishes
from mapsto.plan.works import NO_PINS, Pins


@dataclass(frozen=True)
class Mapped:
    """A graph, what its maker asked for, and what was decided but for the ways in which tasks are made: items in order
    with their statements, homes of all values in memory, and for each output the value whose buffer holds it.
    """

    graph: Graph
    traits: Traits
    items: tuple[Item, ...]
    homes: Mapping[str, Home]
    places: Mapping[str, str]


def decide(graph: Graph, traits: Traits, pins: Pins = NO_PINS) -> Mapped:
    """Fuse, lay out, place. traits: of the maker that it is planned for. Raises ParseError, naming line and name, for
    pins that cannot be kept to.
    """
    setting = setting_of(graph, traits)
    names = Names(names_in(graph))
    items = fuse(graph, setting, _apart(pins, graph))
    made = {name: value for task in tasks(items) for name, value in task.made.items()}
    values = {**made, **setting.values}
    inputs, constants = [v.name for v in graph.inputs], list(setting.constants)
    narrowed = [name for task in tasks(items) for name in task.constants]
    ports = {*inputs, *graph.outputs}
    wished = wishes(items, values, ports, {*constants, *narrowed}, _inner(pins, graph))
    items, slices, border = slice_concats(items, values, wished, traits.block)
    going = [*graph.outputs, *(v.name for node in graph.walk() if node.graphs for v in node.outputs)]
    coming = [*inputs, *constants, *narrowed]
    items, homes = settle(items, setting, wished, slices, border, (coming, going), made, names.fresh)
    items, homes = take_apart(items, homes, traits.block, names.fresh)
    items, homes, places = place_outputs(graph, items, setting, homes, names.fresh)
    return Mapped(graph, traits, _named(items), homes, places)


def _named(items: tuple[Item, ...]) -> tuple[Item, ...]:
    numbers = count()

    def named(item: Item) -> Item:
        if isinstance(item, Region):
            item = replace(item, arms=tuple(tuple(map(named, arm)) for arm in item.arms))
        return replace(item, name=f"g{next(numbers)}")

    return tuple(map(named, items))


def _apart(pins: Pins, graph: Graph) -> Callable[[Task, Task], str] | None:
    if not pins.apart:
        return None
    nodes = {value.name for node in graph.walk() for value in node.outputs[:1]}
    for name in (name for names in pins.apart for name in names):
        if name not in nodes:
            raise ParseError(f"plan, line {pins.lines.get(('apart', name))}: pin apart: no node yields {name!r}")
    sets = [frozenset(names) for names in pins.apart]

    def apart(source: Task, reader: Task) -> str:
        both = {*source.first_nodes, *reader.first_nodes}
        return "pinned apart" if any(len(both & names) > 1 for names in sets) else ""

    return apart


def _inner(pins: Pins, graph: Graph) -> dict[str, int | None]:
    values: dict[str, Value] = {}
    for node in graph.walk():
        values.update({v.name: v for v in node.outputs})
    for name, dim in pins.inner:
        where = f"plan, line {pins.lines.get(('inner', name))}: pin inner {name}"
        if name not in values:
            raise ParseError(f"{where}: no node yields it")
        if dim is not None and dim >= values[name].rank:
            raise ParseError(f"{where}: it has {values[name].rank} dims, no dim {dim}")
    return dict(pins.inner)


# -- as a value that is printed ----------------------------------------------------------------------------------------


def plan_of(
    mapped: Mapped, offers: Mapping[str, tuple[printed.Offer, tuple[str, ...]]], isa: str, origin: tuple[str, str]
) -> printed.Plan:
    """The plan of a mapped graph. offers: by work, how it is made and why. origin: the graph's digest, the version."""
    numbers = {id(node): at for at, node in enumerate(mapped.graph.walk())}
    constants = {*mapped.graph.constants, *(n for task in tasks(mapped.items) for n in task.constants)}
    constants |= {name for node in mapped.graph.walk() for inner in node.graphs for name in inner.constants}
    items = tuple(_printed(item, mapped, offers, numbers) for item in mapped.items)
    homes = {name: home for name, home in mapped.homes.items() if name not in constants}
    return printed.Plan(mapped.graph.name, isa, *origin, items, homes, dict(mapped.places), traits=mapped.traits)


def _printed(
    item: Item,
    mapped: Mapped,
    offers: Mapping[str, tuple[printed.Offer, tuple[str, ...]]],
    numbers: Mapping[int, int],
) -> printed.Item:
    if isinstance(item, View):
        return printed.View(item.name, item.value, item.of, item.recipe, item.because)
    if isinstance(item, Control):
        return printed.Control(item.name, numbers[id(item.node)])
    if isinstance(item, Region):
        arms = tuple(tuple(_printed(i, mapped, offers, numbers) for i in arm) for arm in item.arms)
        return printed.Region(item.name, item.node.outputs[0].name, arms)
    offer, because = offers[item.name]
    return printed.Work(
        item.name,
        item.kind,
        item.recipe,
        tuple(t for t in item.targets if t in mapped.homes),
        offer,
        item.first_nodes,
        tuple(n.op for n in item.nodes),
        item.sources,
        _cost(item),
        tuple(dict.fromkeys((*item.because, *because))),
        tuple(printed.Declined(rule, value, why) for value, rule, why in item.refused),
    )


def _cost(task: Task) -> str:
    """Multiplications of a contraction, as an expression over the sizes."""
    total: Dim = 0
    for phase in task.phases:
        total = total + phase.multiplications()
    return f"{total} multiply-adds" if task.phases else ""
