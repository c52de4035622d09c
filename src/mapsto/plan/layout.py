"""Layouts: the mapping from a tensor's elements to places in a buffer.

A physical axis holds `(index[dim] + border_before[dim]) // div % size` (no `% size` where it is None) and has a
stride in elements, so that

    place(index) = offset + sum over axes of stride * physical index.

The plain row-major layout has one axis a dim; the blocked layout `[N][C/16][H][W][16]` has two axes for C: (C, div 16)
and (C, div 1, size 16). A slice of a layout is a layout (other offset, same strides), which is what a concat's operands
get.

Contract of a layout that its writers keep and its readers may use:
- `border`: elements around the tensor (per dim: before, after) that hold zero;
- tail: where a blocked dim is no multiple of the block, the lanes past its end hold zero.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mapsto.ir.expr import Dim, add, ceildiv, floordiv, linear, mod, mul, sym, symbols
from mapsto.ir.expr_proofs import Ranges
from mapsto.ir.expr_rewrite import simplify, substitute


@dataclass(frozen=True)
class Axis:
    """One physical axis: which dim it holds, by what it is divided and wrapped, and its stride in elements."""

    dim: int
    div: int
    size: int | None
    stride: Dim

    def __str__(self) -> str:
        """`d2/8%4`: without the stride."""
        body = f"d{self.dim}" + (f"/{self.div}" if self.div != 1 else "")
        return body + (f"%{self.size}" if self.size is not None else "")


class DimBlock(NamedTuple):
    """The dim that lies in blocks, and how many elements a block has."""

    dim: int
    size: int


@dataclass(frozen=True)
class Layout:
    """Where the elements of a tensor of this shape lie. `elements`: size of the whole buffer, in elements."""

    shape: tuple[Dim, ...]
    axes: tuple[Axis, ...]
    elements: Dim
    offset: Dim = 0
    border: tuple[tuple[int, int], ...] = ()

    def place(self, index: Sequence[Dim], ranges: Ranges | None = None) -> Dim:
        """The place of an element, in elements from the buffer's start; simplified where ranges are given."""
        at: Dim = self.offset
        for axis in self.axes:
            inner = add(index[axis.dim], self.border[axis.dim][0])
            if axis.div != 1:
                inner = floordiv(inner, axis.div)
            if axis.size is not None:
                inner = mod(inner, axis.size)
            at = add(at, mul(inner, axis.stride))
        return simplify(at, ranges) if ranges is not None else at

    @property
    def block(self) -> DimBlock | None:
        """The blocked dim, if there is one."""
        for axis in self.axes:
            if axis.size is not None and axis.div == 1:
                return DimBlock(axis.dim, axis.size)
        return None

    @property
    def has_border(self) -> bool:
        return any(before or after for before, after in self.border)

    @property
    def has_tail(self) -> bool:
        """Whether the blocked dim may end inside a block."""
        if self.block is None:
            return False
        dim, size = self.block
        extent = self.shape[dim]
        return not isinstance(extent, int) or extent % size != 0

    def slice(self, dim: int, start: Dim, extent: Dim) -> Layout:
        """The part [start, start + extent) of one dim, in the same buffer; in a blocked dim `start` is a multiple of
        the block.
        """
        shape = (*self.shape[:dim], extent, *self.shape[dim + 1 :])
        moved: Dim = self.offset
        for axis in self.axes:
            if axis.dim != dim:
                continue
            if axis.size is None:
                moved = add(moved, mul(floordiv(start, axis.div), axis.stride))
        return replace(self, shape=shape, offset=moved)

    def __str__(self) -> str:
        names = "".join(f"[{axis}]" for axis in self.axes) or "[]"
        extra = f" border {_border_text(self.border)}" if self.has_border else ""
        return f"{names}{extra}" + (f" + {self.offset}" if self.offset != 0 else "")


def _border_text(border: tuple[tuple[int, int], ...]) -> str:
    return ",".join(f"{before}:{after}" for before, after in border)


def _with_strides(
    shape: Sequence[Dim], axes: Sequence[tuple[int, int, int | None]], border: Sequence[tuple[int, int]]
) -> Layout:
    """A contiguous layout: axes (dim, div, size) from outermost to innermost."""
    stride: Dim = 1
    made: list[Axis] = []
    for dim, div, size in reversed(axes):
        made.append(Axis(dim, div, size, stride))
        extent = add(shape[dim], border[dim][0] + border[dim][1])
        stride = mul(stride, size if size is not None else ceildiv(extent, div))
    return Layout(tuple(shape), tuple(reversed(made)), stride, 0, tuple(border))


def plain(shape: Sequence[Dim]) -> Layout:
    """Row-major."""
    return _plain(tuple(shape))


@functools.lru_cache(maxsize=1024)
def _plain(shape: tuple[Dim, ...]) -> Layout:
    """The same; a model has thousands of tensors of a few shapes."""
    return permuted(shape, range(len(shape)))


def permuted(shape: Sequence[Dim], order: Sequence[int], border: Sequence[tuple[int, int]] | None = None) -> Layout:
    """Contiguous, with the dims in this order from outermost to innermost."""
    return _with_strides(shape, [(d, 1, None) for d in order], border or [(0, 0)] * len(shape))


def blocked(
    shape: Sequence[Dim], dim: int, block: int, border: Sequence[tuple[int, int]] | None = None
) -> Layout:
    """`dim` split into blocks whose elements are innermost: `[N][C/16][H][W][16]` for dim 1 in blocks of 16."""
    axes: list[tuple[int, int, int | None]] = [(d, block if d == dim else 1, None) for d in range(len(shape))]
    return _with_strides(shape, [*axes, (dim, 1, block)], border or [(0, 0)] * len(shape))


def in_panels(shape: Sequence[Dim], dim: int, block: int, border: Sequence[tuple[int, int]] | None = None) -> Layout:
    """`dim` in blocks that lie one after the other, each with all of the other dims in it: `[C/16][N][H][W][16]`, as
    the second operand of a product is packed whose columns it holds.
    """
    others: list[tuple[int, int, int | None]] = [(d, 1, None) for d in range(len(shape)) if d != dim]
    return _with_strides(shape, [(dim, block, None), *others, (dim, 1, block)], border or [(0, 0)] * len(shape))


def of_place(shape: Sequence[Dim], names: Sequence[str], place: Dim, block: int, elements: Dim) -> Layout | None:
    """The layout whose place is a given expression over one iterator a dim; None where it is neither affine nor
    blocked in some dim (in no dim where block is 0).

    This is how a transpose, a reshape or a slice becomes a view: its index map composed with the layout it reads is a
    layout again.
    """
    axes: list[Axis] = []
    rest = place
    for dim, name in enumerate(names):
        if shape[dim] == 1:
            rest = substitute(rest, {name: 0})
            axes.append(Axis(dim, 1, None, 0))
            continue
        found = _axes_of(dim, name, rest, shape[dim], block)
        if found is None:
            return None
        axes.extend(found[0])
        rest = found[1]
    if symbols(rest) & set(names):
        return None
    return Layout(tuple(shape), tuple(axes), elements, rest, ((0, 0),) * len(shape))


def _axes_of(dim: int, name: str, place: Dim, extent: Dim, block: int) -> tuple[list[Axis], Dim] | None:
    """(axes of one dim, place without it)."""
    affine = linear(place, name)
    if affine is not None:
        return [Axis(dim, 1, None, affine.coefficient)], affine.rest
    if not block:
        return None
    outer, inner = f"{name}.outer", f"{name}.inner"
    ranges: dict[str, tuple[Dim, Dim]] = {outer: (0, ceildiv(extent, block) - 1), inner: (0, block - 1)}
    split = simplify(substitute(place, {name: add(mul(sym(outer), block), sym(inner))}), ranges)
    coarse = linear(split, outer)
    fine = None if coarse is None else linear(coarse.rest, inner)
    if coarse is None or fine is None or inner in symbols(coarse.coefficient):
        return None
    return [Axis(dim, block, None, coarse.coefficient), Axis(dim, 1, block, fine.coefficient)], fine.rest
