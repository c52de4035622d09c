"""What homes ask of tasks: that they read or write a value that lies otherwise. Each edit is a rule of recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mapsto.ir.expr import sym
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Load, Scalar, Stmt, transform
from mapsto.plan.layout import Layout
from mapsto.plan.recipe import Recipe, made, of
from mapsto.plan.task import Task


def reading(task: Task, old: str, new: str) -> Task:
    """A contraction that reads A from a copy, or loops that read an operand from one."""
    phases = tuple(replace(c, a=replace(c.a, tensor=new)) if c.a.tensor == old else c for c in task.phases)
    stmts = task.stmts if phases else tuple(_renamed(stmt, old, new) for stmt in task.stmts)
    recipe = made("reading", task.recipe, of(old), of(new))
    return replace(task, recipe=recipe, phases=phases, stmts=stmts, parts=_edited(task, reading, old, new))


def _renamed(stmt: Stmt, old: str, new: str) -> Stmt:
    """A statement with another operand in the place of this one."""

    def leaf(node: Scalar) -> Scalar | None:
        return replace(node, tensor=new) if isinstance(node, Load) and node.tensor == old else None

    return replace(stmt, value=transform(stmt.value, leaf))


def written(task: Task, old: str, new: str) -> Task:
    """A contraction that writes a result into another value, which is copied to where the result belongs."""
    renamed = (_renamed(s, old, new) for s in task.stmts)
    stmts = tuple(replace(s, target=new if s.target == old else s.target) for s in renamed)
    phases = tuple(replace(c, target=new if c.target == old else c.target) for c in task.phases)
    recipe = made("written", task.recipe, of(old), of(new))
    values = {new: replace(task.values[old], name=new)} if old in task.values else {}
    parts = _edited(task, written, old, new)
    return replace(task, recipe=recipe, stmts=stmts, phases=phases, made={**task.made, **values}, parts=parts)


def _edited(task: Task, edit: Callable[[Task, str, str], Task], old: str, new: str) -> tuple[Task, Task] | None:
    """What a task was joined of, with the same edit."""
    if task.parts is None:
        return None
    source, reader = task.parts
    return edit(source, old, new), edit(reader, old, new)


def kept_in_place(task: Task, target: str, source: str) -> Task:
    """A task that writes a target into the memory of the value that it is made from, without the statements that only
    copy that, where others write what changes.
    """
    kept = tuple(s for s in task.stmts if not (s.target == target and _is_copy_of(s, source)))
    if len(kept) == len(task.stmts) or not any(s.target == target for s in kept):
        return task
    because = (*task.because, f"{target} is an update of {source}, in place")
    recipe = made("kept", task.recipe, of(target), of(source))
    return replace(task, recipe=recipe, stmts=kept, because=because, parts=None)


def _is_copy_of(stmt: Stmt, source: str) -> bool:
    plain = stmt.index is None and stmt.scan is None
    return plain and isinstance(stmt.value, Load) and stmt.value.tensor == source and all(
        a == sym(i.name) or (a == 0 and i.extent == 1) for a, i in zip(stmt.value.index, stmt.iters, strict=True)
    )


def unedited(recipe: Recipe) -> Recipe:
    """As it was before homes asked for anything."""
    while recipe.rule in ("reading", "written", "kept"):
        recipe = recipe.parts[0]
    return recipe


def part(task: Task, at: int, name: str) -> Task:
    """One operand of a wide concatenation: a copy into a value that is its part of the result."""
    stmt = replace(task.stmts[at], target=name, index=None)
    return replace(task, recipe=made("part", task.recipe, of(str(at)), of(name)), stmts=(stmt,), parts=None)


def viewed(task: Task, view: Value) -> Task:
    """A copy of a slice as the copy of a value that is the slice."""
    (stmt,) = task.stmts
    value = Load(view.name, tuple(sym(i.name) for i in stmt.iters), view.dtype)
    recipe = made("viewed", task.recipe, of(view.name))
    return replace(task, recipe=recipe, stmts=(replace(stmt, value=value),), parts=None)


def part_layout(stmt: Stmt, whole: Layout) -> Layout:
    """Where the part of a target lies that a statement of a concatenation writes."""
    assert stmt.index is not None
    for dim, (at, it) in enumerate(zip(stmt.index, stmt.iters, strict=True)):
        whole = whole.slice(dim, at - sym(it.name), it.extent)
    return whole
