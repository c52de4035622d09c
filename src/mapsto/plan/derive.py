"""From a plan back to tasks: recipes are followed, nothing is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mapsto.errors import ParseError
from mapsto.ir.expr import Dim, symbols
from mapsto.ir.graph import Graph, Node
from mapsto.ir.region import reads
from mapsto.kernel.ast import Load
from mapsto.ops.guards import required_of
from mapsto.plan import items as made_of
from mapsto.plan.chain import CHAIN, chain_join
from mapsto.plan.edits import kept_in_place, part, part_layout, reading, viewed, written
from mapsto.plan.home import Home, as_it_comes
from mapsto.plan.initial import Setting, copy_task, initial_task
from mapsto.plan.layout import Layout
from mapsto.plan.plan import Plan, PlannedControl, PlannedItem, PlannedView, Work
from mapsto.plan.recipe import Recipe
from mapsto.plan.rounds import ARMS, read_by, region_of
from mapsto.plan.rules import FORMS, RULES, SIBLING_RULES, Refusal
from mapsto.plan.sliced import PASSING, layout_of_slice, lead_of_slices, sliced_join
from mapsto.plan.slices import slice_of, without
from mapsto.plan.task import SLICED, Task
from mapsto.plan.views import view_layout, view_source


@dataclass(frozen=True)
class Derived:
    """Items with what follows from the graph. `inside`: buffer and layout of each value that lies in another one's
    buffer, as that one's home and the recipes say it. `seen`: for a value that is a part of another one, read by a work
    without a view of its own, the other one.
    """

    items: tuple[made_of.Item, ...]
    inside: Mapping[str, tuple[str, Layout]]
    seen: Mapping[str, str]


def derive(plan: Plan, graph: Graph, setting: Setting) -> Derived:
    """What follows from a plan and its graph. Raises ParseError, naming the line, for what the graph has not or rules
    do not give.
    """
    work = _Deriving(plan, setting, *_nodes(graph))
    return Derived(work.items(plan.items), work.inside, work.seen)


def _nodes(graph: Graph) -> tuple[list[Node], dict[str, tuple[Node, frozenset[Dim]]]]:
    """All nodes in the order of `Graph.walk`; by first output, with what a run has checked of its sizes by then."""
    listed = list(graph.walk())
    found: dict[str, tuple[Node, frozenset[Dim]]] = {}

    def level(graph: Graph, required: frozenset[Dim]) -> None:
        required |= {required_of(n) for n in graph.nodes if n.op == "require"}
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
    inside: dict[str, tuple[str, Layout]] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)

    def items(self, items: tuple[PlannedItem, ...]) -> tuple[made_of.Item, ...]:
        return tuple(map(self.item, items))

    def item(self, item: PlannedItem) -> made_of.Item:
        try:
            return self._item(item)
        except (ValueError, IndexError, KeyError, TypeError, StopIteration) as error:
            where = f"plan, line {item.line}: " if item.line else "plan: "
            raise ParseError(f"{where}{type(item).__name__.lower()} {item.name}: {_said(error)}") from error

    def _item(self, item: PlannedItem) -> made_of.Item:
        if isinstance(item, Work):
            task = self.task(item.recipe)
            if item.recipe.rule == "copy":  # on whose behalf
                task = replace(task, nodes=tuple(map(self.node, item.nodes)))
            if task.kind != item.kind:
                raise ValueError(f"its recipe makes {task.kind}, not {item.kind}")
            _agree(item, task)
            return replace(task, name=item.name, because=item.because)
        if isinstance(item, PlannedView):
            return self._view(item)
        if isinstance(item, PlannedControl):
            if item.node >= len(self.listed):
                raise ValueError(f"the graph has {len(self.listed)} nodes, not a number {item.node}")
            return made_of.Control(self.listed[item.node], item.name)
        node = self.node(item.node)
        rounds = region_of(node) is not None
        if len(item.arms) != (ARMS if rounds else len(node.graphs)) or not node.graphs:
            raise ValueError(f"node {item.node} has {len(node.graphs)} nested graphs")
        arms = tuple(self.items(arm) for arm in item.arms)
        if rounds:
            return made_of.Looped(node, arms, read_by(node), item.name)
        return made_of.Branches(node, arms, frozenset(reads(node)), item.name)

    def _view(self, item: PlannedView) -> made_of.View:
        task = self.task(item.recipe)
        if item.recipe.rule == "without":  # its parts say where they lie
            expected, of = task.nodes[-1].output.name, tuple(part.name for part in item.recipe.parts[1:])
            if task.stmts or (item.value, set(item.of)) != (expected, set(of)):
                raise ValueError(f"its recipe makes {expected} of {', '.join(of)}")
        else:
            load = view_source(task)
            if load is None or (item.value, item.of) != (task.targets[-1], (load.tensor,)):
                raise ValueError(f"its recipe does not only move {', '.join(item.of)}")
            self._seen(item.value, task)
        return made_of.View(item.value, item.of, item.recipe, item.because, item.name)

    def _seen(self, name: str, task: Task) -> None:
        """A value that is what a task would copy, as it lies."""
        load = view_source(task)
        source = None if load is None else self.home(load.tensor)
        layout = None
        if load is not None and source is not None:
            layout = view_layout(task.stmts[0], load, source.layout, self.setting.traits.block)
        if source is None or layout is None:
            raise ValueError(f"{name!r} is no view: its places are neither affine nor blocked")
        self.inside[name] = source.buffer, layout

    def _without(self, task: Task, names: list[str]) -> Task:
        """A concatenation whose operands lie in their parts."""
        whole = self.setting.values[task.targets[-1]]
        home = self.home(whole.name)
        for name in names:
            stmt = next(s for s in task.stmts if isinstance(s.value, Load) and s.value.tensor == name)
            part_of = slice_of(stmt, self.setting.values[name], whole)
            if part_of is None:
                raise ValueError(f"{name!r} is no part of {whole.name!r}")
            self.inside[name] = home.buffer, part_of.layout(home.layout, self.setting.values[name])
        return without(task, names)

    def _part(self, task: Task, at: int, name: str) -> Task:
        home = self.home(task.stmts[at].target)
        self.inside[name] = home.buffer, part_layout(task.stmts[at], home.layout)
        return part(task, at, name)

    def _viewed(self, task: Task, name: str) -> Task:
        self._seen(name, task)
        (self.seen[name],) = task.reads
        return viewed(task, self.home(name).value(name))

    def node(self, name: str) -> Node:
        if name not in self.nodes:
            raise ValueError(f"no node yields {name!r}")
        return self.nodes[name][0]

    def home(self, name: str) -> Home:
        if name in self.setting.constants:
            return as_it_comes(self.setting.values[name])
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
        if recipe.rule == "columns":
            return self._columns(recipe.parts[0], *names)
        for siblings in SIBLING_RULES:
            if siblings.name == recipe.rule:
                tasks = [self.task(part) for part in recipe.parts]
                return _done(siblings.join(tasks, self.setting.constants, self.setting.prefix))
        if recipe.rule == CHAIN:
            return _done(chain_join(*map(self.task, recipe.parts)))
        if recipe.rule == SLICED:
            return self._sliced(recipe)
        first = self.task(recipe.parts[0])
        rule = next((rule for rule in RULES if rule.name == recipe.rule), None)
        if rule is not None:
            for second in recipe.parts[1:]:
                first = _done(rule.join(first, self.task(second), first.targets[-1]))
            return first
        if recipe.rule in FORMS:
            return _done(FORMS[recipe.rule](first, self.setting.traits, self.setting.constants))
        if recipe.rule == "without":
            return self._without(first, names)
        if recipe.rule == "reading":
            return reading(first, *names)
        if recipe.rule == "written":
            return written(first, *names)
        if recipe.rule == "kept":
            return kept_in_place(first, *names)
        if recipe.rule == "part":
            return self._part(first, int(names[0]), names[1])
        if recipe.rule == "viewed":
            return self._viewed(first, names[0])
        raise ValueError(f"there is no rule {recipe.rule!r}")

    def _sliced(self, recipe: Recipe) -> Task:
        """Works done slice by slice; what passes lies as its home says, in one piece a slice."""
        passing, *stages = recipe.parts
        if passing.rule != PASSING:
            raise ValueError(f"{SLICED} begins with {PASSING}(...)")
        names = [part.name for part in passing.parts]
        task = _done(sliced_join([self.task(stage) for stage in stages], names))
        made = {name for stage in task.stages for name in stage.targets}
        count = len(lead_of_slices(task))
        for name in names:
            layout = layout_of_slice(self.home(name).layout, count) if name in made else None
            if layout is None or symbols(layout.elements):
                raise ValueError(f"{name!r} does not pass: no stage makes it, or a slice of it is not in one piece")
        return task

    def _columns(self, recipe: Recipe, name: str) -> Task:
        """The columns that one of siblings has in what they are together."""
        rule = next(r for r in SIBLING_RULES if r.name == recipe.rule)
        tasks = [self.task(part) for part in recipe.parts]
        return _done(rule.part(tasks, self.task(recipe), name, self.setting.prefix))

    def _copy(self, recipe: Recipe) -> Task:
        """A copy between two values: the graph's, or such as have a home."""
        source, target = (
            self.setting.values[p.name] if p.name in self.setting.values else self.home(p.name).value(p.name)
            for p in recipe.parts
        )
        node, _ = self.nodes.get(target.name, (None, None))
        nodes = (node,) if node is not None and node.op == "copy" else ()  # of the graph, not one that homes ask for
        return copy_task(source, target, self.setting, nodes, "")


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
