"""How a contraction reaches its operands: by strides, in a layout."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from mapsto.ir.expr import Dim
from mapsto.kernel.ast import Iter, ranges_of
from mapsto.plan.contraction import Contraction
from mapsto.plan.home import Border
from mapsto.plan.layout import Layout, of_place


@dataclass(frozen=True)
class Access:
    """Strides of an operand under a layout, in elements: by iterator name; the channel (or column) iterator is split
    into blocks where `block` is set.
    """

    base: Dim
    strides: Mapping[str, Dim]
    block: int | None
    block_stride: Dim


def access(c: Contraction, index: tuple[Dim, ...], layout: Layout, fast: str, border: Border | None) -> Access | None:
    """How a contraction reaches an operand: affine in every iterator, `fast` with stride 1 (in blocks where the layout
    has them). None where it is not so.
    """
    if border is not None and any(b > hb or a > ha for (b, a), (hb, ha) in zip(border, layout.border, strict=True)):
        return None
    return _reached(c.iters + c.reds, index, layout, fast, c.traits.block)


@functools.lru_cache(maxsize=1 << 13)
def _reached(iters: tuple[Iter, ...], index: tuple[Dim, ...], layout: Layout, fast: str, size: int) -> Access | None:
    """The same, for any border. Remembered: deciding, quoting and making ask about the same operands, and layers of one
    shape about equal ones. size: of blocks.
    """
    place = layout.place(index, ranges_of(iters))
    shape = [i.extent for i in iters]
    names = [i.name for i in iters]
    made = of_place(shape, names, place, size, layout.elements)
    if made is None:
        return None
    strides: dict[str, Dim] = {}
    block: int | None = None
    block_stride: Dim = 0
    for axis in made.axes:
        name = names[axis.dim]
        if axis.size is not None or axis.div != 1:
            if name != fast:
                return None
            block = size
            if axis.div != 1:
                block_stride = axis.stride
            else:
                strides[name] = axis.stride
        else:
            strides[name] = axis.stride
    if strides.get(fast, 1) != 1 and shape[names.index(fast)] != 1:
        return None
    return Access(made.offset, strides, block, block_stride)
