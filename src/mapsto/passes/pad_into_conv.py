"""Takes a zero padding into the convolution that reads it.

    conv(pad(x, p, 0), pads q) == conv(x, pads p + q)         for pads of the spatial dims

The padded copy is never made: the convolution reads x in a home with a zero border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.ir.graph import Graph, Value
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

_OPS = frozenset({"conv"})


@dataclass(frozen=True)
class PadIntoConv:
    name: str = "pad-into-conv"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, _OPS)


def _rewrite(site: Site) -> Sequence[Value] | None:
    if site.node.op != "conv":
        return None
    node = site.builder.producer(site.input())
    if (
        node is None
        or node.op != "pad"
        or node.attrs.get("mode", "constant") != "constant"
        or node.attrs.get("value", 0.0) != 0
    ):
        return None
    before, after = node.attrs["before"], node.attrs["after"]
    assert isinstance(before, tuple) and isinstance(after, tuple)
    widths = [*before, *after]
    if any(not isinstance(w, int) or w < 0 for w in widths) or any(before[d] or after[d] for d in (0, 1)):
        return None
    source = site.builder.lookup(node.inputs[0])
    pads = site.attrs["pads"]
    own = [int(w) for w in (*before[2:], *after[2:])]  # type: ignore[arg-type]
    if len(pads) != len(own):
        return None
    attrs = {**site.attrs, "pads": tuple(p + q for p, q in zip(pads, own, strict=True))}
    inputs = (source, *site.inputs[1:])
    with site.builder.source(*site.node.provenance, *node.provenance):
        return site.builder.add("conv", inputs, attrs, (), [v.name for v in site.node.outputs])
