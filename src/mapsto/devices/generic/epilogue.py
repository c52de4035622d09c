"""Scalar expressions at a point that somebody else's loops have reached: the epilogue of a template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mapsto.devices.generic.flat import scalar_places
from mapsto.devices.generic.normal import ranges_of
from mapsto.devices.generic.operations import lift
from mapsto.devices.generic.scalar import Emitter, Lane, Operand
from mapsto.devices.generic.scope import Code
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, sym
from mapsto.kernel.ast import Iter, Load, Scalar, walk
from mapsto.loop.ast import Statement, Value
from mapsto.plan.layout import Layout, plain


@dataclass(frozen=True)
class EpilogueContext:
    """Where the expression stands.

    iters: its iterators; `at` binds them to expressions over the surrounding loops' symbols; along `wide` there are `lanes` elements from there
    on, of which `valid` exist (None: all). known: tensors whose element at this point is a value already. Other tensors are buffers of
    their own name with these layouts.
    """

    iters: tuple[Iter, ...]
    at: Mapping[str, Dim]
    wide: str
    lanes: int
    valid: Dim | None
    layouts: Mapping[str, Layout]
    known: Mapping[str, Value]
    fresh: Callable[[str], str]


def emit_scalar(expr: Scalar, context: EpilogueContext) -> tuple[list[Statement], Value]:
    """The statements that compute the expression, and its value in all lanes."""
    code = Code(set(), context.fresh)
    dtypes: dict[str, DType] = {n.tensor: n.dtype for n in walk(expr) if isinstance(n, Load)}
    emitter = Emitter(code, {name: Operand(name, dtype) for name, dtype in dtypes.items()})
    lane = code.lane_symbol(context.lanes)
    for name, e in context.at.items():
        code.bind(name, add(e, sym(lane)) if name == context.wide else e)
    emitter.lane = Lane(lane, context.lanes, sym(context.wide), context.valid)
    for tensor, value in context.known.items():
        emitter.known[tensor] = value
        emitter.known_depth[tensor] = 0
    shape = tuple(i.extent for i in context.iters)
    layouts = {name: context.layouts.get(name, plain(shape)) for name in dtypes}
    value = emitter.value(scalar_places(expr, layouts, ranges_of(context.iters)))
    result = lift(value, context.lanes)
    if result is not value:
        result = code.let(result)
    return list(code.scopes[0].statements), result


