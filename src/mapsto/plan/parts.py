"""Copies into and out of parts of a value, as copies between two values: equal shapes are equal kernels.

A concatenation of many values is taken apart: each operand is copied into its part of the result by a step of its own.
(One kernel of n statements that have nothing to do with each other takes n^2 comparisons to schedule, and is compiled
for this one concatenation.) A slice that must be copied, as it leaves the graph, is copied from a view, so that where
it begins is in the step's pointer and not in the code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mapsto.ir.expr import Dim, sym, terms_of
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Load, Stmt
from mapsto.plan.group import Group, is_wide
from mapsto.plan.homes import Home, Homes, view_layout, view_source


def take_apart(groups: list[Group], homes: Homes, fresh: Callable[[str], str]) -> list[Group]:
    """The groups, those of branches included, with each wide concatenation as many groups, and slices as views."""
    done: list[Group] = []
    for group in groups:
        group.branches = tuple(take_apart(branch, homes, fresh) for branch in group.branches)
        _read_a_view(group, homes, fresh)
        done.extend(_parts(group, homes, fresh) if is_wide(group) else [group])
    return done


def _read_a_view(group: Group, homes: Homes, fresh: Callable[[str], str]) -> None:
    """A copy of a slice becomes a copy of a value that is the slice."""
    load = view_source(group)
    if load is None or group.kind != "rows" or not any(_is_shifted(e) for e in load.index):
        return
    (stmt,) = group.stmts
    source = homes.homes.get(load.tensor)
    layout = None if source is None else view_layout(stmt, load, source.layout)
    if source is None or layout is None:
        return
    view = Value(fresh(f"{stmt.target}.view"), load.dtype, tuple(i.extent for i in stmt.iters))
    homes.values[view.name] = view
    homes.homes[view.name] = Home(source.buffer, layout, f"a view of {load.tensor}")
    group.stmts = [replace(stmt, value=Load(view.name, tuple(sym(i.name) for i in stmt.iters), load.dtype))]


def _is_shifted(e: Dim) -> bool:
    """Whether an index has a constant added to it."""
    terms = terms_of(e)
    return bool(terms) and terms[-1][0] == () and len(terms) > 1


def _parts(group: Group, homes: Homes, fresh: Callable[[str], str]) -> list[Group]:
    stmts = [_into_slice(stmt, homes, fresh) for stmt in group.stmts]
    reason = f"one of {len(stmts)} operands that are copied into their parts of {group.stmts[0].target}"
    return [Group("rows", group.nodes, [stmt], reasons=[*group.reasons, reason]) for stmt in stmts]


def _into_slice(stmt: Stmt, homes: Homes, fresh: Callable[[str], str]) -> Stmt:
    """The statement as a copy into a value that is a slice of the target."""
    assert stmt.index is not None
    whole = homes.homes[stmt.target]
    shape: tuple[Dim, ...] = tuple(i.extent for i in stmt.iters)
    layout = whole.layout
    for dim, (at, it) in enumerate(zip(stmt.index, stmt.iters, strict=True)):
        layout = layout.slice(dim, at - sym(it.name), it.extent)
    name = fresh(f"{stmt.target}.part")
    homes.values[name] = Value(name, stmt.dtype, shape)
    homes.homes[name] = Home(whole.buffer, layout, f"a part of {stmt.target}")
    return replace(stmt, target=name, index=None)
