"""Takes a shuffle of channels past a depthwise convolution, to a convolution that reads through it.

    conv(depthwise(shuffle(x), w), v) == conv(shuffle(depthwise(x, w')), v)      w': w with its channels shuffled back

A window over shuffled channels reads them one by one, or a copy of them is made. A convolution of single points sums
over channels in any order that steps evenly through memory: it reads the shuffled ones where they lie.
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

_OPS = frozenset({"conv"})


@dataclass(frozen=True)
class ChannelShuffles:
    name: str = "channel-shuffles"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, _OPS)


@dataclass(frozen=True)
class _Shuffle:
    """Channels as a matrix of `outer` rows, transposed. nodes: the reshape, the transpose, the reshape."""

    source: Value
    outer: int
    inner: int
    nodes: tuple[Node, ...]

    def back(self, array: np.ndarray) -> np.ndarray:
        """Along axis 0, which is in the shuffled order, in that of the source."""
        rest = array.shape[1:]
        turned = array.reshape(self.inner, self.outer, *rest).swapaxes(0, 1)
        return np.ascontiguousarray(turned).reshape(array.shape)

    def of(self, b: Builder, value: Value) -> Value:
        """The same of another value."""
        n, channels, *space = value.shape
        apart, turned, joined = (each.provenance for each in self.nodes)
        with b.source(*apart):
            value = b.one("reshape", [value], shape=(n, self.outer, self.inner, *space))
        with b.source(*turned):
            value = b.one("transpose", [value], perm=(0, 2, 1, *range(3, value.rank)))
        with b.source(*joined):
            return b.one("reshape", [value], shape=(n, channels, *space))


def _rewrite(site: Site) -> Sequence[Value] | None:
    if site.node.op != "conv" or not _is_of_points(site):
        return None
    b, value = site.builder, site.input()
    node = b.producer(value)
    if node is None or site.readers(value) != 1 or not _is_depthwise(b, node):
        return None
    shuffled = b.lookup(node.inputs[0])
    found = _shuffle(b, shuffled) if site.readers(shuffled) == 1 else None
    groups = int(site.attrs["group"])
    if found is None or (groups > 1 and (found.outer * found.inner // groups) % found.outer):
        return None  # channels of a group would not step evenly
    arrays = [b.array(b.lookup(name)) for name in node.inputs[1:] if name]
    if any(array is None or not may_make(array) for array in arrays):
        return None
    names = [name for name in node.inputs[1:] if name]
    known = [array for array in arrays if array is not None]
    with b.source(*node.provenance):
        turned = [b.constant(found.back(array), name) for array, name in zip(known, names, strict=True)]
        (made,) = b.add("conv", [found.source, *turned], node.attrs)
    shuffled = found.of(b, made)
    with b.source(*site.node.provenance):
        return b.add("conv", [shuffled, *site.inputs[1:]], site.attrs, (), [v.name for v in site.node.outputs])


def _is_of_points(site: Site) -> bool:
    """Whether a convolution looks at one point of all that it sums over."""
    return all(e == 1 for e in site.input(1).shape[2:]) and not any(site.attrs["pads"])


def _is_depthwise(b: Builder, node: Node) -> bool:
    if node.op != "conv":
        return False
    channels, weights = b.lookup(node.inputs[0]).shape[1], b.lookup(node.inputs[1]).shape
    return node.attrs["group"] == channels == weights[0]


def _shuffle(b: Builder, value: Value) -> _Shuffle | None:
    joined = b.producer(value)
    turned = None if joined is None or joined.op != "reshape" else b.producer(b.lookup(joined.inputs[0]))
    apart = None if turned is None or turned.op != "transpose" else b.producer(b.lookup(turned.inputs[0]))
    if joined is None or turned is None or apart is None or apart.op != "reshape":
        return None
    source, split = b.lookup(apart.inputs[0]), b.lookup(turned.inputs[0])
    rank = source.rank
    if split.rank != rank + 1 or turned.attrs["perm"] != (0, 2, 1, *range(3, rank + 1)) or source.shape != value.shape:
        return None
    outer, inner = split.shape[1:3]
    if not isinstance(outer, int) or not isinstance(inner, int):
        return None
    if (split.shape[0], outer * inner, *split.shape[3:]) != source.shape:
        return None
    return _Shuffle(source, outer, inner, (apart, turned, joined))
