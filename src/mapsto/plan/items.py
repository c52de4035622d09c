"""Items of a plan in the making, in the order in which they are done: tasks, and what is no kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from mapsto.ir.graph import Node
from mapsto.plan.recipe import Recipe
from mapsto.plan.task import Task
from mapsto.plan.works import walk


@dataclass(frozen=True)
class View:
    """A value that needs no code: it lies in the buffer of another one, or is made up of several that lie in its own.
    recipe: of what would compute it.
    """

    value: str
    of: tuple[str, ...]
    recipe: Recipe
    because: str
    name: str = ""


@dataclass(frozen=True)
class Branches:
    """A node with nested graphs; one list of items for each. reads: values from outside."""

    node: Node
    arms: tuple[tuple[Item, ...], ...]
    reads: frozenset[str]
    name: str = ""


@dataclass(frozen=True)
class Looped(Branches):
    """A node whose one graph is run again and again; `plan.rounds` says what its arms are."""


@dataclass(frozen=True)
class Control:
    """A node that reads a size or checks something: no kernel, a step of its own."""

    node: Node
    name: str = ""

    @property
    def reads(self) -> frozenset[str]:
        """What it looks at. A check names first what it guards, and compares the rest."""
        inputs = self.node.inputs if self.node.op == "bind_dim" else self.node.inputs[1:]
        return frozenset(n for n in inputs if n)


Item = Task | View | Branches | Control


def tasks(items: Iterable[Item]) -> Iterator[Task]:
    return (item for item in walk(items) if isinstance(item, Task))


def each(items: Iterable[Item], change: Callable[[Item], Iterable[Item]]) -> tuple[Item, ...]:
    """Items changed one by one, those of arms included: `change` gives what stands in an item's place."""
    done: list[Item] = []
    for item in items:
        if isinstance(item, Branches):
            item = replace(item, arms=tuple(each(arm, change) for arm in item.arms))
        done.extend(change(item))
    return tuple(done)


def targets_of(item: Item) -> tuple[str, ...]:
    """Values that an item defines."""
    if isinstance(item, Task):
        return item.targets
    return (item.value,) if isinstance(item, View) else tuple(v.name for v in item.node.outputs)


def reads_of(item: Item) -> frozenset[str]:
    """Values that an item reads."""
    if isinstance(item, Task):
        return item.reads
    return frozenset(item.of) if isinstance(item, View) else item.reads
