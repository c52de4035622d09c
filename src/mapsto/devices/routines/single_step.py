"""A recurrent network of one time step: x W + h R, and states straight from inputs to outputs.

No hidden unit waits for another one here, so the partition goes over groups of units too, and threads share the weights
between them: a group's columns are whole panels of both products, and all gates of its units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mapsto.devices.routines.code import RoutineCall, RoutineCode, Scratch
from mapsto.devices.routines.product import Rows, StepProduct
from mapsto.devices.routines.recurrence import Operands, Recurrence, Units, clamp_length
from mapsto.devices.routines.writer import Writer, split_index
from mapsto.ir.expr import Dim, minimum, mul
from mapsto.loop import ast as loop


def single_step(rec: Recurrence) -> RoutineCode:
    """The call that makes y, h (and c), after W and R are packed. Its partition is over directions, groups of units,
    and tiles of batch rows.
    """
    step = _SingleStep(rec, Writer([*rec.given.shape], rec.vectors.fused))
    w, tiles, groups = step.w, step.inputs.plan.units, -(-rec.panels // step.group)
    with w.share("item") as item:
        rest, tile = split_index(w, item, tiles)
        d, group = split_index(w, rest, groups)
        step.run(d, group, tile)
    extent = mul(rec.directions * groups, tiles)
    steps = RoutineCall(w.function(f"{rec.name}_step"), extent, w.operands, (step.sums,))
    return RoutineCode((*(product.packing() for product in step.products), steps))


@dataclass
class _SingleStep:
    """The operands, and the body for one tile. `d` is the direction, `b` a batch row, `p` a panel of units.

    inputs, state: the products; None where the state is zero. A row of sums has those of x, then those of the state.
    """

    rec: Recurrence
    w: Writer
    sums: Scratch = field(init=False)
    inputs: StepProduct = field(init=False)
    state: StepProduct | None = field(init=False)

    def __post_init__(self) -> None:
        rec, w = self.rec, self.w
        self.operands = Operands.declared(w, rec)
        width, gates, h0 = rec.cell.gates * rec.padded, range(rec.cell.gates), self.operands.h0
        self.sums = Scratch(f"{rec.name}_sums", rec.element, (rec.directions, rec.batch, 2 * width))
        sums = Rows("sums", rec.element, 2 * width)
        assert rec.weights is not None
        x = Rows(self.operands.given, rec.stored, rec.given.shape[2])
        self.inputs, self.state = StepProduct.of(rec, "w", rec.weights, gates, (x, sums)), None
        if h0 is not None:
            h = Rows(h0, rec.stored, rec.hidden)
            self.state = StepProduct.of(rec, "r", rec.matrix, gates, (h, sums), self.inputs)
        for product in self.products:
            product.declare(w)
        w.param("sums", self.sums.name, rec.element, writes=True)

    @property
    def products(self) -> tuple[StepProduct, ...]:
        return (self.inputs,) if self.state is None else (self.inputs, self.state)

    @property
    def group(self) -> int:
        """Panels of units that are made together."""
        gates = self.rec.cell.gates * self.rec.lanes
        widths = (product.plan.tiling.width for product in self.products)
        return min(math.lcm(gates, *widths) // gates, self.rec.panels)

    def row(self, d: Dim, b: Dim) -> Dim:
        """The row's number in h0, c0, y, h, c and in the sums."""
        return mul(d, self.rec.batch) + b

    def sums_of(self, product: StepProduct, d: Dim, b: Dim) -> Dim:
        """Where a product's sums of a row begin."""
        size = self.sums.shape[2]
        assert isinstance(size, int)
        return mul(self.row(d, b), size) + (0 if product is self.inputs else size // 2)

    def run(self, d: Dim, group: Dim, tile: Dim) -> None:
        """The products of a group of units and a tile of rows, and their new states."""
        w, rec = self.w, self.rec
        for product in self.products:
            count = -(-rec.cell.gates * rec.lanes * self.group // product.plan.tiling.width)
            columns = mul(group, count), minimum(mul(group, count) + count, product.panels)
            given = 0 if product is self.inputs else mul(self.row(d, 0), rec.hidden)
            product.write(w, d, (given, self.sums_of(product, d, 0)), columns, (tile, tile + 1))
        plan, start = self.inputs.plan, w.index("start", mul(group, self.group))
        rows, panels = (plan.first_row(tile), plan.first_row(tile + 1)), minimum(start + self.group, rec.panels)
        with w.loop("row", *rows) as b, w.loop("p", start, panels) as p, w.pooled_constants():
            self.update(Units(rec, self.operands, w, d, b, p, 0))

    def update(self, units: Units) -> None:
        """The cell's formulas for one row and one panel; a row of length 0 yields zeros, as in onnxruntime."""
        w, rec, lengths = self.w, self.rec, self.operands.lengths
        unit = _SingleUnit(self, units)
        if lengths is None:
            return rec.cell.finish(0, unit)
        with w.when((clamp_length(w, rec, lengths, units.b) - 1,)):
            rec.cell.finish(0, unit)
        with w.otherwise():
            unit.clear()


@dataclass
class _SingleUnit:
    """A cell's view of its states: reads h0 and c0, writes y, h and c."""

    step: _SingleStep
    units: Units

    @property
    def w(self) -> Writer:
        return self.step.w

    def read(self, state: str) -> loop.Value:
        return self.units.initial(state)

    def write(self, state: str, value: loop.Value) -> None:
        value = self.w.let("new", value)
        if state == "h":
            self.units.store("y", self.units.state, value)
        self.units.store(state, self.units.state, value)

    def clear(self) -> None:
        for output in ("y", "h", "c") if self.step.rec.cell.has_c else ("y", "h"):
            self.units.store(output, self.units.state, loop.Const(0.0, self.step.rec.vector))

    def given(self, gate: int) -> loop.Value:
        product, start = self._sums(self.step.inputs, gate), self.units.start(gate)
        return product if start is None else self.w.let("given", loop.Binary("add", start, product))

    def product(self, gate: int) -> loop.Value | None:
        return None if self.step.state is None else self._sums(self.step.state, gate)

    def _sums(self, product: StepProduct, gate: int) -> loop.Value:
        at = self.step.sums_of(product, self.units.d, self.units.b) + product.place(gate, self.units.p)
        return self.w.let("product", loop.Load("sums", at, self.step.rec.vector))

    def bias(self) -> loop.Value | None:
        return self.units.bias()

    def peephole(self, gate: int) -> loop.Value | None:
        return self.units.peephole(gate)
