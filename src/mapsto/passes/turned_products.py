"""Which operand of a^T b is turned: the narrower one, as turning is done in memory.

    matmul(transpose(a), b)  ->  transpose(matmul(transpose(b), a))        a wider than b, by more than turning costs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.composite import transpose_last
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site


@dataclass(frozen=True)
class TurnedProducts:
    name: str = "turned-products"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, ("matmul",))


def _rewrite(site: Site) -> Sequence[Value] | None:
    if site.node.op != "matmul":
        return None
    b, turned, other = site.builder, site.input(0), site.input(1)
    source = _turned(b, turned)
    if source is None or turned.rank != other.rank or {turned.name, other.name} & b.constants.keys():
        return None
    terms, wide, narrow = source.shape[-2], source.shape[-1], other.shape[-1]
    if not (isinstance(terms, int) and isinstance(wide, int) and isinstance(narrow, int)):
        return None
    if terms * (wide - narrow) <= wide * narrow:
        return None
    with b.source(*site.node.provenance):
        product = b.one("matmul", [transpose_last(b, other), source], **site.attrs)
        return (transpose_last(b, product),)


def _turned(b: Builder, value: Value) -> Value | None:
    """What is turned to give this value; None where it is not."""
    node, rank = b.producer(value), value.rank
    if node is None or node.op != "transpose" or node.attrs["perm"] != (*range(rank - 2), rank - 1, rank - 2):
        return None
    return b.lookup(node.inputs[0])
