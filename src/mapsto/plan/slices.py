"""Slices: what is only concatenated is written straight into its part of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mapsto.ir.expr import Dim, sym, symbols
from mapsto.ir.graph import Value, binds
from mapsto.kernel.ast import Load, Stmt
from mapsto.plan.home import Border
from mapsto.plan.items import Branches, Control, Item, Looped, each, targets_of
from mapsto.plan.layout import Layout
from mapsto.plan.recipe import made, of
from mapsto.plan.task import Task
from mapsto.plan.views import view_source
from mapsto.plan.votes import Wishes, wider
from mapsto.plan.works import walk


@dataclass(frozen=True)
class Slice:
    """A value that is the part of `whole` that begins at `start` of dim `axis`."""

    whole: str
    axis: int
    start: Dim

    def layout(self, whole: Layout, part: Value) -> Layout:
        """Where the part lies, in the whole's buffer."""
        return whole.slice(self.axis, self.start, part.shape[self.axis])


def slice_of(stmt: Stmt, part: Value, whole: Value) -> Slice | None:
    """The slice that a statement of a concatenation copies a value to, which is moved along one axis at most."""
    if stmt.index is None:
        return None
    moved = [
        (d, e - sym(i.name)) for d, (e, i) in enumerate(zip(stmt.index, stmt.iters, strict=True)) if e != sym(i.name)
    ]
    if len(moved) > 1:
        return None
    shapes = zip(part.shape, whole.shape, strict=True)
    axis, start = moved[0] if moved else (next((d for d, (a, b) in enumerate(shapes) if a != b), 0), 0)
    return Slice(whole.name, axis, start)


@dataclass
class _Slicing:
    """What is found out concat by concat, the last first; nobody else sees it."""

    makers: Mapping[str, Task]
    rounds: Mapping[str, int]  # the loop (by a number) in whose rounds a value is made
    late: Mapping[str, frozenset[str]]  # sizes that a run only knows after a value is made
    values: Mapping[str, Value]
    wishes: Wishes
    border: dict[str, Border]
    block: int
    slices: dict[str, Slice] = field(default_factory=dict)
    changed: dict[str, Task] = field(default_factory=dict)  # by the concat's target

    def take(self, task: Task) -> None:
        target = task.stmts[0].target
        copied: list[Stmt] = []
        written: list[str] = []
        for stmt in task.stmts:
            found = self.slice(stmt, target)
            if found is None:
                copied.append(stmt)
                continue
            name, part = found
            self.slices[name] = part
            written.append(name)
            if name in self.border:
                self.border[target] = wider(self.border.get(target), self.border[name])
        if written:
            self.changed[target] = without(task, written)

    def slice(self, stmt: Stmt, target: str) -> tuple[str, Slice] | None:
        load = stmt.value
        if not isinstance(load, Load) or stmt.index is None or load.index != tuple(sym(i.name) for i in stmt.iters):
            return None
        name = load.tensor
        maker = self.makers.get(name)
        if maker is None or maker.kind == "routine" or name in self.wishes.fixed or name in self.slices:
            return None
        if self.rounds.get(name) != self.rounds.get(target):
            return None  # it is made once, where the whole is made in each round
        late = self.late[name]
        if late and any(symbols(d) & late for d in self.values[target].shape):
            return None  # where the whole lies, and how long it is, is not known yet
        inner = self.wishes.inner.get(name)
        if view_source(maker) is not None or inner != self.wishes.inner.get(target):
            return None
        if target in self.wishes.fixed and name in self.border:
            return None
        found = slice_of(stmt, self.values[name], self.values[target])
        if found is None or (name in self.border and self.border[name][found.axis] != (0, 0)):
            return None
        extents = (found.start, self.values[name].shape[found.axis], self.values[target].shape[found.axis])
        if inner is not None and found.axis == inner.dim and not inner.whole and self.block:
            if not all(isinstance(e, int) and e % self.block == 0 for e in extents):
                return None
        return name, found


def slice_concats(
    items: Sequence[Item], values: Mapping[str, Value], wishes: Wishes, block: int
) -> tuple[tuple[Item, ...], dict[str, Slice], dict[str, Border]]:
    """The items without the copies that are not needed; values that are slices; borders, which slices share. block: of
    blocked dims, which parts may not cut.
    """
    every = [item for item in walk(items) if isinstance(item, Task)]
    makers = {t: task for task in every for t in task.targets}
    work = _Slicing(makers, _rounds_of(items), _late(items), values, wishes, dict(wishes.border), block)
    for task in reversed(every):
        if task.is_concat:
            work.take(task)

    def change(item: Item) -> tuple[Item, ...]:
        if not isinstance(item, Task) or not item.targets:
            return (item,)
        return (work.changed.get(item.targets[-1], item),)

    return each(items, change), work.slices, work.border


def _late(items: Sequence[Item]) -> dict[str, frozenset[str]]:
    """What is made -> the sizes that get their values after it."""
    found: dict[str, frozenset[str]] = {}
    late: frozenset[str] = frozenset()
    for item in reversed([*walk(items)]):
        for name in targets_of(item):
            found.setdefault(name, late)
        if isinstance(item, Control | Branches) and (names := binds(item.node)):
            late |= frozenset(names)
    return found


def _rounds_of(items: Sequence[Item]) -> dict[str, int]:
    """What is made in the rounds of loops -> the number of the innermost one."""
    found: dict[str, int] = {}
    for at, loop in enumerate(item for item in walk(items) if isinstance(item, Looped)):
        for item in (inner for arm in loop.arms for inner in walk(arm)):
            for name in targets_of(item):
                found.setdefault(name, at)  # inner loops come first
    return found


def without(task: Task, written: Sequence[str]) -> Task:
    """A concat without the copies of values that are written into their parts: of each the first, as a value lies in
    one place.
    """
    gone = set(written)
    stmts: list[Stmt] = []
    for stmt in task.stmts:
        if isinstance(stmt.value, Load) and stmt.value.tensor in gone:
            gone.remove(stmt.value.tensor)
        else:
            stmts.append(stmt)
    target = task.targets[-1]
    because = tuple(f"{name} is written straight into its part of {target}" for name in written)
    recipe = made("without", task.recipe, *map(of, written))
    return replace(task, recipe=recipe, stmts=tuple(stmts), because=(*task.because, *because), parts=None)
