"""What tasks cost on the device that is asked: those of one form, whose operands lie alike, cost the same.

`seconds` is for choosing between ways: it takes all operands to come from where this task alone would leave them
(`forecast` knows what lies between two uses).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from mapsto.budget import current
from mapsto.ir.graph import Node
from mapsto.machine.spec import DeviceSpec
from mapsto.plan.asked import Asked, Quote
from mapsto.plan.home import Home
from mapsto.plan.recipe import Recipe
from mapsto.plan.rules.base import Refusal
from mapsto.plan.task import Task


@dataclass
class Prices:
    """It only remembers: what it says follows from the task, the homes, the sizes and the device."""

    asked: Asked
    sizes: Mapping[str, int]
    known: dict[Hashable, Sequence[Quote | Refusal]] = field(default_factory=dict)

    @property
    def spec(self) -> DeviceSpec:
        return self.asked.spec

    def seconds(self, task: Task, homes: Mapping[str, Home]) -> float:
        """Of the offer that is to be taken. homes: of what the task has in memory."""
        return next(quote.cost.seconds for quote in self.offers(task, homes) if isinstance(quote, Quote))

    def offers(
        self, task: Task, homes: Mapping[str, Home], distances: Mapping[str, float] | None = None
    ) -> Sequence[Quote | Refusal]:
        """See `Asked.offers`."""
        if _is_part(task):
            return self.asked.offers(task, homes, self.sizes, distances)
        key = _form(task, homes, self.asked.constants, distances or {})
        found = self.known.get(key)
        if found is None:
            current().tick("costs")
            found = self.known[key] = self.asked.offers(task, homes, self.sizes, distances)
        return found


def _is_part(task: Task) -> bool:
    """Whether it is little of what its nodes do (an operand of a wide concatenation): its form would say all of it."""
    return sum(len(node.inputs) for node in task.nodes) > 2 * (len(task.nodes) + len(task.reads))


def _form(
    task: Task, homes: Mapping[str, Home], constants: Container[str], distances: Mapping[str, float]
) -> Hashable:
    """What offers follow from: nodes and recipe with names by their order, how operands lie, and how far they are."""
    names: dict[str, int] = {}

    def number(name: str) -> int:
        return names.setdefault(name, len(names))

    nodes = tuple(_node(node, number) for node in task.nodes)
    recipe = _recipe(task.recipe, number)
    lie = tuple(
        (number(name), homes[name].dtype, homes[name].layout, name in constants, distances.get(name))
        for name in sorted(task.reads.union(task.targets), key=lambda name: (names.get(name, len(names)), name))
        if name in homes
    )
    return task.kind, nodes, recipe, lie


Number = Callable[[str], int]


def _node(node: Node, number: Number) -> Hashable:
    outputs = tuple((number(v.name), v.dtype, v.shape) for v in node.outputs)
    return node.op, tuple(sorted(node.attrs.items())), tuple(map(number, node.inputs)), outputs


def _recipe(recipe: Recipe, number: Number) -> Hashable:
    if not recipe.rule:
        return number(recipe.name)
    return recipe.rule, tuple(_recipe(part, number) for part in recipe.parts)
