"""Zeros that a layout promises: the border around a tensor, and the lanes past a blocked dim's end."""

from __future__ import annotations

from collections.abc import Callable

from mapsto.devices.generic.flat import FlatGroup, FlatSegment, FlatStep, simplified
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, round_up, sym
from mapsto.kernel.ast import Const, Iter
from mapsto.plan.layout import Layout


def zero_segments(
    target: str, dtype: DType, layout: Layout, fresh: Callable[[str], str], tail: bool = True
) -> tuple[FlatSegment, ...]:
    """Segments that write each element of the border once, and of the tail unless `tail` is False (its writer fills
    it).
    """
    block = layout.block
    whole: list[tuple[Dim, Dim]] = []
    for dim, extent in enumerate(layout.shape):
        end = round_up(extent, block.size) if block is not None and block.dim == dim else extent
        before, after = layout.border[dim]
        whole.append((-before, end + after))
    found: list[FlatSegment] = []
    for dim, extent in enumerate(layout.shape):
        before, after = layout.border[dim]
        # dims before this one stay inside, so that no two regions meet
        inside: list[tuple[Dim, Dim]] = [(0, _end(layout, d)) for d in range(dim)]
        rest = whole[dim + 1 :]
        if before:
            found.append(_zeros(target, dtype, layout, [*inside, (-before, 0), *rest], fresh))
        if after:
            found.append(_zeros(target, dtype, layout, [*inside, (extent, extent + after), *rest], fresh))
    if tail and block is not None and layout.has_tail:
        dim, size = block
        ends: list[tuple[Dim, Dim]] = [(0, e) for e in layout.shape]
        ends[dim] = (layout.shape[dim], round_up(layout.shape[dim], size))
        found.append(_zeros(target, dtype, layout, ends, fresh))
    return tuple(found)


def _end(layout: Layout, dim: int) -> Dim:
    """A dim's end, the blocked one's padding included."""
    block = layout.block
    extent = layout.shape[dim]
    return round_up(extent, block.size) if block is not None and block.dim == dim else extent


def _zeros(
    target: str, dtype: DType, layout: Layout, region: list[tuple[Dim, Dim]], fresh: Callable[[str], str]
) -> FlatSegment:
    iters: list[Iter] = []
    index: list[Dim] = []
    for low, high in region:
        if high - low == 1:
            index.append(low)
            continue
        iters.append(Iter(fresh("z"), high - low))
        index.append(low + sym(iters[-1].name))
    value = Const(False if dtype is DType.BOOL else 0.0 if dtype.is_float else 0, dtype)
    step = FlatStep(target, dtype, layout.place(index), value)
    return simplified(FlatSegment(tuple(iters), (FlatGroup((step,), ()),)))
