"""Where the results of a contraction lie, and how a vector of one is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mapsto.devices.contraction.form import ContractionForm, LoopAxis
from mapsto.ir.expr import Dim, add, floordiv, mod, mul
from mapsto.loop import ast as loop


@dataclass(frozen=True)
class ResultPlace:
    """A result: its name, where column 0 lies, and how far its blocks are apart."""

    name: str
    base: Dim
    block_stride: Dim


def targets(form: ContractionForm, batch: tuple[Dim, ...], rows: tuple[Dim, ...]) -> list[ResultPlace]:
    """Where the columns of each result begin, at these places of the batch and row axes."""
    base = offset(form.out_start, (*form.batch, *form.rows), (*batch, *rows), lambda axis: axis.out)
    found = [ResultPlace(form.out.name, base, form.out_block_stride)]
    for also in form.also:
        base = also.start
        for index, stride in zip((*batch, *rows), (*also.batch, *also.rows), strict=True):
            base = add(base, mul(index, stride))
        found.append(ResultPlace(also.param.name, base, also.block_stride))
    return found


def stored(
    form: ContractionForm, target: ResultPlace, at: Dim, result: loop.Value, mask: loop.Value | None
) -> loop.Statement:
    """Stores the vector of the columns from `at` on; mask: which of its lanes are columns (None: all). In a blocked
    result the others are stored as 0.
    """
    block = form.out_block
    if not block:
        return loop.Store(target.name, add(target.base, at), result, mask=mask)
    if mask is not None:
        result = loop.Select(mask, result, loop.Const(0, result.type))
    where = add(mul(floordiv(at, block), target.block_stride), mod(at, block))
    return loop.Store(target.name, add(target.base, where), result)


def offset(base: Dim, axes: Sequence[LoopAxis], indices: Sequence[Dim], stride: Callable[[LoopAxis], Dim]) -> Dim:
    """base + the sum of index * stride."""
    for axis, index in zip(axes, indices, strict=True):
        base = add(base, mul(index, stride(axis)))
    return base
