"""What is computed of integer sums and quantised again is scaled once: the division by a scale goes into the factors
and shifts before it.

    round(relu(f32(q) * c + d) / s)          ->  round(relu(f32(q) * (c / s) + d / s))
    round((f32(p) * a + f32(q) * c) / s)     ->  round(f32(p) * (a / s) + f32(q) * (c / s))
    round(f32(q) * c * y / s)                ->  round(f32(q) * (c / s) * y)
    u8(clip(round(relu(x)), 0, 255))         ->  u8(clip(round(x), 0, 255))

p and q are dequantised bytes, or sums of them that a model has as floats (`stands_for`); the rest is constant, s above
0. Each quotient was rounded on the way before, and is so now; where it lies within that of the middle between two
integers, it may become the other one: what QLinearConv says outright. What else is exact is divided to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Node, Value
from mapsto.passes.float_products import MARK
from mapsto.passes.looking import may_make
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

_PRODUCTS = frozenset({"conv", "matmul"})
_BYTES = frozenset({DType.U8, DType.I8})


@dataclass(frozen=True)
class Requantised:
    """It comes before `AffineFolding`, which takes factors into weights."""

    name: str = "requantised"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, {"round", "cast"})


def _rewrite(site: Site) -> Sequence[Value] | None:
    return _rounded(site) if site.node.op == "round" else _clipped(site) if site.node.op == "cast" else None


# -- scales ------------------------------------------------------------------------------------------------------------


def _rounded(site: Site) -> Sequence[Value] | None:
    b, quotient = site.builder, site.input()
    node = b.producer(quotient)
    if node is None or node.op not in ("div", "mul") or quotient.dtype is not DType.F32 or site.readers(quotient) != 1:
        return None
    whole, scale = b.lookup(node.inputs[0]), b.array(b.lookup(node.inputs[1]))
    if scale is None or scale.size != 1 or not np.isfinite(scale).all() or not (scale > 0).all():
        return None
    by = float(scale.item()) if node.op == "mul" else 1.0 / float(scale.item())
    if whole.shape != quotient.shape or not _is_scalable(site, whole, by):
        return None
    with b.source(*site.node.provenance, *node.provenance):
        return b.add("round", [_scaled(site, whole, by)], {}, (), [site.node.output.name])


def _is_scalable(site: Site, value: Value, by: float) -> bool:
    """Whether a value is made of integers by what a factor above 0 goes through, and what is not a lone factor of
    integers is read by nobody else, who would need it as it was.
    """
    b, node = site.builder, site.builder.producer(value)
    if node is None:
        return False
    if node.op == "mul" and (array := b.array(b.lookup(node.inputs[1]))) is not None:
        alone = site.readers(value) == 1
        return _is_of_integers(site, b.lookup(node.inputs[0]), alone) and _holds(array, by)
    if site.readers(value) != 1:
        return False
    if node.op in ("relu", "mul"):  # of two values of a run, the first is scaled
        return _is_scalable(site, b.lookup(node.inputs[0]), by)
    if node.op not in ("add", "sub", "min", "max"):
        return False
    first, second = (b.lookup(name) for name in node.inputs)
    if b.array(second) is not None:
        return _is_scalable(site, first, by) and _holds(b.array(second), by)
    return node.op in ("add", "sub") and _is_scalable(site, first, by) and _is_scalable(site, second, by)


def _is_of_integers(site: Site, value: Value, alone: bool) -> bool:
    """Whether it is integers as floats, or a product by constants, whose sums are rounded anyhow. alone: whether it is
    multiplied for one reader, so that a factor may go into the weights.
    """
    b, node = site.builder, site.builder.producer(value)
    if node is None:
        return False
    if node.op == "cast":
        return _is_dequantised(site, b.lookup(node.inputs[0]))
    weights = node.op in _PRODUCTS and b.array(b.lookup(node.inputs[1])) is not None
    return weights and alone and site.readers(value) == 1


def _is_dequantised(site: Site, value: Value) -> bool:
    """Whether integers are bytes, less a constant, or sums that stand for floats. Others are divided to the bit."""
    b = site.builder
    while value.dtype.is_integer and value.dtype not in _BYTES:
        node = b.producer(value)
        if node is not None and node.op in _PRODUCTS:
            return MARK in node.attrs
        if node is None or node.op not in ("cast", "sub") or any(
            b.array(b.lookup(name)) is None for name in node.inputs[1:]
        ):
            return False
        value = b.lookup(node.inputs[0])
    return value.dtype in _BYTES


def _holds(array: np.ndarray | None, by: float) -> bool:
    """Whether a constant may be scaled: nothing of it overflows or gets lost."""
    if array is None or not may_make(array):
        return False
    scaled = _times(array, by)
    lost = (np.abs(scaled) < np.finfo(np.float32).tiny) & (array != 0)
    return bool(np.isfinite(scaled).all()) and not bool(lost.any())


def _times(array: np.ndarray, by: float) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray((array.astype(np.float64) * by).astype(np.float32))


def _scaled(site: Site, value: Value, by: float) -> Value:
    b, node = site.builder, site.builder.producer(value)
    assert node is not None

    def operand(name: str) -> Value:
        found = b.lookup(name)
        array = b.array(found)
        return _scaled(site, found, by) if array is None else b.constant(_times(array, by), name)

    with b.source(*node.provenance):
        if node.op == "mul":
            first, second = node.inputs
            if b.array(b.lookup(second)) is None:
                return b.one("mul", [operand(first), b.lookup(second)])
            return b.one("mul", [b.lookup(first), operand(second)])
        return b.one(node.op, [operand(name) for name in node.inputs])


# -- what clipping does anyhow -----------------------------------------------------------------------------------------


def _clipped(site: Site) -> Sequence[Value] | None:
    """A byte without sign that is clipped at 0 after it was rounded: a relu before that changes nothing."""
    b, value = site.builder, site.input()
    if site.attrs["to"] is not DType.U8:
        return None
    limits: list[tuple[str, Value]] = []
    for op in ("min", "max"):
        node = b.producer(value)
        if node is None or node.op != op or site.readers(value) != 1:
            return None
        limits.append((op, b.lookup(node.inputs[1])))
        value = b.lookup(node.inputs[0])
    low = b.array(limits[1][1])
    rounded = b.producer(value)
    if low is None or low.size != 1 or low.item() != 0 or rounded is None or rounded.op != "round":
        return None
    inner = b.lookup(rounded.inputs[0])
    node = b.producer(inner)
    if node is None or node.op != "relu" or site.readers(value) != 1 or site.readers(inner) != 1:
        return None
    return (_without(site, node, rounded, limits),)


def _without(site: Site, relu: Node, rounded: Node, limits: Sequence[tuple[str, Value]]) -> Value:
    b = site.builder
    with b.source(*site.node.provenance, *relu.provenance, *rounded.provenance):
        value = b.one("round", [b.lookup(relu.inputs[0])])
        for op, limit in reversed(limits):
            value = b.one(op, [value, limit])
        return b.add("cast", [value], dict(site.attrs), (), [site.node.output.name])[0]
