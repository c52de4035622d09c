"""Products of integers that a model has as products of floats, computed as floats after all.

    f32(sum (q - p) (w - z))  ->  sum f32(q - p) f32(w - z)         what follows multiplies by the scales, as before

That is for those that say so (`stands_for`): dequantised integers around a MatMul, Gemm or Conv. Their factors are
integers yet, so that sums below 2^24 are the same; constant ones are floats from then on, and scales of channels can
be multiplied into them. What was rounded to integers on the way stays rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ops.builder import Builder
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

MARK = "stands_for"


def float_products(graph: Graph) -> tuple[Node, ...]:
    """The products of integers that may be computed as floats, in order."""
    return tuple(node for node in graph.walk() if MARK in node.attrs)


@dataclass(frozen=True)
class FloatProducts:
    """values: what the products yield, by name. It comes before other passes, which narrow the factors."""

    values: Collection[str]
    name: str = "float-products"

    def __call__(self, graph: Graph) -> Graph:
        if not self.values:
            return graph
        return rewritten(graph, self._rewrite, {"cast"})

    def _rewrite(self, site: Site) -> Sequence[Value] | None:
        node = site.builder.producer(site.input()) if site.node.op == "cast" else None
        if node is None or MARK not in node.attrs or node.outputs[0].name not in self.values:
            return None
        to = site.attrs["to"]
        if not isinstance(to, DType) or node.attrs[MARK] is not to:
            return None
        b = site.builder
        with b.source(*site.node.provenance, *node.provenance):
            factors = [_as_floats(b, b.lookup(name), to) for name in node.inputs[:2]]
            factors += [b.one("cast", [b.lookup(name)], to=to) for name in node.inputs[2:] if name]
            attrs = {key: value for key, value in node.attrs.items() if key != MARK}
            return b.add(node.op, factors, attrs, (), [site.node.output.name])


def _as_floats(b: Builder, factor: Value, to: DType) -> Value:
    """Integers of at most 9 bits as floats, exactly."""
    plain = _unquantised(b, factor, to)
    return b.one("cast", [factor], to=to) if plain is None else plain


def _unquantised(b: Builder, factor: Value, to: DType) -> Value | None:
    """What was rounded and clipped in floats, less its zero point, without the way over bytes: i32(u8(v)) - p as v - p,
    where v holds bytes alone. NaN, which is no byte, stays what it is.
    """
    zero: np.ndarray | None = None
    node = b.producer(factor)
    if node is not None and node.op == "sub":
        zero = b.array(b.lookup(node.inputs[1]))
        node = b.producer(b.lookup(node.inputs[0])) if zero is not None else None
    if node is None or node.op != "cast":
        return None
    byte = b.producer(b.lookup(node.inputs[0]))
    if byte is None or byte.op != "cast" or byte.output.dtype not in (DType.U8, DType.I8):
        return None
    whole = b.lookup(byte.inputs[0])
    if whole.dtype is not to or not _holds_bytes(b, whole, byte.output.dtype):
        return None
    return whole if zero is None else b.one("sub", [whole, b.constant(zero.astype(to.numpy), "zero")])


def _holds_bytes(b: Builder, value: Value, dtype: DType) -> bool:
    """Whether a float was rounded, moved by an integer, and clipped to what bytes of this type can be, as `quantise`
    does it.
    """
    limits, clipped = np.iinfo(dtype.numpy), set[str]()
    node = b.producer(value)
    while node is not None and node.op in ("min", "max", "add", "round"):
        if node.op == "round":
            return clipped == {"min", "max"}
        arrays = {name: b.array(b.lookup(name)) for name in node.inputs}
        array = next((each for each in arrays.values() if each is not None and each.size), None)
        if array is None or not np.array_equal(array, np.rint(array)):
            return False
        if node.op == "add" and clipped != {"min", "max"}:
            return False
        if node.op != "add":
            if array.min() < limits.min or array.max() > limits.max:
                return False
            clipped.add(node.op)
        node = b.producer(b.lookup(next(name for name, each in arrays.items() if each is None)))
    return False
