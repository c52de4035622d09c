"""Concatenations of many values, taken apart: each operand is copied into its part of the result by a step of its own.

One kernel of n statements that have nothing to do with each other takes n^2 comparisons to schedule, and is compiled for
this one concatenation. A copy into a slice of the result is the same kernel for every operand of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mapsto.ir.expr import Dim, sym
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Stmt
from mapsto.plan.group import Group, is_wide
from mapsto.plan.homes import Home, Homes


def take_apart(groups: list[Group], homes: Homes, fresh: Callable[[str], str]) -> list[Group]:
    """The groups, those of branches included, with each wide concatenation as many groups."""
    done: list[Group] = []
    for group in groups:
        group.branches = tuple(take_apart(branch, homes, fresh) for branch in group.branches)
        done.extend(_parts(group, homes, fresh) if is_wide(group) else [group])
    return done


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
