"""Axes that only a run knows, as sizes: what a node does along them is then the same work at every choice.

A list of axes becomes a truth value for each axis of the tensor. From these follow, in small integer tensors, numbers
for each axis, which are bound as sizes. No element is gathered: a tensor is only looked at in another shape.

    a set of axes    x[n0, n1] as [o0, e0, o1, e1] with (o, e) = (1, n) along a chosen axis and (n, 1) along any other
    one axis         x as [before it, along it, behind it]
    kept axes        the extents of those that are not chosen, in order: what a squeeze leaves

An axis that is out of range, or named twice, stops the run.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.importers.onnx.table import NodeCall
from mapsto.ir.bounds import Allowed
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.ops.arranging import positions, reshape
from mapsto.ops.bounds import check_inside
from mapsto.ops.builder import Builder


def integers(b: Builder, dims: Sequence[Dim]) -> Value:
    """Dims as a vector of 64-bit integers."""
    elements = np.empty(len(dims), dtype=object)
    elements[:] = dims
    return b.known(elements)


def total(b: Builder, kind: str, x: Value, axis: int) -> Value:
    """A reduction over one axis, which goes."""
    return b.one("reduce", [x], kind=kind, axes=(axis,), keepdims=False)


def known_axes(call: NodeCall, i: int, rank: int) -> list[int] | None:
    """The axes of input i, counted from the front, where they are known when compiling; None where only a run knows."""
    found = call.known_ints(i)
    return None if found is None else [call.normal_axis(axis, rank) for axis in found]


def _from_front(call: NodeCall, i: int, rank: int) -> Value:
    """The axes of input i, a vector or scalar that only a run knows, as a checked vector counted from the front of a
    tensor of so many.
    """
    b, axes = call.builder, call.input(i)
    if axes.rank > 1:
        raise call.wrong(f"{call.port(i)} is no list of axes: {axes}")
    check_inside(b, axes, Allowed((0,), (max(rank, 1),), "axis", f"{call.port(i)}:"), b.place(call.op))
    wide = b.one("cast", [axes], to=DType.I64) if axes.dtype is not DType.I64 else axes
    wide = reshape(b, wide, wide.shape or (1,))
    return b.one("select", [b.one("lt", [wide, call.scalar(0, wide)]), b.one("add", [wide, b.known(rank)]), wide])


# -- a set of axes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """The axes of a tensor that a run chooses: `hits`, bool[count, rank], says which the k-th of the list is."""

    b: Builder
    hits: Value

    @property
    def count(self) -> Dim:
        return self.hits.shape[0]

    @property
    def rank(self) -> int:
        rank = self.hits.shape[1]
        assert isinstance(rank, int)
        return rank

    def mask(self) -> Value:
        """Whether each axis is chosen: bool[rank]."""
        return total(self.b, "any", self.hits, 0)

    def laid(self, values: Value, otherwise: Value) -> Value:
        """For each axis the value of the list that belongs to it, or its own where it is not chosen: i64[rank]."""
        b = self.b
        wide = values if values.dtype is DType.I64 else b.one("cast", [values], to=DType.I64)
        column = reshape(b, wide, (self.count, 1))
        own = b.one("select", [self.hits, column, b.constant(np.asarray(0, np.int64))])
        return b.one("select", [self.mask(), total(b, "sum", own, 0), otherwise])


def chosen(call: NodeCall, i: int, rank: int) -> Chosen:
    """The axes of input i, which only a run knows."""
    b = call.builder
    axes = _from_front(call, i, rank)
    hits = b.one("eq", [reshape(b, axes, (axes.shape[0], 1)), positions(b, rank)])
    if axes.shape[0] not in (0, 1) and rank:
        often = total(b, "sum", b.one("cast", [hits], to=DType.I64), 0)
        most = b.bind(total(b, "max", often, 0), "most")
        call.require_value(1 - most, f"{call.port(i)} names an axis twice")
    return Chosen(b, hits)


def first_axes(call: NodeCall, count: Dim, rank: int) -> Chosen:
    """The first `count` axes, which only a run can count."""
    b = call.builder
    call.require(rank - count, f"{count} numbers for {rank} axes")
    return Chosen(b, b.one("eq", [reshape(b, positions(b, count), (count, 1)), positions(b, rank)]))


def bound(call: NodeCall, values: Value, hint: str) -> list[Dim]:
    """The elements of a vector as sizes."""
    return call.builder.dims(values, hint, call.builder.place(call.op))


def paired(call: NodeCall, x: Value, mask: Value) -> tuple[Value, list[Dim]]:
    """(x[n0, n1, ..] looked at as [o0, e0, o1, e1, ..], the o): e is the extent of a chosen axis, o that of any other;
    its other half is 1.
    """
    b = call.builder
    extents, one = integers(b, x.shape), b.constant(np.asarray(1, np.int64))
    kept = bound(call, b.one("select", [mask, one, extents]), "kept")
    taken = bound(call, b.one("select", [mask, extents, one]), "taken")
    return reshape(b, x, list(itertools.chain.from_iterable(zip(kept, taken, strict=True)))), kept


def compacted(call: NodeCall, extents: Value, kept: Value, count: int) -> list[Dim]:
    """The `count` extents of kept axes (i64[rank], bool[rank]), in order."""
    b = call.builder
    if not count:
        return []
    place = b.one("cumsum", [b.one("cast", [kept], to=DType.I64)], axis=0, exclusive=True, reverse=False)
    moved = b.one("eq", [place, reshape(b, positions(b, count), (count, 1))])
    own = b.one("select", [b.one("and", [moved, kept]), extents, b.constant(np.asarray(0, np.int64))])
    return bound(call, total(b, "sum", own, 1), "kept")


# -- one axis ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneAxis:
    """An axis that a run chooses among the first of a tensor: three bool[rank] that say of each whether it lies before
    that axis, is it, or lies behind it.
    """

    before: Value
    at: Value
    behind: Value


def one_axis(call: NodeCall, i: int, rank: int, first: int | None = None) -> OneAxis:
    """The axis of input i, which only a run knows; of the `first` ones alone, where that is said."""
    b = call.builder
    axis = _from_front(call, i, rank)
    if axis.shape[0] != 1:
        raise call.wrong(f"{call.port(i)} is not one axis: {call.input(i)}")
    if first is not None:
        last = b.bind(axis, "axis", what=call.place(i))
        call.require_value(first - 1 - last, f"{call.port(i)} must be one of the first {first} axes")
        rank = first
    each = positions(b, rank)
    return OneAxis(*(b.one(name, [each, axis]) for name in ("lt", "eq", "gt")))


def around(call: NodeCall, axis: OneAxis, extents: Sequence[Dim]) -> tuple[Dim, Dim, Dim]:
    """(elements of the axes before it, its extent, elements of the axes behind it)."""
    b = call.builder
    own, one = integers(b, extents), b.constant(np.asarray(1, np.int64))
    before, along, behind = (
        b.bind(total(b, "prod", b.one("select", [part, own, one]), 0), hint, what=b.place(call.op))
        for part, hint in ((axis.before, "before"), (axis.at, "along"), (axis.behind, "behind"))
    )
    return before, along, behind
