"""Folds scales and shifts of channels, such as batch normalisation, into the weights of the contraction before them.

(conv(x, w) + b) * s + t == conv(x, w*s) + (b*s + t),    s and t constant, one number a channel
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.ir.graph import Graph, Node, Value
from mapsto.ops.builder import Builder
from mapsto.passes.looking import may_make
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

_OPS = frozenset({"mul", "div", "add", "sub"})
_CONVOLUTIONS = ("conv", "conv_transpose")


@dataclass(frozen=True)
class AffineFolding:
    name: str = "affine-folding"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, _OPS)


def _rewrite(site: Site) -> Sequence[Value] | None:
    if site.node.op not in _OPS:
        return None
    for i in (0, 1) if site.node.op in ("mul", "add") else (0,):
        value, constant = site.input(i), site.builder.array(site.input(1 - i))
        node = site.builder.producer(value)
        if constant is None or node is None or site.readers(value) != 1 or not value.dtype.is_float:
            continue
        if any(site.builder.lookup(n).dtype is not value.dtype for n in node.inputs if n):
            continue  # weights of another type than the result: they may not hold the products
        if node.op in _CONVOLUTIONS:
            return _into_convolution(site, node, value, constant)
        if node.op == "matmul" and site.node.op in ("mul", "div"):
            return _into_matmul(site, node, value, constant)
    return None


def _into_convolution(site: Site, node: Node, value: Value, constant: np.ndarray) -> Sequence[Value] | None:
    """One number a channel, multiplied into the weights or added to the bias."""
    b = site.builder
    weights = b.array(b.lookup(node.inputs[1]))
    bias = b.array(b.lookup(node.inputs[2])) if len(node.inputs) > 2 and node.inputs[2] else None
    if weights is None or (len(node.inputs) > 2 and node.inputs[2] and bias is None):
        return None
    channels = value.shape[1]
    per_channel = _along(constant, value.rank, 1, channels)
    if per_channel is None or not isinstance(channels, int) or not may_make(weights):
        return None
    wide = per_channel.astype(np.float64)
    shift = np.zeros(channels) if bias is None else bias.astype(np.float64)
    scaled = weights
    if site.node.op in ("mul", "div"):
        factor = wide if site.node.op == "mul" else 1 / wide
        scaled = _scaled(weights, factor, node)
        shift = shift * factor
    else:
        shift = shift + (wide if site.node.op == "add" else -wide)
    if not (np.all(np.isfinite(scaled)) and np.all(np.isfinite(shift.astype(weights.dtype)))):
        return None
    return _replaced(site, b, node, scaled, shift.astype(weights.dtype) if bias is not None or np.any(shift) else None)


def _scaled(weights: np.ndarray, factor: np.ndarray, node: Node) -> np.ndarray:
    """The weights with each output channel multiplied: axis 0 of a convolution's, axis 1 (within a group) of a
    transposed one's.
    """
    wide = weights.astype(np.float64)
    if node.op == "conv":
        return np.asarray((wide * factor.reshape(-1, *[1] * (wide.ndim - 1))).astype(weights.dtype))
    groups = int(node.attrs["group"])  # type: ignore[arg-type]
    split = wide.reshape(groups, wide.shape[0] // groups, *wide.shape[1:])
    factors = factor.reshape(groups, 1, wide.shape[1], *[1] * (wide.ndim - 2))
    return np.asarray((split * factors).reshape(wide.shape).astype(weights.dtype))


def _replaced(site: Site, b: Builder, node: Node, weights: np.ndarray, bias: np.ndarray | None) -> Sequence[Value]:
    x = b.lookup(node.inputs[0])
    with b.source(*site.node.provenance, *node.provenance):
        operands = [x, b.constant(weights, node.inputs[1])]
        if bias is not None:
            operands.append(b.constant(bias, node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else "bias"))
        return b.add(node.op, operands, node.attrs, (), [v.name for v in site.node.outputs])


def _into_matmul(site: Site, node: Node, value: Value, constant: np.ndarray) -> Sequence[Value] | None:
    """x W * s == x (W * s), s constant with one number a column."""
    b = site.builder
    weights = b.array(b.lookup(node.inputs[1]))
    if weights is None or weights.ndim != 2 or value.rank < 1:
        return None
    per_column = _along(constant, value.rank, value.rank - 1, value.shape[-1])
    if per_column is None or not may_make(weights):
        return None
    factor = per_column.astype(np.float64)
    scaled = (weights.astype(np.float64) * (factor if site.node.op == "mul" else 1 / factor)).astype(weights.dtype)
    if not np.all(np.isfinite(scaled)):
        return None
    with b.source(*site.node.provenance, *node.provenance):
        operands = [b.lookup(node.inputs[0]), b.constant(scaled, node.inputs[1])]
        return b.add("matmul", operands, node.attrs, (), [v.name for v in site.node.outputs])


def _along(constant: np.ndarray, rank: int, axis: int, extent: object) -> np.ndarray | None:
    """A constant that varies along one axis of the result only, as a vector; None for any other."""
    if not isinstance(extent, int) or constant.ndim > rank:
        return None
    full = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
    if any(d != 1 for k, d in enumerate(full.shape) if k != axis) or full.shape[axis] not in (1, extent):
        return None
    return np.broadcast_to(full.reshape(-1), (extent,))
