"""Fusion: which nodes become one kernel, by the rules of `plan.rules`.

In topological order each task is tried with each source that it reads, the latest first, by each rule in turn, until
none applies. A joined task takes the reader's place, so tasks only move to later places, and a check stays before what
it guards. At last tasks that read the same value are joined (`plan.siblings`), where the first of them stood, whose
sizes and operands are theirs.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace

from mapsto.budget import current
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.region import reads
from mapsto.kernel.facts import facts
from mapsto.machine.spec import DeviceSpec
from mapsto.ops.guards import required_of
from mapsto.ops.registry import op
from mapsto.plan.home import Home, as_it_comes
from mapsto.plan.initial import Setting, copy_task, initial_task
from mapsto.plan.items import Branches, Control, Item, Looped, reads_of, targets_of
from mapsto.plan.narrow_reads import read_narrow
from mapsto.plan.patterns import number
from mapsto.plan.prices import Prices
from mapsto.plan.rounds import carried, read_by, region_of
from mapsto.plan.rules import COMPOSE, FORMS, ROWS, RULES, SIBLING_RULES, Refusal, Rule
from mapsto.plan.rules.contract import summed
from mapsto.plan.siblings import join_siblings
from mapsto.plan.task import Task
from mapsto.plan.works import Declined

# A concatenation of more values than this lies row-major and is written operand by operand.
MOST_OPERANDS = 64

# Which nodes a user wants in one kernel: told (source, reader), "" or why they stay apart.
Together = Callable[[Task, Task], str]


def is_wide(task: Task) -> bool:
    """Whether a task is a concatenation of very many values."""
    return len(task.stmts) > MOST_OPERANDS and task.is_concat


def fuse(
    graph: Graph,
    setting: Setting,
    prices: Prices,
    together: Together | None = None,
    pinned: Set[str] = frozenset(),
) -> tuple[Item, ...]:
    """The items of a graph in order. pinned: values of which a user says how they lie."""
    done = _items(graph, setting, prices, together, frozenset(), ())
    for rule in SIBLING_RULES:
        done = join_siblings(done, frozenset(graph.outputs), setting, prices, together, pinned, rule)
    return done


def _items(
    graph: Graph,
    setting: Setting,
    prices: Prices,
    together: Together | None,
    required: Set[Dim],
    copies: tuple[Value, ...],
) -> tuple[Item, ...]:
    """copies: the graph is an arm, whose outputs are copied to these values. required: what a run has checked of its
    sizes by then, each at least 0.
    """
    required = required | {required_of(n) for n in graph.nodes if n.op == "require"}
    items: list[Item | None] = []
    for node in graph.nodes:
        items.extend(_of(node, setting, prices, together, required))
    external = set(graph.outputs)
    if copies:
        for name, target in zip(graph.outputs, copies, strict=True):
            items.append(copy_task(setting.values[name], target, setting, (), ""))
        external = {v.name for v in copies}
    return _Fusing(items, setting.values, external, together, setting, prices, read_narrow(graph)).done()


def _of(
    node: Node, setting: Setting, prices: Prices, together: Together | None, required: Set[Dim]
) -> list[Item]:
    current().tick("fusion")
    region = region_of(node)
    if region is not None:
        body = _items(region.graph, setting, prices, together, required, ())
        return [*_starts(node, setting), _looped(node, setting, body)]
    if node.graphs:
        arms = tuple(_items(inner, setting, prices, together, required, node.outputs) for inner in node.graphs)
        return [Branches(node, arms, frozenset(reads(node)))]
    if node.op == "copy":
        return [copy_task(setting.values[node.inputs[0]], node.output, setting, (node,), "")]
    if node.op == "bind_dim" or op(node.op).kind == "control":
        return [Control(node)]
    return [initial_task(node, setting, required)]


def _starts(node: Node, setting: Setting) -> list[Item]:
    """Copies of what the states of a loop start with, where sizes stay."""
    return [_copy(c.start, c.state, setting) for c in carried(node) if not c.changes]


def _looped(node: Node, setting: Setting, body: tuple[Item, ...]) -> Looped:
    enter = tuple(_copy(c.start, c.output, setting) for c in carried(node) if c.changes)
    return Looped(node, (enter, body, ()), read_by(node))


def _copy(source: str, target: str, setting: Setting) -> Task:
    return copy_task(setting.values[source], setting.values[target], setting, (), "")


@dataclass
class _Fusing:
    """The items of one graph while they are joined; what this object holds nobody else sees."""

    items: list[Item | None]
    values: Mapping[str, Value]
    external: Set[str]
    together: Together | None
    setting: Setting
    prices: Prices
    narrow: Set[str]  # what is computed of bytes by whoever reads it
    producer: dict[str, int] = field(default_factory=dict)
    readers: dict[str, list[int]] = field(default_factory=dict)  # of what is made here; in order
    read: dict[int, Set[str]] = field(default_factory=dict)  # by place: what an item reads of what is made here
    refused: dict[tuple[int, str], dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for at, item in enumerate(self.items):
            for name in () if item is None else targets_of(item):
                self.producer[name] = at
        for at in range(len(self.items)):
            self._register(at)
        for at in reversed(range(len(self.items))):
            if self._task(at, "rows") is not None:
                self._drop_if_dead(at)

    def done(self) -> tuple[Item, ...]:
        meter = current()
        for at in range(len(self.items)):
            meter.tick("fusion")
            task = self._task(at)
            if task is None or task.kind == "routine" or is_wide(task):
                continue
            self._take_form(at, task)
            self._improve(at, RULES)
        return tuple(self._with_refusals(at, item) for at, item in enumerate(self.items) if item is not None)

    def _task(self, at: int, kind: str = "") -> Task | None:
        item = self.items[at]
        return item if isinstance(item, Task) and (not kind or item.kind == kind) else None

    # -- who reads what ------------------------------------------------------------------------------------------------

    def _register(self, at: int) -> None:
        item = self.items[at]
        assert item is not None
        for name in targets_of(item):
            self.producer[name] = at
        self.read[at] = self.producer.keys() & reads_of(item)
        for name in self.read[at]:
            bisect.insort(self.readers.setdefault(name, []), at)

    def _unregister(self, at: int) -> None:
        for name in self.read.pop(at):
            known = self.readers[name]
            del known[bisect.bisect_left(known, at)]

    def _replace(self, at: int, joined: Task, source_at: int) -> None:
        """`joined` stands at the reader's place; the source goes, unless somebody else reads what it makes."""
        source = self._task(source_at)
        assert source is not None
        self._unregister(at)
        self.items[at] = joined
        self._register(at)
        if set(source.targets) <= set(joined.targets):
            self._unregister(source_at)
            self.items[source_at] = None
        else:
            self._drop_if_dead(source_at)

    def _drop_if_dead(self, at: int) -> None:
        """Remove a task whose targets nobody reads any more."""
        item = self.items[at]
        if item is None or any(t in self.external or self.readers.get(t) for t in targets_of(item)):
            return
        self._unregister(at)
        self.items[at] = None

    # -- improving -----------------------------------------------------------------------------------------------------

    def _improve(self, at: int, rules: tuple[Rule, ...]) -> None:
        """Join the task with its sources until no rule applies."""
        while (task := self._task(at)) is not None and self._step(at, task, rules):
            pass

    def _step(self, at: int, task: Task, rules: tuple[Rule, ...]) -> bool:
        known = self.producer
        # what is read as bytes first: on accumulators it would be an operand in memory
        for _, last, name in sorted((name not in self.narrow, -known[name], name) for name in self.read[at]):
            source_at = -last
            source = None if source_at == at else self._task(source_at)
            if source is None or is_wide(source):
                continue
            fitting = [r for r in rules if r.reads == task.kind and r.takes == source.kind]
            if fitting and self.together is not None and (apart := self.together(source, task)):
                self.refused.setdefault((at, name), {})["plan"] = apart
                continue
            if source.kind == "contraction" and set(task.targets) <= self.narrow:
                why = f"bytes are stored, and read beside what comes later: not what {name} stands for"
                self.refused.setdefault((at, name), {})["epilogue"] = why
                continue
            around = _Around(self, source, at)
            for rule in fitting:
                joined = rule.apply(source, task, name, around)
                if not isinstance(joined, Refusal):
                    self._replace(at, joined, source_at)
                    return True
                self.refused.setdefault((at, name), {})[rule.name] = joined.why
        return False

    def _take_form(self, at: int, task: Task) -> None:
        """A task that is a contraction, by itself or with what makes the products that it sums, takes that form."""
        asked_before = any(op(node.op).kind == "contraction" for node in task.nodes)
        value = None if asked_before else summed(task)
        if value is None:
            return
        if value == "":
            self._form(at, task, None)
            return
        source_at = self.producer.get(value, at)
        source = None if source_at == at else self._task(source_at, "rows")
        if source is None or is_wide(source) or (self.together is not None and self.together(source, task)):
            return
        joined = COMPOSE.apply(source, task, value, _Around(self, source, at))
        if not isinstance(joined, Refusal):
            self._form(at, joined, source_at)

    def _form(self, at: int, task: Task, source_at: int | None) -> None:
        traits, constants = self.setting.traits, self.setting.constants
        formed = next((t for form in FORMS.values() if isinstance(t := form(task, traits, constants), Task)), None)
        if formed is None:
            return
        if source_at is not None:
            self._replace(at, formed, source_at)
            return
        self._unregister(at)
        self.items[at] = formed
        self._register(at)

    def _with_refusals(self, at: int, item: Item) -> Item:
        """A task with the reasons why rules did not apply to what it still reads."""
        if not isinstance(item, Task):
            return item
        found = [
            Declined(rule, name, why)
            for name in sorted(self.read[at])
            if self._task(self.producer[name]) is not None
            for rule, why in self.refused.get((at, name), {}).items()
        ]
        return replace(item, refused=tuple(found))


@dataclass(frozen=True)
class _Around:
    fusing: _Fusing
    source: Task
    reader: int

    def alone(self, value: str) -> bool:
        return value not in self.fusing.external and self.fusing.readers.get(value) == [self.reader]

    def goes_out(self, value: str) -> bool:
        return value in self.fusing.external

    def between(self) -> bool:
        return any(r < self.reader for t in self.source.targets for r in self.fusing.readers.get(t, ())[:1])

    def columns(self, value: str) -> int | None:
        at = self.fusing.producer.get(value)
        maker = None if at is None else self.fusing.items[at]
        return maker.phases[0].column_dim if isinstance(maker, Task) and maker.phases else None

    def passes_on(self) -> bool:
        reader = self.fusing.items[self.reader]
        assert isinstance(reader, Task)
        later = sorted({at for name in reader.targets for at in self.fusing.readers.get(name, ())})
        if not later or any(map(self.goes_out, reader.targets)) or reader.kind != ROWS.takes:
            return False
        tasks = [item for at in later if isinstance(item := self.fusing.items[at], Task)]
        if len(tasks) < len(later) or any(task.kind != ROWS.reads or is_wide(task) for task in tasks):
            return False
        if not any(facts(stmt.value).reduces for task in tasks for stmt in task.stmts):
            return False  # it may become a part of the same epilogue
        value = next(name for name in reader.targets if name in tasks[0].reads)
        around = _Around(self.fusing, reader, later[0])
        return any(isinstance(rule.apply(reader, tasks[0], value, around), Task) for rule in (COMPOSE, ROWS))

    def value(self, name: str) -> Value:
        made = self.source.made.get(name)
        return made if made is not None else self.fusing.values[name]

    @property
    def spec(self) -> DeviceSpec:
        return self.fusing.prices.spec

    def size(self, e: Dim) -> int:
        return number(e, self.fusing.prices.sizes)

    def saved(self, joined: Task) -> float:
        prices, reader = self.fusing.prices, self.fusing.items[self.reader]
        assert isinstance(reader, Task)
        apart = {n: self._plain(n, reader) for n in (*self.source.reads, *reader.reads, *reader.targets[-1:])}
        apart.update({n: self._plain(n, reader) for n in (*self.source.targets, *reader.targets) if self._kept(n)})
        inside = {n for n in joined.targets if n in apart and not self._kept(n) and n not in reader.targets[-1:]}
        together = {name: home for name, home in apart.items() if name not in inside}
        return prices.seconds(self.source, apart) + prices.seconds(reader, apart) - prices.seconds(joined, together)

    def _kept(self, name: str) -> bool:
        """Whether somebody besides the two reads a value."""
        return self.goes_out(name) or any(at != self.reader for at in self.fusing.readers.get(name, ()))

    def _plain(self, name: str, reader: Task) -> Home:
        value = self.source.made.get(name) or reader.made.get(name) or self.fusing.values[name]
        return as_it_comes(value)
