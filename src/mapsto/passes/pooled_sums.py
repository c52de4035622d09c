"""Sums of what the maxima of windows hand back are sums of what they were handed: each window gives it to one place.

    reduce_sum(max_pool_gradient(x, g), space and more)  ->  reduce_sum(g, the same)

The gradient of a bias before a pooling is one, of fewer elements then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.ir.graph import Graph, Value
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site


@dataclass(frozen=True)
class PooledSums:
    name: str = "pooled-sums"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, ("reduce",))


def _rewrite(site: Site) -> Sequence[Value] | None:
    if site.node.op != "reduce" or site.attrs["kind"] != "sum":
        return None
    b, value = site.builder, site.input()
    node = b.producer(value)
    if node is None or node.op != "max_pool_gradient":
        return None
    if not set(range(2, value.rank)) <= {axis % value.rank for axis in site.attrs["axes"]}:
        return None
    with b.source(*site.node.provenance, *node.provenance):
        return (b.one("reduce", [b.lookup(node.inputs[1])], **site.attrs),)
