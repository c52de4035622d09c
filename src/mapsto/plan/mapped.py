"""A graph with all that was decided about it, and the plan that says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph
from mapsto.plan import plan as printed
from mapsto.plan.home import Home
from mapsto.plan.items import Branches, Control, Item, View, tasks
from mapsto.plan.judge import Choice
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits
from mapsto.plan.works import Basis, Beaten, PlannedFormat


@dataclass(frozen=True)
class Mapped:
    """A graph, what its maker asked for, and what was decided but for the schedules of tasks: items in order with their
    statements, homes of all values in memory, and for each output the value whose buffer holds it.

    choices: by the name of each task. basis: what costs were counted with. Neither is there for a plan that is
    replayed, as it has them.
    """

    graph: Graph
    traits: Traits
    items: tuple[Item, ...]
    homes: Mapping[str, Home]
    places: Mapping[str, str]
    choices: Mapping[str, Choice] = field(default_factory=dict)
    basis: Basis | None = None


@dataclass(frozen=True)
class Taken:
    """How a maker made a task: the offer with its schedule, why, and what schedules it beat."""

    offer: printed.Offer
    because: tuple[str, ...] = ()
    beaten: tuple[Beaten, ...] = ()


def plan_of(
    mapped: Mapped,
    taken: Mapping[str, Taken],
    device: str,
    origin: tuple[str, str],
    formats: tuple[PlannedFormat, ...] = (),
    accuracy: str = "",
) -> printed.Plan:
    """The plan of a mapped graph. taken: by work. origin: the graph's digest, the version. formats: of its
    products; accuracy: what they lose.
    """
    numbers = {id(node): at for at, node in enumerate(mapped.graph.walk())}
    constants = {*mapped.graph.constants, *(n for task in tasks(mapped.items) for n in task.constants)}
    constants |= {name for node in mapped.graph.walk() for inner in node.graphs for name in inner.constants}
    items = tuple(_printed(item, mapped, taken, numbers) for item in mapped.items)
    homes = {name: home for name, home in mapped.homes.items() if name not in constants}
    places, traits, basis = dict(mapped.places), mapped.traits, mapped.basis
    return printed.Plan(
        mapped.graph.name, device, *origin, items, homes, places, traits=traits, basis=basis, formats=formats,
        accuracy=accuracy,
    )


def _printed(
    item: Item,
    mapped: Mapped,
    taken: Mapping[str, Taken],
    numbers: Mapping[int, int],
) -> printed.PlannedItem:
    if isinstance(item, View):
        return printed.PlannedView(item.name, item.value, item.of, item.recipe, item.because)
    if isinstance(item, Control):
        return printed.PlannedControl(item.name, numbers[id(item.node)])
    if isinstance(item, Branches):
        arms = tuple(tuple(_printed(i, mapped, taken, numbers) for i in arm) for arm in item.arms)
        return printed.PlannedRegion(item.name, item.node.outputs[0].name, arms)
    made, choice = taken[item.name], mapped.choices.get(item.name)
    return printed.Work(
        item.name,
        item.kind,
        item.recipe,
        tuple(t for t in item.targets if t in mapped.homes),
        made.offer,
        item.first_nodes,
        tuple(n.op for n in item.nodes),
        item.sources,
        _cost(item),
        tuple(dict.fromkeys((*item.because, *made.because))),
        item.refused,
        0.0 if choice is None else float(f"{choice.quote.cost.seconds:.3g}"),
        (*(() if choice is None else _others(choice, made)), *made.beaten),
    )


def _others(choice: Choice, made: Taken) -> Iterator[Beaten]:
    """What was beaten, but for a template that was tuned, and so taken in the place of the one that costs chose."""
    return (each for each in choice.beaten if each.how != "as" or each.schedule or each.of != made.offer.template)


def _cost(task: Task) -> str:
    """Multiplications of a contraction, as an expression over the sizes."""
    total: Dim = 0
    phases = [phase for each in (task, *task.stages) for phase in each.phases]
    for phase in phases:
        total = total + phase.multiplications()
    return f"{total} multiply-adds" if phases else ""
