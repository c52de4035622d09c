"""Tensors arranged: flattened, turned, given new axes, cut along one axis, laid along another."""

from __future__ import annotations

from collections.abc import Sequence

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, product
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder


def positions(b: Builder, extent: Dim) -> Value:
    """0, 1, .. extent-1."""
    return b.one("iota", [], shape=(extent,), start=0, step=1, dtype=DType.I64)


def flatten(b: Builder, x: Value, axis: int) -> Value:
    """Two axes: those before `axis`, and the others."""
    return b.one("reshape", [x], shape=(product(x.shape[:axis]), product(x.shape[axis:])))


def reshape(b: Builder, x: Value, shape: Sequence[Dim]) -> Value:
    return x if tuple(shape) == x.shape else b.one("reshape", [x], shape=tuple(shape))


def transpose(b: Builder, x: Value, perm: Sequence[int]) -> Value:
    return x if list(perm) == list(range(x.rank)) else b.one("transpose", [x], perm=tuple(perm))


def unsqueeze(b: Builder, x: Value, axes: Sequence[int]) -> Value:
    """New axes of extent 1 at these places of the result."""
    rank = x.rank + len(axes)
    places = {axis % rank for axis in axes}
    rest = iter(x.shape)
    return b.one("reshape", [x], shape=tuple(1 if axis in places else next(rest) for axis in range(rank)))


def slice_axis(b: Builder, x: Value, axis: int, start: Dim, extent: Dim) -> Value:
    """`extent` elements of one axis from `start` on, the other axes whole."""
    starts = tuple(start if k == axis else 0 for k in range(x.rank))
    shape = tuple(extent if k == axis else d for k, d in enumerate(x.shape))
    if shape == x.shape and start == 0:
        return x
    return b.one("slice", [x], starts=starts, steps=(1,) * x.rank, shape=shape)


def column(b: Builder, x: Value, axis: int, rank: int) -> Value:
    """A vector laid along `axis` of `rank` axes, to be broadcast. Raises ShapeError where it is none."""
    if x.rank != 1:
        raise ShapeError(f"{x}: expected a list, one for each element along axis {axis}")
    return b.one("reshape", [x], shape=tuple(x.shape[0] if k == axis else 1 for k in range(rank)))
