"""Windows that read through a shuffle: a movement that no layout is (channels of groups interleaved) makes each load of
the window a gather where channels lie innermost. Stored once in the new order, the window reads it side by side.

Which is better hangs on how values lie, which is decided after what is joined: both are tried.
"""

from __future__ import annotations

from collections.abc import Iterable

from mapsto.ir.expr import Call, atoms, symbols
from mapsto.kernel.ast import Load, Reduction, walk
from mapsto.kernel.compose import is_movement
from mapsto.plan.recipe import Recipe
from mapsto.plan.task import Task


def through_shuffles(tasks: Iterable[Task]) -> frozenset[tuple[Recipe, Recipe]]:
    """Pairs (shuffle, reader) that tasks have in one."""
    found = set()
    for task in tasks:
        if task.parts is not None and _is_shuffle(task.parts[0]) and _sums_over(task.parts[1], task.parts[0].targets):
            source, reader = task.parts
            found.add((source.recipe, reader.recipe))
    return frozenset(found)


def _is_shuffle(task: Task) -> bool:
    if task.kind != "rows" or len(task.stmts) != 1 or not is_movement(task.stmts[0]):
        return False
    own = {i.name for i in task.stmts[0].iters}
    return any(
        isinstance(atom, Call) and symbols(atom.args[0]) & own
        for node in walk(task.stmts[0].value)
        if isinstance(node, Load)
        for e in node.index
        for atom in atoms(e)
    )


def _sums_over(task: Task, names: Iterable[str]) -> bool:
    """Whether a task reads one of these values in a reduction."""
    read = set(names)
    return task.kind == "rows" and any(
        isinstance(inner, Load) and inner.tensor in read
        for stmt in task.stmts
        for node in walk(stmt.value)
        if isinstance(node, Reduction)
        for inner in walk(node)
    )
