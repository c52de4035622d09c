"""contract: statements that sum products of two loads are a contraction, whatever ops wrote them: a reduction of what
was multiplied with broadcasting is a matrix product.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mapsto.kernel.ast import Cast, Load, Op, Reduce, Scalar, walk, with_value
from mapsto.plan.contraction import is_accumulator, is_usable, recognise
from mapsto.plan.recipe import made
from mapsto.plan.rules.base import Refusal
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits


def contract(task: Task, traits: Traits, constants: Collection[str]) -> Task | Refusal:
    """The task as a contraction, where a maker asks for contractions of that form. constants: names of the graph's."""
    if task.kind != "rows" or len(task.stmts) != 1:
        return Refusal("it is not one statement")
    (stmt,) = task.stmts
    found = recognise(stmt, task.values[stmt.target].shape, constants, traits)
    if found is None or not is_usable(found[0]):
        return Refusal("it has not the form of a contraction")
    contraction, around = found
    if all(it.extent == 1 for it in contraction.rows):
        return Refusal("it has a row of one: loops do as well, and may be joined with what is around them")
    return replace(
        task,
        kind="contraction",
        recipe=made("contract", task.recipe),
        phases=(contraction,),
        stmts=() if is_accumulator(around) else (with_value(stmt, around),),
        because=(*task.because, f"a sum of products of {contraction.a.tensor} and {contraction.b.tensor}"),
        parts=None,  # apart they would be loops, which is what the contraction is beside anyway
    )


def summed(task: Task) -> str | None:
    """What a task of one statement sums, where it may have the form of a contraction: the value that it reads once for
    each round, or "" where it multiplies by itself; None for any other task.
    """
    if task.kind != "rows" or len(task.stmts) != 1 or task.stmts[0].scan is not None:
        return None
    sums = [node for node in walk(task.stmts[0].value) if isinstance(node, Reduce)]
    if len(sums) != 1 or sums[0].kind != "sum":
        return None
    body: Scalar = sums[0].body
    while isinstance(body, Cast):
        body = body.arg
    if isinstance(body, Load):
        return body.tensor
    return "" if isinstance(body, Op) and body.fn == "mul" else None
