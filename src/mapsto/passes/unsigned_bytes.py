"""Signed bytes that integer products read are stored without a sign, for devices that multiply such by signed ones.

    q = i8(clip(r + p, -128, 127))   ->   u = u8(clip(r + p + 128, 0, 255))        q == u - 128
    i32(q) - p                       ->   i32(u) - (p + 128)

The integers that are summed are the same (but for NaN, which no byte stands for). It is for values that are rounded and
clipped to a byte, of which a product by constants is a reader, and that are read by nothing but conversions to wider
types and what only moves elements, whose results then lie so as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.region import nested
from mapsto.ops.builder import Builder
from mapsto.passes.moving import MOVING, moved
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

_SHIFT = 128
_PRODUCTS = frozenset({"conv", "matmul"})


@dataclass(frozen=True)
class UnsignedBytes:
    """It comes before other passes, which narrow what products read."""

    name: str = "unsigned-bytes"

    def __call__(self, graph: Graph) -> Graph:
        found = _Signed(graph).found()
        if not found:
            return graph
        return rewritten(graph, _Shifting(graph, found).rewrite, {"cast", "sub"})


@dataclass(frozen=True)
class _Signed:
    graph: Graph

    def found(self) -> set[str]:
        """Names of the values that are to lie without a sign."""
        makers = {node.output.name: node for node in self.graph.nodes if len(node.outputs) == 1}
        readers: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            for name in node.inputs:
                readers.setdefault(name, []).append(node)
        found = {name for name, node in makers.items() if node.output.dtype is DType.I8 and self._can_be(node)}
        found -= self._kept()
        before = -1
        while len(found) != before:
            before = len(found)
            found = {
                name
                for name in found
                if all(_takes(node, name, found) for node in readers.get(name, []))
                and (makers[name].op == "cast" or all(operand in found for operand in moved(makers[name])))
            }
        return {name for name in found if self._is_multiplied(name, readers)}

    def _kept(self) -> set[str]:
        """Outputs, and what nested graphs read."""
        kept = set(self.graph.outputs)
        for each in nested(self.graph):
            if each is not self.graph:
                kept.update(each.outputs, *(node.inputs for node in each.nodes))
        kept.update(*(node.inputs for node in self.graph.nodes if node.graphs))
        return kept

    def _can_be(self, node: Node) -> bool:
        return node.op in MOVING or (node.op == "cast" and _is_clipped(self.graph, node))

    def _is_multiplied(self, name: str, readers: dict[str, list[Node]]) -> bool:
        """Whether a product by a constant reads it, moved, converted and less a number."""
        waiting, seen = [name], {name}
        while waiting:
            at = waiting.pop()
            for node in readers.get(at, ()):
                if node.op in _PRODUCTS and node.inputs[0] == at and self._is_constant(node.inputs[1]):
                    return True
                goes_on = node.op in MOVING or node.op in ("cast", "sub")
                if goes_on and not node.output.dtype.is_float and node.output.name not in seen:
                    seen.add(node.output.name)
                    waiting.append(node.output.name)
        return False

    def _is_constant(self, name: str) -> bool:
        """Weights, converted and less their zero points where that is not folded yet."""
        while name not in self.graph.constants:
            node = self.graph.producers.get(name)
            if node is None or node.op not in ("cast", "sub", "transpose", "reshape"):
                return False
            name = node.inputs[0]
        return True


def _is_clipped(graph: Graph, cast: Node) -> bool:
    """Whether what is converted was rounded, moved by a whole number, and clipped to just the signed bytes."""
    limits, name = np.iinfo(np.int8), cast.inputs[0]
    for op, limit in (("min", limits.max), ("max", limits.min)):
        node = graph.producers.get(name)
        array = None if node is None else graph.constants.get(node.inputs[-1])
        if node is None or node.op != op or not node.output.dtype.is_float or array is None or not array.size:
            return False
        if not np.all(array == limit):
            return False
        name = node.inputs[0]
    node = graph.producers.get(name)
    if node is not None and node.op == "add" and (zero := graph.constants.get(node.inputs[1])) is not None:
        return bool(np.array_equal(zero, np.rint(zero))) and _is_rounded(graph, node.inputs[0])
    return _is_rounded(graph, name)


def _is_rounded(graph: Graph, name: str) -> bool:
    node = graph.producers.get(name)
    return node is not None and node.op == "round"


def _takes(node: Node, name: str, found: set[str]) -> bool:
    if node.op == "cast":
        return node.output.dtype.size > 1 and not node.output.dtype.is_storage
    return node.op in MOVING and name in moved(node) and node.output.name in found


@dataclass(frozen=True)
class _Shifting:
    graph: Graph
    found: set[str]

    def rewrite(self, site: Site) -> Sequence[Value] | None:
        if site.node.op == "sub":
            return self._difference(site)
        if site.node.op != "cast":  # what moves elements moves these
            return None
        if site.node.output.name in self.found:
            return (self._made(site),)
        if site.node.inputs[0] in self.found:
            return (self._read(site),)
        return None

    def _made(self, site: Site) -> Value:
        """Rounded, moved by its zero point and 128, and clipped."""
        b = site.builder
        value, zero = _before_clip(b, site.input())
        limits = np.iinfo(np.uint8)
        dtype = value.dtype
        shift = np.asarray(_SHIFT, dtype.numpy) if zero is None else (zero + _SHIFT).astype(dtype.numpy)
        if shift.any():
            value = b.one("add", [value, b.constant(shift, "zero")])
        for op, limit in (("max", limits.min), ("min", limits.max)):
            value = b.one(op, [value, b.constant(np.asarray(limit, dtype.numpy), "limit")])
        return b.add("cast", [value], {"to": DType.U8}, (), [site.node.output.name])[0]

    def _read(self, site: Site) -> Value:
        b, to = site.builder, site.attrs["to"]
        wide = b.one("sub", [b.one("cast", [site.input()], to=DType.I32), _shift(b)])
        return wide if to is DType.I32 else b.one("cast", [wide], to=to)

    def _difference(self, site: Site) -> Sequence[Value] | None:
        """(i32(u) - 128) - p == i32(u) - (p + 128)"""
        b = site.builder
        node, zero = b.producer(site.input()), b.array(site.input(1))
        if node is None or node.op != "sub" or site.node.output.dtype is not DType.I32 or zero is None:
            return None
        cast = self.graph.producers.get(site.node.inputs[0])
        if cast is None or cast.op != "cast" or cast.inputs[0] not in self.found:
            return None
        return b.add("sub", [b.lookup(node.inputs[0]), b.constant(zero + np.int32(_SHIFT), "zero")])


def _shift(b: Builder) -> Value:
    return b.constant(np.asarray(_SHIFT, np.int32), "zero")


def _before_clip(b: Builder, value: Value) -> tuple[Value, np.ndarray | None]:
    """What was rounded, and the zero point that was added to it before it was clipped."""
    for _ in ("min", "max"):
        node = b.producer(value)
        assert node is not None
        value = b.lookup(node.inputs[0])
    node = b.producer(value)
    if node is not None and node.op == "add" and (zero := b.array(b.lookup(node.inputs[1]))) is not None:
        return b.lookup(node.inputs[0]), zero
    return value, None
