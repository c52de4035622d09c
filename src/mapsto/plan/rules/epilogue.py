"""epilogue: what reads a contraction's result at the same point is computed on the accumulators before they are stored.

What somebody else reads on the way (a pre-activation of a residual block) is stored as well, from the registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mapsto.kernel.ast import Stmt
from mapsto.kernel.compose import complexity, identity_prefix, is_pointwise, loads_of, reads
from mapsto.plan.recipe import made
from mapsto.plan.rules.base import Around, Refusal, Rule
from mapsto.plan.task import Task, joined_nodes

# Operations and loads of an epilogue: a bound on how large it grows.
MOST_OPERATIONS = 160


def _allowed(source: Task, reader: Task, value: str, around: Around) -> str:
    # a result stored on the way may be what is read in between, though the last one has no other reader
    if around.between():
        return f"{value} is read by something in between, or what is stored with it is"
    if around.alone(value):
        return ""
    if around.passes_on():
        return f"{value} is stored for others anyway, and {reader.targets[-1]} is computed of it where it is read"
    out = next((t for t in (*source.targets, *reader.targets[:-1]) if around.goes_out(t)), None)
    return f"{out} leaves the graph, and lies as the caller wants it" if out is not None else ""


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
    if sum(map(complexity, joined.stmts)) > MOST_OPERATIONS:
        return f"the epilogue would have more than {MOST_OPERATIONS} operations and loads"
    waiting, most = _waiting(joined.stmts), joined.phases[0].traits.most_waiting
    return f"{waiting} results of the epilogue would wait in registers" if waiting > most else ""


def _waiting(stmts: Sequence[Stmt]) -> int:
    """How many results wait at most, after a statement, for one that comes later."""
    last = {name: at for at, stmt in enumerate(stmts) for name in reads(stmt)}
    ends = [(at, last.get(stmt.target, at)) for at, stmt in enumerate(stmts)]
    return max((sum(made <= at < end for made, end in ends) for at in range(len(stmts))), default=0)


def _at_same_point(stmt: Stmt, inside: set[str]) -> bool:
    return all(
        identity_prefix(stmt, load.index) == len(stmt.iters) for load in loads_of(stmt) if load.tensor in inside
    )


EPILOGUE = Rule("epilogue", "rows", "contraction", _allowed, _join, _pays)
