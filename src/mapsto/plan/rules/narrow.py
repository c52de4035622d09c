"""narrow: a product of 32-bit integers that were bytes is a contraction of bytes: A is read where it still is one, a
constant B is kept as signed bytes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Cast, Load, Scalar, Stmt, transform, with_value
from mapsto.kernel.compose import loads_of
from mapsto.plan.contraction import ACCUMULATOR, is_usable, recognise
from mapsto.plan.recipe import made
from mapsto.plan.rules.base import Refusal
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits


def narrow(task: Task, traits: Traits, prefix: str) -> Task | Refusal:
    """The task as a contraction of bytes, where a maker asks for contractions of that form. `task.constants` has the
    operands that may be kept as signed bytes. prefix: no name in the graph begins with it.
    """
    if task.kind != "rows" or len(task.stmts) != 1:
        return Refusal("it is not one statement")
    (stmt,) = task.stmts
    wide = [load.tensor for load in loads_of(stmt) if load.tensor in task.constants and load.dtype is DType.I32]
    if len(wide) != 1:
        return Refusal("no operand is a constant")
    data = task.constants[wide[0]]
    if data.size == 0 or data.min() < -128 or data.max() > 127:
        return Refusal(f"{wide[0]} does not fit signed bytes")
    name = f"{prefix}{wide[0]}.i8"
    shape = task.nodes[-1].output.shape
    found = recognise(_with_bytes(stmt, wide[0], name), shape, frozenset((name,)), traits)
    if found is None or not is_usable(found[0]):
        return Refusal("it has not the form of a contraction of bytes")
    contraction, around = found
    return replace(
        task,
        kind="contraction",
        recipe=made("narrow", task.recipe),
        phases=(contraction,),
        stmts=() if is_accumulator(around) else (with_value(stmt, around),),
        because=(*task.because, f"bytes times bytes, summed in 32 bits: {wide[0]} fits signed bytes"),
        made={**task.made, name: Value(name, DType.I8, data.shape)},
        constants={name: data.astype(np.int8)},
        parts=None,  # apart they would be loops over wide integers, which prices do not tell from this well enough
    )


def _with_bytes(stmt: Stmt, wide: str, name: str) -> Stmt:
    def leaf(node: Scalar) -> Scalar | None:
        if isinstance(node, Load) and node.tensor == wide:
            return Cast(replace(node, tensor=name, dtype=DType.I8), DType.I32)
        return None

    return with_value(stmt, transform(stmt.value, leaf))


def is_accumulator(e: Scalar) -> bool:
    """Whether an epilogue is the sum as it is."""
    return isinstance(e, Load) and e.tensor == ACCUMULATOR
