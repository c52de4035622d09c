"""The products of a step, the state times R and x W, by the contraction template: plans, and matrices packed for
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mapsto.devices.contraction.packing import Packing
from mapsto.devices.contraction.template import ContractionForm, LoopAxis, TilePlan, inlined_product
from mapsto.devices.contraction.tile import Tiling
from mapsto.devices.routines.code import RoutineKernel, Scratch
from mapsto.devices.routines.recurrence import Recurrence
from mapsto.devices.routines.writer import Writer
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, floordiv, mod, mul, sym
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Cast, Const, Iter, Load, Scalar, Stmt, Where
from mapsto.loop.ast import Param

_LEAST_ROWS = 4  # of a tile, if a batch has them: fewer read as many weights for less
_TILES = 4  # of a batch, at least
_LEAST_VECTORS = 4  # of a panel that may meet one row


@dataclass(frozen=True)
class Rows:
    """Rows of what is multiplied, or of sums, in a buffer, `stride` elements apart."""

    buffer: str
    element: DType
    stride: Dim


@dataclass(frozen=True)
class StepProduct:
    """Rows of the state, or of x, times some gates of a matrix [direction, gate*hidden, k]: `count` of them, from
    `first` on. by_units: the order of its columns (see `recurrence`).
    """

    rec: Recurrence
    plan: TilePlan
    matrix: Value
    first: int
    count: int
    by_units: bool
    packed: Scratch

    @staticmethod
    def of(
        rec: Recurrence,
        name: str,
        matrix: Value,
        gates: range,
        rows: tuple[Rows, Rows],
        alike: StepProduct | None = None,
    ) -> StepProduct:
        """rows: what is multiplied, and the sums. alike: a product that it shall have the row tiles of."""
        given, sums = rows
        by_units = rec.weights is not None
        form = ContractionForm(
            name="product",
            a=Param(given.buffer, given.element),
            b=Param(name, rec.element),
            out=Param(sums.buffer, sums.element, True),
            accumulator=rec.element,
            columns=len(gates) * (rec.padded if by_units else rec.hidden),
            rows=(LoopAxis(rec.batch, given.stride, 0, sums.stride),),
            channels=matrix.shape[2],
        )
        plan = rec.vectors.tiled(form, _allowed(form, rec.lanes, alike))
        packed = Scratch(f"{rec.name}_{name}", rec.element, (rec.directions, plan.packing.size))
        return StepProduct(rec, plan, matrix, gates.start, len(gates), by_units, packed)

    @property
    def panels(self) -> int:
        panels = self.plan.panels
        assert isinstance(panels, int)
        return panels

    def place(self, gate: int, panel: Dim) -> Dim:
        """Where the sums of a panel of units begin in their row."""
        rec, number = self.rec, gate - self.first
        if self.by_units:
            return mul(mul(panel, self.count) + number, rec.lanes)
        return number * rec.hidden + mul(panel, rec.lanes)

    def declare(self, w: Writer) -> None:
        w.param(self.plan.form.b.name, self.packed.name, self.packed.dtype)

    def write(
        self, w: Writer, d: Dim, starts: tuple[Dim, Dim], panels: tuple[Dim, Dim], tiles: tuple[Dim, Dim]
    ) -> None:
        """Sums of direction d for some panels of columns and tiles of rows. starts: of row 0 in what is multiplied and
        in the sums.
        """
        size = self.packed.shape[1]
        form = replace(self.plan.form, a_start=starts[0], b_start=mul(d, size), out_start=starts[1])
        w.add(*inlined_product(replace(self.plan, form=form), panels, tiles, w.fresh))

    def packing(self) -> RoutineKernel:
        """The matrix as the template reads it; zeros in columns that are no unit."""
        packing, made = self.plan.packing, []
        full, width = packing.full_panels, packing.panel
        assert isinstance(full, int)
        if full:
            made.append(self._panels_of(packing, 0, full, width))
        if packing.last:
            made.append(self._panels_of(packing, full * width, 1, packing.last))
        return RoutineKernel(tuple(made), self.packed)

    def _panels_of(self, packing: Packing, first: int, panels: int, width: int) -> Stmt:
        """Panels of one width from column `first` on: [panel][k][column]."""
        rec, depth = self.rec, self.matrix.shape[2]
        d, p, k = Iter("d", rec.directions), Iter("p", panels), Iter("k", depth)
        j = Iter("j", width)
        column = first + mul(sym(p.name), width) + sym(j.name)
        row, inside = self._row_of(column)
        loaded: Scalar = Load(self.matrix.name, (sym(d.name), row, sym(k.name)), rec.stored)
        if rec.stored is not rec.element:
            loaded = Cast(loaded, rec.element)
        place = mul(depth, first) + mul(mul(sym(p.name), depth) + sym(k.name), width) + sym(j.name)
        value = Where((inside,), loaded, Const(0.0, rec.element))
        return Stmt(self.packed.name, rec.element, (d, p, k, j), value, (sym(d.name), place))

    def _row_of(self, column: Dim) -> tuple[Dim, Dim]:
        """R's row for a column; at least 0 where there is one."""
        rec = self.rec
        if not self.by_units:
            return self.first * rec.hidden + column, self.count * rec.hidden - 1 - column
        vector = floordiv(column, rec.lanes)
        unit = mul(floordiv(vector, self.count), rec.lanes) + mod(column, rec.lanes)
        return mul(self.first + mod(vector, self.count), rec.hidden) + unit, rec.hidden - 1 - unit


def _allowed(form: ContractionForm, lanes: int, alike: StepProduct | None) -> Callable[[Tiling], bool]:
    """Tilings with the row tiles of an earlier product; else those that cut a batch into several tiles, which threads
    share. An open batch is often one row, where the vectors of a panel must keep enough additions in flight.
    """
    rows, columns = form.rows[-1].extent, form.columns
    assert isinstance(columns, int)
    most = max(_LEAST_ROWS, -(-rows // _TILES)) if isinstance(rows, int) else _LEAST_ROWS
    least = 1 if isinstance(rows, int) else min(_LEAST_VECTORS, -(-columns // lanes))

    def allowed(tiling: Tiling) -> bool:
        if alike is None:
            return tiling.sizes[0] <= most and len(tiling.panel) >= least
        other = alike.plan.tiling
        return (tiling.sizes, tiling.counts) == (other.sizes, other.counts)

    return allowed
