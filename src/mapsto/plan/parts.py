"""Copies into and out of parts of a value, as copies between two values: equal shapes are equal kernels.

A concatenation of many values is taken apart: each operand is copied into its part of the result by a step of its own.
(One kernel of n statements that have nothing to do with each other takes n^2 comparisons to schedule, and is compiled
for this one concatenation.) A slice that must be copied, as it leaves the graph, is copied from a view, so that where
it begins is in the step's pointer and not in the code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mapsto.ir.graph import Value
from mapsto.plan.edits import part, part_layout, viewed
from mapsto.plan.fuse import is_wide
from mapsto.plan.home import Home
from mapsto.plan.items import Item, each
from mapsto.plan.task import Task
from mapsto.plan.views import is_shifted, view_layout, view_source


def take_apart(
    items: Sequence[Item], homes: dict[str, Home], block: int, fresh: Callable[[str], str]
) -> tuple[tuple[Item, ...], dict[str, Home]]:
    """The items with each wide concatenation as many tasks, and slices read as views; the homes with those of both.
    block: of blocked dims.
    """
    homes = dict(homes)

    def change(item: Item) -> list[Item]:
        if not isinstance(item, Task):
            return [item]
        if is_wide(item):
            return list(_parts(item, homes, fresh))
        return [_read_a_view(item, homes, block, fresh)]

    return each(items, change), homes


def _read_a_view(task: Task, homes: dict[str, Home], block: int, fresh: Callable[[str], str]) -> Task:
    load = view_source(task)
    if load is None or load.tensor not in homes or not any(is_shifted(e) for e in load.index):
        return task
    (stmt,) = task.stmts
    source = homes[load.tensor]
    layout = view_layout(stmt, load, source.layout, block)
    if layout is None:
        return task
    name = fresh(f"{stmt.target}.view")
    homes[name] = Home(source.buffer, load.dtype, layout, f"a view of {load.tensor}")
    return viewed(task, Value(name, load.dtype, tuple(i.extent for i in stmt.iters)))


def _parts(task: Task, homes: dict[str, Home], fresh: Callable[[str], str]) -> list[Task]:
    target = task.stmts[0].target
    why = f"one of {len(task.stmts)} operands that are copied into their parts of {target}"
    found = []
    for at, stmt in enumerate(task.stmts):
        name = fresh(f"{target}.part")
        whole = homes[target]
        homes[name] = Home(whole.buffer, stmt.dtype, part_layout(stmt, whole.layout), f"a part of {target}")
        made = part(task, at, name)
        found.append(replace(made, because=(*task.because, why)))
    return found
