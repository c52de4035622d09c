"""Joins slices back: a concat of neighbouring parts of one tensor reads the tensor itself.

    concat(x[0:k], x[k:n], y) == concat(x, y)         along the same axis

A split whose parts are concatenated again (the cross-stage blocks of YOLO) then needs no copy: x can be written
straight into the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

_OPS = frozenset({"concat"})


@dataclass(frozen=True)
class ConcatSlices:
    name: str = "concat-slices"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, _OPS)


@dataclass(frozen=True)
class _Part:
    """[start, stop) of `source` along the axis; `value` is that part."""

    source: Value
    start: Dim
    stop: Dim
    value: Value


def _rewrite(site: Site) -> Sequence[Value] | None:
    if site.node.op != "concat" or not site.inputs:
        return None
    axis = int(site.attrs["axis"]) % site.input().rank
    parts = [_part(site.builder, v, axis) for v in site.inputs if v is not None]
    joined: list[_Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last is not None and last.source == part.source and last.stop == part.start:
            joined[-1] = _Part(part.source, last.start, part.stop, part.value)
        else:
            joined.append(part)
    if len(joined) == len(parts):
        return None
    operands = [_value(site.builder, part, axis) for part in joined]
    if len(operands) == 1:
        return operands
    return (site.builder.one("concat", operands, axis=axis),)


def _part(builder: Builder, value: Value, axis: int) -> _Part:
    node = builder.producer(value)
    whole = _Part(value, 0, value.shape[axis], value)
    if node is None or node.op != "slice":
        return whole
    source = builder.lookup(node.inputs[0])
    starts, steps = node.attrs["starts"], node.attrs["steps"]
    assert isinstance(starts, tuple) and isinstance(steps, tuple)
    others = [d for d in range(value.rank) if d != axis]
    if any(step != 1 for step in steps) or any(starts[d] != 0 or value.shape[d] != source.shape[d] for d in others):
        return whole
    start: Dim = starts[axis]  # type: ignore[assignment]
    return _Part(source, start, start + value.shape[axis], value)


def _value(builder: Builder, part: _Part, axis: int) -> Value:
    if part.start == 0 and part.stop == part.source.shape[axis]:
        return part.source
    if part.value.shape[axis] == part.stop - part.start and part.value != part.source:
        return part.value
    starts = tuple(part.start if d == axis else 0 for d in range(part.source.rank))
    shape = tuple(part.stop - part.start if d == axis else extent for d, extent in enumerate(part.source.shape))
    return builder.one("slice", [part.source], starts=starts, steps=(1,) * part.source.rank, shape=shape)
