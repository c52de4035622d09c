"""Scalar expressions at one point of somebody else's loops: what a template computes on its results before it stores
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mapsto.devices.generic.context import Lane, Operand, Tensors
from mapsto.devices.generic.flat import Flattener
from mapsto.devices.generic.operations import convert, lift
from mapsto.devices.generic.processor import Processor
from mapsto.devices.generic.scalar import Emitter
from mapsto.devices.generic.scope import Code
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, sym
from mapsto.kernel.ast import Load, Scalar, walk
from mapsto.loop import ast as loop
from mapsto.plan.layout import Layout


@dataclass(frozen=True)
class EpilogueContext:
    """A point: `bindings` gives each iterator as an expression over loop symbols; `wide` is the iterator that runs
    along `lanes`, from its binding on. `known` tensors have this value here. `mask`: the lanes that are inside; None:
    all of them.

    A wide iterator's binding should show that it is a multiple of the lanes (16*block), so that blocked layouts stay
    linear. `buffers`: names of the operands' parameters, where they are not the tensors' own. `rounded`: tensors that
    hold rounding which is not defined (`exactness`).
    """

    bindings: Mapping[str, Dim]
    wide: str | None
    lanes: int
    layouts: Mapping[str, Layout]
    known: Mapping[str, loop.Value]
    mask: loop.Value | None
    fresh: Callable[[str], str]
    processor: Processor
    buffers: Mapping[str, str] | None = None
    rounded: frozenset[str] = frozenset()


def emit_scalar(
    e: Scalar, context: EpilogueContext, dtype: DType | None = None
) -> tuple[list[loop.Statement], loop.Value]:
    """Statements that compute `e` at the context's point, and its value in all lanes (as `dtype`, if one is given)."""
    dtypes = {n.tensor: n.dtype for n in walk(e) if isinstance(n, Load)}
    names = context.buffers or {}
    operands = {t: Operand(names.get(t, t), dtypes.get(t, DType.I64)) for t in context.layouts}
    code = Code(set(), context.fresh)
    emitter = Emitter(code, operands, context.processor, tensors=Tensors(rounded=context.rounded))
    for name, known in context.known.items():
        emitter.define(name, known)
    for name, at in context.bindings.items():
        code.bind(name, at)
    lane = None
    if context.wide is not None and context.lanes > 1:
        symbol = code.lane_symbol(context.lanes)
        code.bind(context.wide, context.bindings[context.wide] + sym(symbol))
        lane = Lane(symbol, context.lanes, sym(context.wide), mask=context.mask)
    flat = Flattener(context.layouts, frozenset(context.known), proved=True).scalar(e, {})
    with emitter.in_lanes(lane):
        value = emitter.value(flat)
    value = lift(code.let(convert(value, dtype or value.type.element)), context.lanes)
    return code.scopes[0].statements, value
