"""compose: a producer that only moves data, or that the reader alone reads, once an element, is computed where it is
read.
"""

from __future__ import annotations

from dataclasses import replace

from mapsto.ir.expr import product
from mapsto.ir.expr_proofs import known_at_least
from mapsto.kernel.ast import Load, Stmt
from mapsto.kernel.compose import (
    complexity,
    has_hard_index,
    index_loads,
    inline,
    is_map,
    is_movement,
    loads_of,
    points,
    reads,
)
from mapsto.kernel.facts import facts
from mapsto.plan.recipe import made
from mapsto.plan.rules.base import Around, Refusal, Rule
from mapsto.plan.task import Task, joined_nodes

# Operations and loads of a composed statement: a bound on how large one kernel grows.
COMPLEXITY_LIMIT = 160


def _allowed(source: Task, reader: Task, value: str, around: Around) -> str:
    if len(source.stmts) != 1 or not is_map(source.stmts[0]):
        return f"{value} is more than one value a point: it cannot stand in the place of a load"
    moves = is_movement(source.stmts[0])
    if moves or around.alone(value):
        return _dear(source.stmts[0], moves, reader, value)
    return f"{value} is read elsewhere too: it would be computed once for each reader"


def _dear(producer: Stmt, moves: bool, reader: Task, value: str) -> str:
    """Nothing where the composed statements are small and compute nothing twice, as their parts tell; else why not.
    moves: whether the producer only moves data.
    """
    found = [(s, load) for s in reader.stmts for load in loads_of(s) if load.tensor == value]
    if not found or any(value in index_loads(s) for s in reader.stmts):
        return ""  # it cannot be composed, as joining says
    if not moves:
        if len(found) != 1:
            return f"{value} is read {len(found)} times"
        if not _once(producer, *found[0]):
            return f"an element of {value} would be computed more than once"
    more = complexity(producer) - 1
    for stmt in reader.stmts:
        if complexity(stmt) + more * sum(s is stmt for s, _ in found) > COMPLEXITY_LIMIT:
            return f"the statement would have more than {COMPLEXITY_LIMIT} operations and loads"
    return ""


def _once(producer: Stmt, stmt: Stmt, load: Load) -> bool:
    """Whether a load is made no more often than there are elements to load."""
    extents = [i.extent for i in producer.iters]
    if not facts(stmt.value).reduces and extents == [i.extent for i in stmt.iters]:
        return True
    return known_at_least(product(extents) - points(stmt, load), 0)


def _join(source: Task, reader: Task, value: str) -> Task | Refusal:
    if len(source.stmts) != 1 or not is_map(source.stmts[0]):
        return Refusal(f"{value} is not one map")
    producer = source.stmts[0]
    if any(value in index_loads(s) for s in reader.stmts):
        return Refusal(f"elements of {value} are indices")
    stmts = tuple(inline(s, producer) if value in reads(s) else s for s in reader.stmts)
    how = "only moved data" if is_movement(producer) else "read here alone, once an element"
    return replace(
        reader,
        recipe=made("compose", source.recipe, reader.recipe),
        nodes=joined_nodes(source.nodes, reader.nodes),
        stmts=stmts,
        because=(*reader.because, f"{value} is {how}: composed into its reader"),
        made={**source.made, **reader.made},
    )


def _pays(source: Task, reader: Task, value: str, joined: Task, around: Around) -> str:
    if any(has_hard_index(s) for s in joined.stmts):
        return "an index would be divided by a size in the inner loop"
    return ""


COMPOSE = Rule("compose", "rows", "rows", _allowed, _join, _pays)
