"""Transposes and reshapes: moved where that removes one, never elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.ir.expr import Dim
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ops.registry import op
from mapsto.passes.identities import concat_axis, reshaped
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

# How many elementwise nodes may lie between two transposes that undo each other.
_REACH = 8
# Where the rules apply in a graph that has no transpose.
_WITHOUT_TRANSPOSES = frozenset({"slice"})


@dataclass(frozen=True)
class LayoutMoves:
    name: str = "layout-moves"

    def __call__(self, graph: Graph) -> Graph:
        turned = any(node.op == "transpose" for node in graph.walk())
        return rewritten(graph, _rewrite, None if turned else _WITHOUT_TRANSPOSES)


def _rewrite(site: Site) -> Sequence[Value] | None:
    for part in (_through_elementwise, _of_both_operands, _reduce_of_transpose, slice_of_concat):
        made = part(site)
        if made is not None:
            return made
    return None


def _perm(node: Node | None) -> tuple[int, ...] | None:
    if node is None or node.op != "transpose":
        return None
    perm = node.attrs["perm"]
    assert isinstance(perm, tuple)
    return tuple(int(p) for p in perm)  # type: ignore[arg-type]


def _is_pointwise(node: Node | None) -> bool:
    return node is not None and len(node.inputs) == 1 and op(node.op).kind == "elementwise" and node.op != "copy"


def _through_elementwise(site: Site) -> Sequence[Value] | None:
    """transpose(f(g(transpose(x, p))), q) == f(g(transpose(x, p o q))): one transpose less, or none left."""
    outer = _perm(site.node)
    if outer is None:
        return None
    b, value = site.builder, site.input()
    chain: list[Node] = []
    node = b.producer(value)
    while _is_pointwise(node) and site.readers(value) == 1 and len(chain) < _REACH:
        assert node is not None
        chain.append(node)
        value = b.lookup(node.inputs[0])
        node = b.producer(value)
    inner = _perm(node)
    if inner is None or node is None or not chain:
        return None
    perm = tuple(inner[p] for p in outer)
    source = b.lookup(node.inputs[0])
    absorbed = [s for n in (node, *chain) for s in n.provenance]
    with b.source(*site.node.provenance, *absorbed):
        result = source if perm == tuple(range(len(perm))) else b.one("transpose", [source], perm=perm)
        for step in reversed(chain):
            result = b.one(step.op, [result], **step.attrs)
    return (result,)


def _of_both_operands(site: Site) -> Sequence[Value] | None:
    """f(transpose(x, p), transpose(y, p)) == transpose(f(x, y), p), or with y a scalar constant."""
    if len(site.inputs) != 2 or op(site.node.op).kind != "elementwise":
        return None
    b = site.builder
    made = [b.producer(site.input(i)) for i in (0, 1)]
    perms = [_perm(node) for node in made]
    if perms[0] is None or perms[0] != perms[1] or any(site.readers(site.input(i)) != 1 for i in (0, 1)):
        return None
    x, y = (b.lookup(node.inputs[0]) for node in made if node is not None)
    absorbed = [s for node in made if node is not None for s in node.provenance]
    with b.source(*site.node.provenance, *absorbed):
        return (b.one("transpose", [b.one(site.node.op, [x, y], **site.attrs)], perm=perms[0]),)


def _reduce_of_transpose(site: Site) -> Sequence[Value] | None:
    """reduce(transpose(x, p), axes) == reduce(x, p[axes]), where the axes that stay keep their order and nobody else
    reads the transpose.
    """
    if site.node.op != "reduce":
        return None
    b, value = site.builder, site.input()
    node = b.producer(value)
    perm = _perm(node)
    if perm is None or node is None or site.readers(value) != 1:
        return None
    axes = {a % value.rank for a in site.attrs["axes"]}
    kept = [p for k, p in enumerate(perm) if k not in axes]
    if kept != sorted(kept):
        return None
    source = b.lookup(node.inputs[0])
    with b.source(*site.node.provenance, *node.provenance):
        reduced = b.one(
            "reduce", [source], kind=site.attrs["kind"], axes=tuple(sorted(perm[a] for a in axes)), keepdims=False
        )
        shape = (
            [1 if k in axes else d for k, d in enumerate(value.shape)]
            if site.attrs["keepdims"]
            else list(reduced.shape)
        )
        return (reshaped(b, reduced, shape),)


def _along_one_axis(node: Node, source: Value) -> int | None:
    """The only axis that a slice of step 1 cuts; None for other slices."""
    starts, steps, shape = node.attrs["starts"], node.attrs["steps"], node.attrs["shape"]
    assert isinstance(starts, tuple) and isinstance(steps, tuple) and isinstance(shape, tuple)
    if any(s != 1 for s in steps):
        return None
    cut = [k for k in range(source.rank) if starts[k] != 0 or shape[k] != source.shape[k]]
    return cut[0] if len(cut) == 1 else None


def slice_of_concat(site: Site) -> Sequence[Value] | None:
    """slice(concat(x, y, z)) that takes one of them whole == that one."""
    if site.node.op != "slice":
        return None
    b, value = site.builder, site.input()
    node = b.producer(value)
    axis = _along_one_axis(Node("slice", (), (), site.attrs), value)
    if node is None or node.op != "concat" or axis is None or concat_axis(node) != axis:
        return None
    at: Dim = 0
    for name in node.inputs:
        part = b.lookup(name)
        if at == site.attrs["starts"][axis] and part.shape == tuple(site.attrs["shape"]):
            return (part,)
        at = at + part.shape[axis]
    return None
