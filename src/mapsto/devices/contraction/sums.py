"""What a tile of the contraction template sums: its panel, the slice of the reduction, the names of its sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mapsto.devices.contraction.ahead import Ahead
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.loop import ast as loop


@dataclass(frozen=True)
class TilePanel:
    """A panel's vectors, its first column, the start of its B, and how many of its columns exist (None: all).

    `masks`: for each vector, which of its lanes are columns; None where all are. `slice`: None where all is one.
    """

    vectors: tuple[int, ...]
    column: Dim
    b_start: Dim
    valid: Dim | None
    masks: tuple[loop.Value | None, ...] = ()
    slice: PanelSlice | None = None


@dataclass(frozen=True)
class PanelSlice:
    """number: of a slice, of so many (count). Each tile has `pitch` elements of the array in which sums wait, the first
    ones tile `first`.
    """

    number: Dim
    count: int
    pitch: int
    first: Dim


@dataclass(frozen=True)
class TileSums:
    """Names of a tile's sums, row by row for each vector of the panel: accumulators, and what they were added to after
    each block of terms (None: there are few terms)."""

    panel: TilePanel
    accumulators: list[list[str]]
    settled: list[list[str]] | None
    ahead: Ahead | None = None


Named = list[list[str]]


def zeroed(
    accumulator: DType, panel: TilePanel, names: Named, by: Callable[[str, loop.Value], loop.Statement]
) -> list[loop.Statement]:
    """The sums of these names, begun anew."""
    types = [loop.Type(accumulator, lanes) for lanes in panel.vectors]
    return [by(name, loop.Const(0, t)) for row in names for name, t in zip(row, types, strict=True)]


def added(accumulator: DType, panel: TilePanel, to: Named, others: Named) -> list[loop.Statement]:
    """Sums, with others added to them."""
    out: list[loop.Statement] = []
    for names, more in zip(to, others, strict=True):
        for name, other, lanes in zip(names, more, panel.vectors, strict=True):
            t = loop.Type(accumulator, lanes)
            out.append(loop.Assign(name, loop.Binary("add", loop.Var(name, t), loop.Var(other, t))))
    return out
