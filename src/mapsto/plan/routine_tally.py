"""A tally of a routine: what is written by hand because its control flow or its recurrence asks for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mapsto.ir.expr import Expr
from mapsto.ir.graph import Node, Value
from mapsto.machine.cost import Stream, Tally
from mapsto.ops.work import Hollow, operations
from mapsto.plan.patterns import Sizes, extent, number

# Gates of each kind of cell: matrices of (hidden, input) and (hidden, hidden) each.
_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
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
    if node.op in _GATES and known[0] is not None and known[1] is not None and known[2] is not None:
        return _recurrent(node, operands, known[0], known[1], known[2], streams)
    attrs = {k: number(v, guess) if isinstance(v, Expr) else v for k, v in node.attrs.items()}
    work = float(operations(node.op, known, attrs, results))
    return Tally(scalar=work * _SCALARS, streams=tuple(streams), shares=1.0, operations=work)


def _recurrent(
    node: Node, operands: Sequence[Value | None], x: Hollow, w: Hollow, r: Hollow, streams: list[Stream]
) -> Tally:
    """Products with the weights for every step; those of the hidden state come round again each step."""
    steps, batch = x.shape[0], x.shape[1]
    assert operands[0] is not None and operands[2] is not None
    dtype = operands[0].dtype
    products = float(steps * batch * (w.size + r.size))
    size = float(r.size * operands[2].dtype.size)
    again = Stream(size * max(steps - 1, 0), size + x.size * dtype.size / max(steps, 1))
    hidden = float(steps * batch * r.size / max(r.shape[-1], 1) / _GATES[node.op])
    elements = {cls: count * hidden for cls, count in _CELL[node.op]}
    return Tally(
        products={(dtype, dtype, dtype): products},
        elements=elements,
        streams=(*streams, again),
        operations=2 * products,
    )
