"""Correlations of images, by their form: contractions of two rows of images that slide along each other by 3x3 places.

    target[dy, dx, channel, column] = sum over y, x and more of  A[.., y+dy, x+dx, channel] * B[.., y, x, column]

The gradient of a convolution's weights is one. A maker that has a template for them says so by a trait: A is then read
by its channels too, not only along x.
"""

from __future__ import annotations

from typing import NamedTuple

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, linear, loads, symbols
from mapsto.kernel.ast import Iter
from mapsto.plan.access import Access, access
from mapsto.plan.contraction import Contraction
from mapsto.plan.home import Border
from mapsto.plan.layout import Layout

SHIFTS = 3  # in one dimension


class Sliding(NamedTuple):
    """Iterators of a correlation: the shifts, the places, what else is summed over, A's channel."""

    shifts: tuple[Iter, Iter]
    places: tuple[Iter, Iter]
    outer: tuple[Iter, ...]
    channel: Iter


def sliding(c: Contraction) -> Sliding | None:
    """How the iterators of a contraction walk; None where it is no correlation that the maker has a template for: f32,
    sizes that are known, channels and columns in whole blocks, rows that share a dim of A with a sum, a place a step.
    """
    block = c.traits.correlation_block
    rows = [i for i in c.rows if i.extent != 1]
    if not block or len(rows) != 3 or len(c.cols) != 1 or any(i.extent != 1 for i in c.batch):
        return None
    if any(t is not DType.F32 for t in (c.dtype, c.a.dtype, c.b.dtype)) or any(map(loads, (*c.a.index, *c.b.index))):
        return None
    if any(not isinstance(i.extent, int) or i.extent < 1 for i in (*c.iters, *c.reds)):
        return None
    pairs = [(row, red) for e in c.a.index for row in rows for red in c.reds if _slide(e, row, red)]
    if len(pairs) != 2 or len({i.name for pair in pairs for i in pair}) != 4:
        return None
    (dy, y), (dx, x) = pairs
    (channel,) = (row for row in rows if row not in (dy, dx))
    if (dy.extent, dx.extent) != (SHIFTS, SHIFTS) or any(_number(i) % block for i in (channel, c.cols[0])):
        return None
    return Sliding((dy, dx), (y, x), tuple(r for r in c.reds if r not in (y, x)), channel)


def _number(it: Iter) -> int:
    assert isinstance(it.extent, int)
    return it.extent


def _slide(e: Dim, row: Iter, red: Iter) -> bool:
    if not {row.name, red.name} <= symbols(e):
        return False
    steps = [linear(e, i.name) for i in (row, red)]
    return all(step is not None and step.coefficient == 1 for step in steps)


class SlidingAccess(NamedTuple):
    """How both operands are reached, their channels and columns innermost or in blocks."""

    walks: Sliding
    a: Access
    b: Access


def sliding_access(c: Contraction, a: Layout, b: Layout, border: Border) -> SlidingAccess | None:
    """How a correlation reaches operands that lie so; None where it is none, or they cannot be. border: how far A is
    read past its ends.
    """
    walks = sliding(c)
    if walks is None:
        return None
    of_a = access(c, c.a.index, a, walks.channel.name, border)
    of_b = access(c, c.b.index, b, c.cols[0].name, None)
    return None if of_a is None or of_b is None else SlidingAccess(walks, of_a, of_b)
