"""epilogue: what reads a contraction's result at the same point is computed on the accumulators before they are stored.
"""

from __future__ import annotations

from dataclasses import replace

from mapsto.kernel.ast import Stmt
from mapsto.kernel.compose import identity_prefix, is_pointwise, loads_of
from mapsto.plan.recipe import made
from mapsto.plan.rules.base import Around, Refusal, Rule
from mapsto.plan.task import Task, joined_nodes

# Statements of an epilogue: each keeps a result in registers beside the accumulators.
MOST_STATEMENTS = 8


def _allowed(source: Task, reader: Task, value: str, around: Around) -> str:
    if not around.alone(value):
        return f"{value} is read elsewhere too: it must be stored"
    outside = [t for t in reader.targets if around.leaves(t)]
    if len(reader.targets) > 1 and outside not in ([], list(reader.targets[-1:])):
        return f"{', '.join(outside)} would have to be stored as well: a contraction stores one result"
    return ""


def _join(source: Task, reader: Task, value: str) -> Task | Refusal:
    if not source.phases or source.targets[-1] != value:
        return Refusal(f"{value} is not what the contraction stores")
    shape = source.phases[0].shape
    inside = {*source.targets, *reader.targets}
    for stmt in reader.stmts:
        whole = is_pointwise(stmt) and stmt.index is None and tuple(i.extent for i in stmt.iters) == shape
        if not whole or not _at_same_point(stmt, inside):
            return Refusal(f"{stmt.target} is not computed point by point over {value}")
    return replace(
        source,
        recipe=made("epilogue", source.recipe, reader.recipe),
        nodes=joined_nodes(source.nodes, reader.nodes),
        stmts=(*source.stmts, *reader.stmts),
        because=(
            *source.because,
            *reader.because,
            f"{', '.join(n.op for n in reader.nodes)} computed on the accumulators of {value}",
        ),
        made={**source.made, **reader.made},
    )


def _pays(source: Task, reader: Task, value: str, joined: Task, around: Around) -> str:
    if len(joined.stmts) <= MOST_STATEMENTS:
        return ""
    return f"the epilogue would have more than {MOST_STATEMENTS} statements"


def _at_same_point(stmt: Stmt, inside: set[str]) -> bool:
    return all(
        identity_prefix(stmt, load.index) == len(stmt.iters) for load in loads_of(stmt) if load.tensor in inside
    )


EPILOGUE = Rule("epilogue", "rows", "contraction", _allowed, _join, _pays)
