"""Homes: in which buffer each value lies, and by which layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, sym
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Iter, ranges_of
from mapsto.plan.layout import Layout, blocked, in_panels, permuted, plain
from mapsto.plan.traits import Traits

Border = tuple[tuple[int, int], ...]


class Inner(NamedTuple):
    """The dim that lies innermost: in blocks where it is long enough and the maker has a use for them, or `whole`, or
    in `panels`, which are blocks of the last dim, one after the other.
    """

    dim: int
    whole: bool = False
    panels: bool = False

    def __str__(self) -> str:
        """As plans have it."""
        return f"{self.dim} whole" if self.whole else f"{self.dim} panels" if self.panels else str(self.dim)


@dataclass(frozen=True)
class Home:
    """A value's place: the buffer (named after the value that owns it) and the layout in it, and why."""

    buffer: str
    dtype: DType
    layout: Layout
    because: str = ""

    def value(self, name: str) -> Value:
        """The value that lies here."""
        return Value(name, self.dtype, self.layout.shape)


def as_it_comes(value: Value) -> Home:
    """The home of an input or a constant."""
    return Home(value.name, value.dtype, plain(value.shape), "row-major, as it comes in")


def layout_for(
    shape: tuple[Dim, ...],
    inner: int | None,
    traits: Traits,
    border: Border = (),
    whole: bool = False,
    panels: bool = False,
) -> Layout:
    """The layout with one dim innermost (blocked where long enough, for a maker that has a use for blocks, unless it is
    to be whole; the last dim where it is to be in panels) and a border.
    """
    rank = len(shape)
    if panels and inner is not None and traits.block:
        return in_panels(shape, inner, traits.block, border or None)
    if inner is None or rank == 0 or inner == rank - 1:
        return permuted(shape, range(rank), border or None)
    extent = shape[inner]
    is_long = isinstance(extent, int) and extent >= traits.least_blocked
    if traits.block and is_long and not whole and not (border and border[inner] != (0, 0)):
        return blocked(shape, inner, traits.block, border or None)
    return permuted(shape, [d for d in range(rank) if d != inner] + [inner], border or None)


def same_places(a: Layout, b: Layout) -> bool:
    """Whether two layouts of one shape put every element at the same place."""
    names = [f"v.{d}" for d in range(len(a.shape))]
    ranges = ranges_of(tuple(Iter(n, e) for n, e in zip(names, a.shape, strict=True)))
    index = [0 if e == 1 else sym(n) for n, e in zip(names, a.shape, strict=True)]  # no stride of one element matters
    return a.place(index, ranges) == b.place(index, ranges)
