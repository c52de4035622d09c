"""How a contraction reaches its operands: by strides, in a layout."""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.ir.expr import Dim
from mapsto.plan.contraction import Contraction
from mapsto.plan.home import Border
from mapsto.plan.layout import Layout, of_place


@dataclass(frozen=True)
class Access:
    """Strides of an operand under a layout, in elements: by iterator name; the channel (or column) iterator is split
    into blocks where `block` is set.
    """

    base: Dim
    strides: dict[str, Dim]
    block: int | None
    block_stride: Dim


def access(c: Contraction, index: tuple[Dim, ...], layout: Layout, fast: str, border: Border | None) -> Access | None:
    """How a contraction reaches an operand: affine in every iterator, `fast` with stride 1 (in blocks where the layout
    has them). None where it is not so.
    """
    if border is not None and any(b > hb or a > ha for (b, a), (hb, ha) in zip(border, layout.border, strict=True)):
        return None
    iters = c.iters + c.reds
    place = layout.place(index, c.ranges)
    shape = [i.extent for i in iters]
    names = [i.name for i in iters]
    made = of_place(shape, names, place, c.traits.block, layout.elements)
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
            block = c.traits.block
            if axis.div != 1:
                block_stride = axis.stride
            else:
                strides[name] = axis.stride
        else:
            strides[name] = axis.stride
    if strides.get(fast, 1) != 1 and shape[names.index(fast)] != 1:
        return None
    return Access(made.offset, strides, block, block_stride)
