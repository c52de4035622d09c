"""What tasks cost on the device that is asked: those of one form, whose operands lie alike, cost the same.

Prices are for choosing between ways; they take all operands to come from where this task alone would leave them
(`forecast` knows what lies between two uses).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from mapsto.budget import current
from mapsto.ir.graph import Node
from mapsto.machine.spec import DeviceSpec
from mapsto.plan.asked import Asked, Quote
from mapsto.plan.home import Home
from mapsto.plan.recipe import Recipe
from mapsto.plan.task import Task


@dataclass
class Prices:
    """It only remembers: what it says follows from the task, the homes, the sizes and the device."""

    asked: Asked
    sizes: Mapping[str, int]
    known: dict[Hashable, float] = field(default_factory=dict)

    @property
    def spec(self) -> DeviceSpec:
        return self.asked.spec

    def seconds(self, task: Task, homes: Mapping[str, Home]) -> float:
        """Of the offer that is to be taken. homes: of what the task has in memory."""
        key = self._form(task, homes)
        found = self.known.get(key)
        if found is None:
            current().tick("costs")
            quotes = self.asked.offers(task, homes, self.sizes)
            found = next(quote.cost.seconds for quote in quotes if isinstance(quote, Quote))
            self.known[key] = found
        return found

    def _form(self, task: Task, homes: Mapping[str, Home]) -> Hashable:
        """What a price follows from: nodes and recipe with names by their order, and how operands lie."""
        names: dict[str, int] = {}

        def number(name: str) -> int:
            return names.setdefault(name, len(names))

        nodes = tuple(_node(node, number) for node in task.nodes)
        recipe = _recipe(task.recipe, number)
        lie = tuple(
            (number(name), homes[name].dtype, homes[name].layout, name in self.asked.constants)
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
