"""Sums of gradients of parts: what several slices of one value pass on to it is zero outside of each, and next to each
other they are one concatenation (of the same padding outside, where they do not cover it).

    pad(a) + pad(b)    ->    pad(concat(a, b))        a before b along one axis, alike along all others

A concatenation with zeros is a padding as well. In gradients zeros keep their sign then, which none minds; as a pass
(graphs that somebody else differentiated), 0 is added to the parts, so that -0 becomes 0 as in the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.ir.expr import Dim, add
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ops.builder import Builder
from mapsto.passes.looking import may_look
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site


@dataclass(frozen=True)
class _Padded:
    """A part, and how many zeros come before and after it along each axis."""

    part: Value
    before: tuple[Dim, ...]
    after: tuple[Dim, ...]


def parts_joined(builder: Builder, terms: Sequence[Value]) -> list[Value]:
    """Terms of a sum, those of neighbouring parts as one; in the order of the first of them. What is joined may be the
    neighbour of another along another axis.
    """
    found = {at: padded for at, term in enumerate(terms) if (padded := _padded(builder, term)) is not None}
    joined: dict[int, Value] = dict(enumerate(terms))
    for axis in range(terms[0].rank):
        runs = [run for run in _runs(found, axis) if len(run) > 1]
        for run in runs:
            first, *others = sorted(run)
            for at in others:
                del joined[at]
            joined[first] = _value(builder, [found[at] for at in run], axis)
        if runs:
            again = [joined[at] for at in sorted(joined)]
            return again if len(again) == 1 else parts_joined(builder, again)
    return list(terms)


def _runs(found: Mapping[int, _Padded], axis: int) -> list[list[int]]:
    """Parts that follow one another along an axis, and are alike along all others."""

    def key(padded: _Padded, start: Dim) -> tuple[object, ...]:
        others = [(b, a) for d, (b, a) in enumerate(zip(padded.before, padded.after, strict=True)) if d != axis]
        return (*others, start)

    beginning: dict[tuple[object, ...], int] = {}
    for at, padded in found.items():
        if padded.part.shape[axis] != 0:  # what is empty would be its own neighbour
            beginning.setdefault(key(padded, padded.before[axis]), at)
    following = {
        at: after
        for at in beginning.values()
        if (after := beginning.get(key(found[at], add(found[at].before[axis], found[at].part.shape[axis])))) is not None
    }
    runs = []
    for at in sorted(set(beginning.values()) - set(following.values())):
        run = [at]
        while run[-1] in following:
            run.append(following[run[-1]])
        runs.append(run)
    return runs


@dataclass(frozen=True)
class PaddedSums:
    name: str = "padded-sums"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, ("add",))


def _rewrite(site: Site) -> Sequence[Value] | None:
    if site.node.op != "add" or site.input(0).shape != site.input(1).shape:
        return None
    b, terms = site.builder, [site.input(0), site.input(1)]
    if any(site.readers(term) != 1 for term in terms) or any(_padded(b, term) is None for term in terms):
        return None
    with b.source(*site.node.provenance, *(s for term in terms for s in _provenance(b, term))):
        joined = parts_joined(b, [_of_positive(b, term) for term in terms])
    return joined if len(joined) == 1 else None


def _provenance(builder: Builder, value: Value) -> Sequence[str]:
    node = builder.producer(value)
    return () if node is None else node.provenance


def _of_positive(builder: Builder, value: Value) -> Value:
    """The padded value of a part in which no zero is negative."""
    padded = _padded(builder, value)
    assert padded is not None
    if _has_zero_added(builder, padded.part):
        return value
    zero = builder.constant(np.zeros((), padded.part.dtype.numpy), "zero")
    part = builder.one("add", [padded.part, zero])
    return builder.one("pad", [part], before=padded.before, after=padded.after, mode="constant", value=0.0)


def _has_zero_added(builder: Builder, value: Value) -> bool:
    node = builder.producer(value)
    if node is not None and node.op == "concat":
        return all(_has_zero_added(builder, builder.lookup(name)) for name in node.inputs)
    return node is not None and node.op == "add" and _is_zero(builder, node.inputs[1])


def _is_zero(builder: Builder, name: str) -> bool:
    array = builder.constants.get(name)
    return array is not None and may_look(array) and not array.any() and not np.signbit(array).any()


def _padded(builder: Builder, value: Value) -> _Padded | None:
    node = builder.producer(value)
    return None if node is None else _padding(builder, node) or _beside_zeros(builder, node)


def _beside_zeros(builder: Builder, node: Node) -> _Padded | None:
    """A part that is concatenated with zeros."""
    if node.op != "concat":
        return None
    axis, values = int(node.attrs["axis"]), [builder.lookup(name) for name in node.inputs]  # type: ignore[arg-type]
    axis %= values[0].rank
    parts = [at for at, value in enumerate(values) if not _is_zero(builder, value.name)]
    if len(parts) != 1 or len(values) == 1:
        return None
    (at,) = parts
    none = [0] * values[0].rank
    before, after = list[Dim](none), list[Dim](none)
    for k, value in enumerate(values):
        if k != at:
            side = before if k < at else after
            side[axis] = add(side[axis], value.shape[axis])
    return _Padded(values[at], tuple(before), tuple(after))


def _padding(builder: Builder, node: Node) -> _Padded | None:
    if node.op != "pad" or node.attrs.get("mode") != "constant" or node.attrs.get("value") != 0:
        return None
    if len([name for name in node.inputs if name]) != 1:
        return None
    before, after = node.attrs["before"], node.attrs["after"]
    assert isinstance(before, tuple) and isinstance(after, tuple)
    return _Padded(builder.lookup(node.inputs[0]), before, after)  # type: ignore[arg-type]


def _pieces(builder: Builder, part: Value, axis: int) -> list[Value]:
    """What a part is a concatenation of along the axis, or the part."""
    node = builder.producer(part)
    if node is None or node.op != "concat" or int(node.attrs["axis"]) % part.rank != axis:  # type: ignore[arg-type]
        return [part]
    return [builder.lookup(name) for name in node.inputs]


def _value(builder: Builder, run: Sequence[_Padded], axis: int) -> Value:
    value = builder.one("concat", [piece for p in run for piece in _pieces(builder, p.part, axis)], axis=axis)
    first, last = run[0], run[-1]
    after = (*first.after[:axis], last.after[axis], *first.after[axis + 1 :])
    if any(width != 0 for width in (*first.before, *after)):
        return builder.one("pad", [value], before=first.before, after=after, mode="constant", value=0.0)
    return value
