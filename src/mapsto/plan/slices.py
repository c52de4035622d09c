"""Slices: what is only concatenated is written straight into its part of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mapsto.ir.expr import Dim, sym
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Load, Stmt
from mapsto.plan.home import BLOCK, Border
from mapsto.plan.items import Item, each, walk
from mapsto.plan.recipe import made, of
from mapsto.plan.task import Task
from mapsto.plan.views import view_source
from mapsto.plan.votes import Wishes, wider


@dataclass(frozen=True)
class Slice:
    """A value that is the part of `whole` that begins at `start` of dim `axis`."""

    whole: str
    axis: int
    start: Dim


@dataclass
class _Slicing:
    """What is found out concat by concat, the last first; nobody else sees it."""

    makers: Mapping[str, Task]
    values: Mapping[str, Value]
    wishes: Wishes
    border: dict[str, Border]
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
        inner = self.wishes.inner.get(name)
        if view_source(maker) is not None or inner != self.wishes.inner.get(target):
            return None
        if target in self.wishes.fixed and name in self.border:
            return None
        found = self.place(stmt, stmt.index, name, target)
        if found is None:
            return None
        axis, start = found
        if name in self.border and self.border[name][axis] != (0, 0):
            return None
        extents = (start, self.values[name].shape[axis], self.values[target].shape[axis])
        if axis == inner and not all(isinstance(e, int) and e % BLOCK == 0 for e in extents):
            return None
        return name, Slice(target, axis, start)

    def place(self, stmt: Stmt, index: tuple[Dim, ...], name: str, target: str) -> tuple[int, Dim] | None:
        """The axis along which a part is moved, and by how much."""
        moved = [
            (d, e - sym(i.name)) for d, (e, i) in enumerate(zip(index, stmt.iters, strict=True)) if e != sym(i.name)
        ]
        if len(moved) > 1:
            return None
        if moved:
            return moved[0]
        shapes = zip(self.values[name].shape, self.values[target].shape, strict=True)
        return next((d for d, (a, b) in enumerate(shapes) if a != b), 0), 0


def slice_concats(
    items: Sequence[Item], values: Mapping[str, Value], wishes: Wishes
) -> tuple[tuple[Item, ...], dict[str, Slice], dict[str, Border]]:
    """The items without the copies that are not needed; values that are slices; borders, which slices share."""
    every = [item for item in walk(items) if isinstance(item, Task)]
    work = _Slicing({t: task for task in every for t in task.targets}, values, wishes, dict(wishes.border))
    for task in reversed(every):
        if task.kind == "rows" and [n.op for n in task.nodes] == ["concat"]:
            work.take(task)

    def change(item: Item) -> tuple[Item, ...]:
        if not isinstance(item, Task) or not item.targets:
            return (item,)
        return (work.changed.get(item.targets[-1], item),)

    return each(items, change), work.slices, work.border


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
    return replace(task, recipe=recipe, stmts=tuple(stmts), because=(*task.because, *because))
