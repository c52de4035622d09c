"""A product of rows that were merged before it, and are taken apart after it, is a product of the rows as they were.

    reshape(f(matmul(reshape(x, (r1 r2, k)), w)), (r1, r2, n))  ->  f(matmul(x, w))        f element by element

What follows the product then goes over the same rows as it does, and can be computed where the product is. So it is
done where something is computed of what was taken apart, element by element or over rows.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence, Set
from dataclasses import dataclass

from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ops.builder import Builder
from mapsto.ops.registry import op
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

# How many elementwise nodes may lie between the product and where its rows are taken apart.
_REACH = 8


@dataclass(frozen=True)
class SplitRows:
    name: str = "split-rows"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, functools.partial(_rewrite, _computed_of(graph)), ("reshape",))


def _computed_of(graph: Graph) -> frozenset[str]:
    """What elementwise nodes and reductions read."""
    readers = (node for node in graph.walk() if op(node.op).kind == "elementwise" or node.op == "reduce")
    return frozenset(name for node in readers for name in node.inputs)


@dataclass(frozen=True)
class _Step:
    """A node on the way from the product, and its operands for rows apart (None: what the step before gives)."""

    node: Node
    operands: tuple[Value | None, ...]


def _rewrite(computed_of: Set[str], site: Site) -> Sequence[Value] | None:
    if site.node.op != "reshape" or site.node.output.name not in computed_of:
        return None
    b, value, shape = site.builder, site.input(), site.node.output.shape
    rows = shape[:-1]
    if value.rank != 2 or len(rows) < 2 or shape[-1] != value.shape[-1]:
        return None
    steps = _way(site, value, rows)
    if steps is None:
        return None
    with b.source(*site.node.provenance, *(s for step in steps for s in step.node.provenance)):
        result: Value | None = None
        for step in reversed(steps):
            operands = [result if v is None else v for v in step.operands]
            result = b.one(step.node.op, operands, **step.node.attrs)
    assert result is not None
    return (result,) if result.shape == shape else None


def _way(site: Site, value: Value, rows: tuple[Dim, ...]) -> list[_Step] | None:
    """The nodes back to a product of merged rows, each read by the next one alone; None where there is none."""
    b, steps = site.builder, list[_Step]()
    while site.readers(value) == 1 and len(steps) <= _REACH:
        node = b.producer(value)
        if node is None or len(node.outputs) != 1 or node.output.shape != value.shape:
            return None
        inputs = [b.lookup(name) for name in node.inputs if name]
        if node.op == "matmul":
            source = _as_rows(b, inputs[0], rows)
            return None if source is None or inputs[1].rank != 2 else [*steps, _Step(node, (source, inputs[1]))]
        if op(node.op).kind != "elementwise" or len(inputs) != len(node.inputs):
            return None
        operands = [v if v.rank < 2 or v.shape[0] == 1 else _as_rows(b, v, rows) for v in inputs]
        through = [v for v, known in zip(inputs, operands, strict=True) if known is None]
        if len(through) != 1 or through[0].shape != value.shape:
            return None
        steps.append(_Step(node, tuple(operands)))
        (value,) = through
    return None


def _as_rows(b: Builder, value: Value, rows: tuple[Dim, ...]) -> Value | None:
    """What was merged into this value, where it has these rows."""
    node = b.producer(value)
    if node is None or node.op != "reshape" or value.rank != 2:
        return None
    source = b.lookup(node.inputs[0])
    return source if source.shape == (*rows, value.shape[-1]) else None
