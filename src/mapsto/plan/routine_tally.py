"""A tally of a routine: what is written by hand because its control flow or its recurrence asks for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Expr
from mapsto.ir.graph import Node, Value
from mapsto.kernel.scalar import compute_type
from mapsto.machine.cost import Stream, Tally
from mapsto.ops.recurrent import matrices
from mapsto.ops.work import Hollow, operations
from mapsto.plan.patterns import Sizes, extent, number

# Functions of each kind of cell, for a hidden unit and step.
_CELL = {"lstm": (("sigmoid", 3), ("tanh", 2)), "gru": (("sigmoid", 2), ("tanh", 1)), "rnn": (("tanh", 1),)}
_SCALARS = 4.0  # scalar operations of each comparison or move of a routine that is no product


def routine_tally(
    node: Node,
    operands: Sequence[Value | None],
    sizes: Mapping[str, int],
    distances: Mapping[str, float] | None = None,
) -> Tally:
    """What a routine does, from the extents of its operands."""
    guess = Sizes.of(sizes)
    known = [None if v is None else Hollow(tuple(extent(d, guess) for d in v.shape)) for v in operands]
    results = [tuple(extent(d, guess) for d in v.shape) for v in node.outputs]
    far = distances or {}
    streams = [
        Stream(float(h.size * v.dtype.size), far.get(v.name, float(h.size * v.dtype.size)))
        for v, h in zip(operands, known, strict=True)
        if v is not None and h is not None
    ]
    streams += [
        Stream(float(math.prod(shape) * v.dtype.size), far.get(v.name, 0.0), True)
        for v, shape in zip(node.outputs, results, strict=True)
    ]
    if node.op in _CELL and operands[1] is not None:
        return _recurrent(node, compute_type(operands[1].dtype), known, streams)
    attrs = {k: number(v, guess) if isinstance(v, Expr) else v for k, v in node.attrs.items()}
    work = float(operations(node.op, known, attrs, results))
    return Tally(scalar=work * _SCALARS, streams=tuple(streams), shares=1.0, operations=work)


def _recurrent(node: Node, computed: DType, operands: Sequence[Hollow | None], streams: list[Stream]) -> Tally:
    """Products with the weights of the state for every step: they come round again each step; those of x where the
    layer has them.
    """
    x, r = operands[:2]
    assert x is not None and r is not None
    steps, batch = x.shape[0], x.shape[1]
    weights = sum(w.size for w in matrices(operands) if w is not None)
    size = float(r.size * computed.size)  # as they are packed
    between = size + x.size * computed.size / max(steps, 1)
    again = Stream(size * max(steps - 1, 0), between, again=True)
    hidden = float(steps * batch * r.shape[0] * r.shape[-1])
    products = float(steps * batch * weights)
    return Tally(
        products={(computed, computed, computed): products},
        elements={cls: count * hidden for cls, count in _CELL[node.op]},
        streams=(*streams, again),
        operations=2 * products,
    )
