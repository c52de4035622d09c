"""The reduction of a contraction: its loops, as packed B has them, and where its sums are divided.

Sums are divided for two reasons. Of very many terms the errors add up, so blocks of them are settled by themselves. And
where a panel of B is large, all tiles of a row block meet one *slice* of it after the other, so that each comes from
afar once, while the slice before is multiplied; the tiles' sums wait in a local array meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from mapsto.devices.contraction.form import ContractionForm, LoopAxis
from mapsto.ir.expr import Dim, Expr, add, ceildiv, mul, product
from mapsto.plan.loop_forms import BLOCK_PRODUCTS, FEW_PRODUCTS, sum_division


@dataclass(frozen=True)
class ReductionPart:
    """A stretch of the reduction: loops from outer to inner (`out` unused), starts of A and B, channels in each dot
    group."""

    loops: tuple[LoopAxis, ...]
    a_start: Dim
    b_start: Dim
    group: int

    def rounds(self, first: Dim, count: int) -> ReductionPart:
        """So many rounds of the outermost loop."""
        axis, *inner = self.loops
        a_start, b_start = add(self.a_start, mul(first, axis.a)), add(self.b_start, mul(first, axis.b))
        return replace(self, loops=(replace(axis, extent=count), *inner), a_start=a_start, b_start=b_start)


def reduction_parts(form: ContractionForm, width: int) -> list[ReductionPart]:
    """The whole channel blocks, then the cut one; a cut dot group stands alone at the end of each. width: columns of
    the panel.
    """
    if form.scale is not None:
        return _scaled_parts(form, width)
    if not form.channel_block:
        return _block_parts(form, (), form.channels, (0, 0), width)
    full, rest = form.blocks
    size = mul(mul(form.channel_block, form.windows), width)
    if form.b_channel_stride is not None:
        size = mul(form.channel_block, form.b_channel_stride)
    blocks = (LoopAxis(full, form.channel_block_stride, size),)
    parts = _block_parts(form, blocks, form.channel_block, (0, 0), width) if full else []
    if rest:
        start = mul(full, form.channel_block_stride), mul(full, size)
        parts += _block_parts(form, (), rest, start, width)
    return parts


def _scaled_parts(form: ContractionForm, width: int) -> list[ReductionPart]:
    """Whole blocks of one scale a column, then the cut one, then a cut element: two loops each, over blocks and over
    the rounds of one.
    """
    assert isinstance(form.channels, int)
    last, stride = 1 if form.cut else 0, form.channel_stride
    whole = form.channels - last
    full, rest = divmod(whole, form.scaled)
    stretches = ((0, full, form.scaled, 0), (full * form.scaled, 1, rest, 0), (whole, 1, last, form.cut))
    parts = []
    for start, count, rounds, cut in stretches:
        if count and rounds:
            loops = LoopAxis(count, mul(stride, form.scaled), width * form.scaled), LoopAxis(rounds, stride, width)
            parts.append(ReductionPart(loops, mul(start, stride), start * width, cut or form.nibbles or 1))
    return parts


def _block_parts(
    form: ContractionForm, outer: tuple[LoopAxis, ...], channels: Dim, start: tuple[Dim, Dim], width: int
) -> list[ReductionPart]:
    k, (a_start, b_start) = form.interleave, start
    step = mul(width, k) if form.b_channel_stride is None else form.b_channel_stride
    groups = ceildiv(channels, k)
    cut = channels % k if isinstance(channels, int) else 0
    whole = add(groups, -1) if cut else groups
    windows: list[LoopAxis] = []
    position = mul(groups, step)  # of B, per window position; the inner window moves first
    for axis in reversed(form.window):
        windows.insert(0, replace(axis, b=position) if form.b_channel_stride is None else axis)
        position = mul(position, axis.extent)
    stride = mul(form.channel_stride, k)
    loops = (*outer, *windows, LoopAxis(whole, stride, step))
    parts = [ReductionPart(_merged(loops), a_start, b_start, k)] if whole != 0 else []
    if cut:
        at_a, at_b = mul(whole, stride), mul(whole, step)
        parts.append(ReductionPart((*outer, *windows), add(a_start, at_a), add(b_start, at_b), cut))
    return parts


def _merged(loops: tuple[LoopAxis, ...]) -> tuple[LoopAxis, ...]:
    """Neighbouring loops that walk on where the inner one ends become one; loops of one round vanish."""
    out: list[LoopAxis] = []
    for axis in loops:
        if axis.extent == 1:
            continue
        if out and out[-1].a == mul(axis.a, axis.extent) and out[-1].b == mul(axis.b, axis.extent):
            out[-1] = LoopAxis(mul(out[-1].extent, axis.extent), axis.a, axis.b)
        else:
            out.append(axis)
    return tuple(out)


def division(form: ContractionForm, part: ReductionPart) -> tuple[int, int] | None:
    """At which of the loops, and after how many rounds, sums are settled, so that none is one of very many."""
    if not form.accumulator.is_float:
        return None
    if isinstance(form.b_channel_stride, Expr):  # a loop more would push strides out of the registers
        return None
    extents = [axis.extent for axis in part.loops]
    found = sum_division(extents, part.group, FEW_PRODUCTS, BLOCK_PRODUCTS)
    return None if found is None else (found[0], _near_divisor(part.loops[found[0]].extent, found[1]))


def _near_divisor(extent: Dim, wanted: int) -> int:
    """A number near the wanted one, so that blocks of that size leave no rest where there is one."""
    if not isinstance(extent, int):
        return wanted
    near = sorted(range(wanted // 2 + 1, 2 * wanted), key=lambda n: abs(n - wanted))
    return next((n for n in near if extent % n == 0), wanted)


class SlicedLoop(NamedTuple):
    """The outermost loop of a reduction, of known rounds, and the elements of B that one round takes."""

    rounds: int
    elements: int


def sliced_loop(form: ContractionForm, width: int) -> SlicedLoop | None:
    """What slices are parts of; None where that is not of a known size. width: columns of the panel."""
    parts = reduction_parts(form, width)
    if not parts or not parts[0].loops:
        return None
    axis, *inner = parts[0].loops
    steps = product(each.extent for each in inner)
    if not isinstance(axis.extent, int) or not isinstance(axis.b, int) or not isinstance(steps, int):
        return None
    return SlicedLoop(axis.extent, axis.b if form.b_channel_stride is None else steps * width)


def in_slices(parts: list[ReductionPart], number: Dim, rounds: int) -> list[ReductionPart]:
    """The slice of a number; then what follows the last one: rounds that fill none, and the other parts."""
    whole, *others = parts
    extent = whole.loops[0].extent
    assert isinstance(extent, int)
    rest = extent % rounds
    left = [whole.rounds(extent - rest, rest)] if rest else []
    return [whole.rounds(mul(number, rounds), rounds), *left, *others]


def slice_rounds(whole: SlicedLoop, elements: int) -> int:
    """Rounds of a slice that has about so many elements of B; 0: it would be all there are."""
    rounds = _near_divisor(whole.rounds, max(elements // whole.elements, 1))
    return rounds if rounds < whole.rounds else 0
