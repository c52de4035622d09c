"""Takes maxima of windows before what keeps their order: max_pool(relu(x)) == relu(max_pool(x)).

A gradient then looks at signs where there are fewer elements, and need not keep what the relu gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.ir.graph import Graph, Value
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site


@dataclass(frozen=True)
class PoolsFirst:
    name: str = "pools-first"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, ("max_pool",))


def _rewrite(site: Site) -> Sequence[Value] | None:
    if site.node.op != "max_pool":
        return None
    b, value = site.builder, site.input()
    node = b.producer(value)
    if node is None or node.op != "relu" or site.readers(value) != 1:
        return None
    with b.source(*site.node.provenance, *node.provenance):
        pooled = b.one("max_pool", [b.lookup(node.inputs[0])], **site.attrs)
        return b.add("relu", [pooled], {}, (), [v.name for v in site.node.outputs])
