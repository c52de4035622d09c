"""Moves a transpose or reshape of a concatenation to its parts, where these are moved data themselves:

    transpose(concat(xs, axis), p) == concat(transpose(x, p) of xs, p^-1[axis])
    reshape(concat(xs, axis), s) == concat(reshape(x, ..) of xs, ..)     where the axis is the outermost of those it is
                                                                         merged with or taken apart from

What the parts were moved from is then read once, for where it ends up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.ir.expr import Dim, product
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ops.builder import Builder
from mapsto.ops.registry import op
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

_MOVES = frozenset({"reshape", "transpose", "slice", "expand"})
# How many elementwise nodes may lie between a part and the move that gives it.
_REACH = 4


@dataclass(frozen=True)
class ConcatMoves:
    name: str = "concat-moves"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, ("transpose", "reshape"))


def _rewrite(site: Site) -> Sequence[Value] | None:
    if site.node.op not in ("transpose", "reshape"):
        return None
    b, value = site.builder, site.input()
    node = b.producer(value)
    if node is None or node.op != "concat" or site.readers(value) != 1:
        return None
    axis = int(node.attrs["axis"]) % value.rank  # type: ignore[arg-type]
    parts = [b.lookup(name) for name in node.inputs]
    if not all(_is_moved(b, part, _REACH) for part in parts):
        return None
    if site.node.op == "transpose":
        perm: tuple[int, ...] = tuple(int(p) for p in site.attrs["perm"])
        with b.source(*site.node.provenance, *node.provenance):
            return (b.one("concat", [b.one("transpose", [x], perm=perm) for x in parts], axis=perm.index(axis)),)
    return _reshaped(site, node, parts, axis)


def _reshaped(site: Site, node: Node, parts: Sequence[Value], axis: int) -> Sequence[Value] | None:
    shape, whole = site.node.output.shape, site.input().shape
    at = _place(whole, shape, axis)
    if at is None:
        return None
    extent, to = whole[axis], shape[at]
    assert isinstance(extent, int) and isinstance(to, int)
    b, made = site.builder, []
    with b.source(*site.node.provenance, *node.provenance):
        for part in parts:
            own = part.shape[axis]
            assert isinstance(own, int)
            made.append(b.one("reshape", [part], shape=(*shape[:at], own * (to // extent), *shape[at + 1 :])))
        return (b.one("concat", made, axis=at),)


def _place(whole: Sequence[Dim], shape: Sequence[Dim], axis: int) -> int | None:
    """The axis of a reshaped concatenation along which its parts follow each other as whole pieces; None where there is
    none.
    """
    if not all(isinstance(d, int) and d > 0 for d in (*whole, *shape)):
        return None
    before = product(whole[:axis])
    for at, extent in enumerate(shape):
        if product(shape[:at]) == before and extent != 1 and extent % whole[axis] == 0:
            return at
    return None


def _is_moved(b: Builder, value: Value, reach: int) -> bool:
    """Whether a value is moved data, or computed of it element by element."""
    node = b.producer(value)
    if node is None or len(node.outputs) != 1:
        return False
    if node.op in _MOVES:
        return True
    others = [v for name in node.inputs if name and (v := b.lookup(name)).name not in b.constants]
    if not reach or op(node.op).kind != "elementwise" or len(others) != 1 or others[0].shape != value.shape:
        return False
    return _is_moved(b, others[0], reach - 1)
