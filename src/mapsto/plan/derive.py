"""From a plan back to tasks: recipes are followed, nothing is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mapsto.errors import ParseError
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph, Node
from mapsto.ir.region import reads
from mapsto.plan import items as made_of
from mapsto.plan.edits import part, reading, viewed, written
from mapsto.plan.home import Home
from mapsto.plan.initial import Setting, copy_task, initial_task
from mapsto.plan.plan import Control, Item, Plan, View, Work
from mapsto.plan.recipe import Recipe
from mapsto.plan.rules import FORMS, RULES, Refusal
from mapsto.plan.slices import without
from mapsto.plan.task import Task


def derive(plan: Plan, graph: Graph, setting: Setting) -> tuple[made_of.Item, ...]:
    """The items of a plan with what follows from the graph. Raises ParseError, naming the line, for what the graph has
    not or rules do not give.
    """
    return _Deriving(plan, setting, *_nodes(graph)).items(plan.items)


def _nodes(graph: Graph) -> tuple[list[Node], dict[str, tuple[Node, frozenset[Dim]]]]:
    """All nodes in the order of `Graph.walk`; by first output, with what a run has checked of its sizes by then."""
    listed = list(graph.walk())
    found: dict[str, tuple[Node, frozenset[Dim]]] = {}

    def level(graph: Graph, required: frozenset[Dim]) -> None:
        required |= {n.attrs["condition"] for n in graph.nodes if n.op == "require"}  # type: ignore[misc]
        for node in graph.nodes:
            if node.outputs:
                found[node.outputs[0].name] = node, required
            for inner in node.graphs:
                level(inner, required)

    level(graph, frozenset())
    return listed, found


@dataclass
class _Deriving:
    plan: Plan
    setting: Setting
    listed: list[Node]
    nodes: Mapping[str, tuple[Node, frozenset[Dim]]]
    known: dict[Recipe, Task] = field(default_factory=dict)

    def items(self, items: tuple[Item, ...]) -> tuple[made_of.Item, ...]:
        return tuple(map(self.item, items))

    def item(self, item: Item) -> made_of.Item:
        try:
            return self._item(item)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            where = f"plan, line {item.line}: " if item.line else "plan: "
            raise ParseError(f"{where}{type(item).__name__.lower()} {item.name}: {_said(error)}") from error

    def _item(self, item: Item) -> made_of.Item:
        if isinstance(item, Work):
            task = self.task(item.recipe)
            if item.recipe.rule == "copy":  # on whose behalf
                task = replace(task, nodes=tuple(map(self.node, item.nodes)))
            if task.kind != item.kind:
                raise ValueError(f"its recipe makes {task.kind}, not {item.kind}")
            _agree(item, task)
            return replace(task, name=item.name, because=item.because)
        if isinstance(item, View):
            return made_of.View(item.value, item.of, item.because, item.name)
        if isinstance(item, Control):
            if item.node >= len(self.listed):
                raise ValueError(f"the graph has {len(self.listed)} nodes, not a number {item.node}")
            return made_of.Control(self.listed[item.node], item.name)
        node = self.node(item.node)
        if len(node.graphs) != len(item.arms):
            raise ValueError(f"node {item.node} has {len(node.graphs)} nested graphs")
        return made_of.Region(node, tuple(self.items(arm) for arm in item.arms), frozenset(reads(node)), item.name)

    def node(self, name: str) -> Node:
        if name not in self.nodes:
            raise ValueError(f"no node yields {name!r}")
        return self.nodes[name][0]

    def home(self, name: str) -> Home:
        home = self.plan.homes.get(name)
        if home is None:
            raise ValueError(f"{name!r} has no home")
        return home

    def task(self, recipe: Recipe) -> Task:
        found = self.known.get(recipe)
        if found is None:
            found = self.known[recipe] = self._task(recipe)
        return found

    def _task(self, recipe: Recipe) -> Task:
        if not recipe.rule:
            node = self.node(recipe.name)
            return initial_task(node, self.setting, self.nodes[recipe.name][1])
        names = [part.name for part in recipe.parts[1:]]
        if recipe.rule == "copy":
            return self._copy(recipe)
        first = self.task(recipe.parts[0])
        rule = next((rule for rule in RULES if rule.name == recipe.rule), None)
        if rule is not None:
            for second in recipe.parts[1:]:
                first = _done(rule.join(first, self.task(second), first.targets[-1]))
            return first
        if recipe.rule in FORMS:
            return _done(FORMS[recipe.rule](first))
        if recipe.rule == "without":
            return without(first, names)
        if recipe.rule == "reading":
            return reading(first, *names)
        if recipe.rule == "written":
            return written(first, *names)
        if recipe.rule == "part":
            return part(first, int(names[0]), names[1])
        if recipe.rule == "viewed":
            return viewed(first, self.home(names[0]).value(names[0]))
        raise ValueError(f"there is no rule {recipe.rule!r}")

    def _copy(self, recipe: Recipe) -> Task:
        """A copy between two values: the graph's, or such as have a home."""
        source, target = (
            self.setting.values[p.name] if p.name in self.setting.values else self.home(p.name).value(p.name)
            for p in recipe.parts
        )
        return copy_task(source, target, self.setting, (), "")


def _agree(work: Work, task: Task) -> None:
    """What a plan says besides must be so."""
    ops = tuple(n.op for n in task.nodes)
    for key, said, found in (
        ("nodes", work.nodes, task.first_nodes),
        ("ops", work.ops, ops),
        ("from", work.sources, task.sources),
        ("writes", tuple(w for w in work.writes if w not in task.targets), ()),
    ):
        if said and said != found:
            raise ValueError(f"{key}: its recipe says {', '.join(found) or 'otherwise'}")


def _done(task: Task | Refusal) -> Task:
    if isinstance(task, Refusal):
        raise ValueError(task.why)
    return task


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
