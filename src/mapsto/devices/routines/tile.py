"""The register tile: some rows times some panels of packed weights, sums in registers; how rows are cut into tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mapsto.devices.routines.writer import Writer, cast, splat
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, floordiv, maximum, minimum, mul
from mapsto.loop import ast

# Steps of k in one round of the inner loop: the loop's own instructions cost about a tenth of it then.
UNROLL = 4

Tile = dict[tuple[int, int, int], ast.Var]  # (row, panel of the tile, accumulator) -> variable


@dataclass(frozen=True)
class Rows:
    """The left side of a product: `depth` scalars for each row, from `bases`."""

    buffer: str
    element: DType
    bases: tuple[Dim, ...]
    depth: Dim


@dataclass(frozen=True)
class Panels:
    """The right side: `units` packed panels from `base`, each `size` elements; `pairs` of (gate, accumulator)."""

    buffer: str
    base: Dim
    size: Dim
    units: int
    gates: int
    pairs: tuple[tuple[int, int], ...]


def accumulate(w: Writer, tile: Tile, rows: Rows, panels: Panels, vector: ast.Type) -> None:
    """tile[row, unit, accumulator] += sum over k of rows[row][k] * panels[unit][k][gate], k in order."""

    def weight(k: Dim, unit: int, gate: int) -> ast.Value:
        line = panels.base + mul(unit, panels.size) + mul(k, panels.gates * vector.lanes)
        return w.let("weight", ast.Load(panels.buffer, line + gate * vector.lanes, vector))

    def rank_one(k: Dim) -> None:
        # The weights are fewer than the rows, so it is they that wait in registers.
        weights = {(u, g, a): weight(k, u, g) for u in range(panels.units) for g, a in panels.pairs}
        for row, base in enumerate(rows.bases):
            loaded = cast(ast.Load(rows.buffer, base + k, ast.Type(rows.element)), vector.element)
            scalar = w.let("s", splat(loaded, vector.lanes))
            for (unit, _, accumulator), value in weights.items():
                variable = tile[row, unit, accumulator]
                w.assign(variable, w.multiply_add(scalar, value, variable))

    whole = mul(floordiv(rows.depth, UNROLL), UNROLL)
    if whole != 0:
        with w.loop("k", 0, w.index("whole", whole), step=UNROLL) as k:
            with w.loop("j", 0, UNROLL, unroll=True) as j:
                rank_one(k + j)
    if whole != rows.depth:
        with w.loop("k", w.index("whole", whole), rows.depth) as k:
            rank_one(k)


def over_panels(w: Writer, panels: int, units: int, body: Callable[[Dim, int], None]) -> None:
    """Calls body(first panel, how many) for groups of `units` panels and for the smaller group that may be left."""
    whole = panels // units
    if whole:
        with w.loop("group", 0, whole) as group:
            body(mul(group, units), units)
    if panels % units:
        body(whole * units, panels % units)


def panel_group(w: Writer, panels: int, units: int, group: Dim, body: Callable[[Dim, int], None]) -> None:
    """The same for one group of the partition."""
    whole = panels // units
    if panels % units == 0:
        return body(mul(group, units), units)
    if whole == 0:
        return body(0, panels)
    with w.when((whole - 1 - group,)):
        body(mul(group, units), units)
    with w.otherwise():
        body(whole * units, panels % units)


def start_tile(
    w: Writer, rows: int, units: int, accumulators: Sequence[int],
    start: Callable[[int, int, int], ast.Value],
) -> Tile:  # fmt: skip
    """Accumulators that begin at start(row, unit, accumulator)."""
    return {
        (row, unit, a): w.declare("acc", start(row, unit, a))
        for row in range(rows)
        for unit in range(units)
        for a in accumulators
    }


@dataclass(frozen=True)
class Tiling:
    """Rows cut into tiles: `whole` of `height` rows, then tiles one row lower. `whole` None: only a run knows the rows.

    So 16 rows become 6 + 5 + 5, not 6 + 6 + 4: a lower tile reads as many weights for fewer multiply-adds. Where only a
    run knows the rows, those that fill no tile are taken one by one.
    """

    rows: Dim
    height: int
    whole: int | None

    @staticmethod
    def of(rows: Dim, most: int) -> Tiling:
        """The fewest tiles of at most `most` rows."""
        if not isinstance(rows, int):
            return Tiling(rows, most, None)
        count = max(1, -(-rows // most))
        height = max(1, -(-rows // count))
        return Tiling(rows, height, count - (count * height - rows))

    @property
    def count(self) -> Dim:
        return floordiv(self.rows + (self.height - 1), self.height)

    @property
    def heights(self) -> tuple[int, ...]:
        """The heights that tiles may have."""
        if self.whole is None:
            return (self.height, 1)
        return (self.height,) if self.whole == self.count else (self.height, self.height - 1)

    def first(self, tile: Dim) -> Dim:
        """The first row of a tile; of the tile after the last: the number of rows."""
        start = mul(tile, self.height)
        if self.whole is None:
            return minimum(start, self.rows)
        return start if len(self.heights) == 1 else start - maximum(tile - self.whole, 0)

    def write(self, w: Writer, tile: Dim, body: Callable[[Dim, int], None]) -> None:
        """Writes body(first row, height) for each height, and the choice between them."""
        first = w.index("first", self.first(tile))
        if len(self.heights) == 1:
            return body(first, self.height)
        left = self.rows - first - self.height if self.whole is None else self.whole - 1 - tile
        with w.when((left,)):
            body(first, self.height)
        with w.otherwise():
            if self.whole is not None:
                return body(first, self.height - 1)
            with w.loop("row", first, minimum(first + self.height, self.rows)) as row:
                body(row, 1)
