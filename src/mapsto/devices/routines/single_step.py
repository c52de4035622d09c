"""A recurrent network of one time step: x W + h R + b in one register tile, states straight from inputs to outputs.

Nothing here waits for another hidden unit (but GRU's reset state does), so the partition goes over groups of units too,
and threads share the weights between them.
"""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.devices.routines.cells import Phase
from mapsto.devices.routines.code import RoutineCall, Scratch
from mapsto.devices.routines.recurrence import Recurrence, bias_vector, clamp_length
from mapsto.devices.routines.tile import Panels, Rows, Tiling, accumulate, over_panels, panel_group, start_tile
from mapsto.devices.routines.time_loop import peephole
from mapsto.devices.routines.writer import Writer, cast, split_index
from mapsto.ir.expr import Dim, mul
from mapsto.loop import ast


def single_step(rec: Recurrence) -> RoutineCall:
    """The call that makes y, h (and c)."""
    step = _SingleStep(rec, Writer(rec.x.shape, rec.fused))
    w, tiling = step.w, Tiling.of(rec.batch, rec.tile_rows)
    units = rec.units(tiling.height)
    groups = -(-rec.panels // units) if len(rec.cell.phases) == 1 else 1
    w.add(ast.Alloc("gates", rec.element, tiling.height * units * len(rec.cell.biases) * rec.lanes))
    with w.share("item") as item:
        rest, block = split_index(w, item, tiling.count)
        d, group = split_index(w, rest, groups)

        def tiles(b: Dim, height: int) -> None:
            if len(rec.cell.phases) == 1:
                panel_group(w, rec.panels, units, group, lambda p, count: step.tile(0, d, b, height, p, count))
                return
            for phase in range(len(rec.cell.phases)):
                over_panels(w, rec.panels, units, lambda p, count, f=phase: step.tile(f, d, b, height, p, count))  # type: ignore[misc]

        tiling.write(w, block, tiles)
    scratch = (step.temporary,) if step.temporary else ()
    return RoutineCall(w.function(f"{rec.name}_steps"), mul(rec.directions * groups, tiling.count), w.operands, scratch)


@dataclass
class _SingleStep:
    """The operands, and the body for one tile. `d` is the direction, `b` a batch row, `p` a panel."""

    rec: Recurrence
    w: Writer
    temporary: Scratch | None = None

    def __post_init__(self) -> None:
        rec, w = self.rec, self.w
        self.x = w.tensor("x", rec.x)
        self.weights = w.param("w", rec.packed_input.name, rec.element)
        self.matrix = w.param("r", rec.packed_recurrent.name, rec.element) if rec.h0 else None
        self.bias = w.param("b", rec.packed_bias.name, rec.element) if rec.bias else None
        self.lengths = w.tensor("lengths", rec.lengths) if rec.lengths else None
        self.h0 = w.tensor("h0", rec.h0) if rec.h0 else None
        self.c0 = w.tensor("c0", rec.c0) if rec.c0 else None
        self.peepholes = w.tensor("peepholes", rec.peepholes) if rec.peepholes else None
        for name, value in zip(("y", "h", "c"), rec.outputs, strict=False):
            w.tensor(name, value, writes=True)
        if rec.cell.temporaries:
            shape = (rec.directions, rec.batch, len(rec.cell.temporaries), rec.padded)
            self.temporary = Scratch(f"{rec.name}_state", rec.element, shape)
            w.param("state", self.temporary.name, rec.element, writes=True)

    def row(self, d: Dim, b: Dim) -> Dim:
        """The row's number in h0, c0, y, h, c."""
        return mul(d, self.rec.batch) + b

    def temporary_place(self, d: Dim, b: Dim, name: str) -> Dim:
        names = self.rec.cell.temporaries
        return mul(mul(self.row(d, b), len(names)) + names.index(name), self.rec.padded)

    def tile(self, number: int, d: Dim, b: Dim, height: int, p: Dim, units: int) -> None:
        """One phase for a tile of rows and panels."""
        w, rec = self.w, self.rec
        phase = self.rec.cell.phases[number]
        tile = start_tile(
            w, height, units, phase.accumulators, lambda r, u, a: bias_vector(rec, self.bias, d, p + u, a)
        )
        panel = w.index("panel", mul(d, rec.panels) + p)
        left = Rows(self.x, rec.x.dtype, tuple(mul(b + r, rec.inputs) for r in range(height)), rec.inputs)
        base = w.index("w_panel", mul(panel, rec.input_panel))
        right = Panels(self.weights, base, rec.input_panel, units, rec.cell.gates, phase.inputs)
        accumulate(w, tile, left, right, rec.vector)
        if self.matrix is not None:
            base = w.index("r_panel", mul(panel, rec.recurrent_panel))
            right = Panels(self.matrix, base, rec.recurrent_panel, units, rec.cell.gates, phase.gates)
            accumulate(w, tile, self.recurrent_rows(phase, d, b, height), right, rec.vector)
        width = len(rec.cell.biases) * rec.lanes
        for (row, unit, accumulator), variable in tile.items():
            w.store("gates", (row * units + unit) * width + accumulator * rec.lanes, variable)
        with w.loop("row", 0, height) as i, w.loop("unit", 0, units) as unit_index:
            gates = w.index("gate", mul(mul(i, units) + unit_index, width))
            with w.pooled_constants():
                self.update(number, d, w.index("b", b + i), w.index("p", p + unit_index), gates)

    def recurrent_rows(self, phase: Phase, d: Dim, b: Dim, height: int) -> Rows:
        rec = self.rec
        if phase.source == "h":
            assert self.h0 is not None
            bases = tuple(mul(self.row(d, b + r), rec.hidden) for r in range(height))
            return Rows(self.h0, rec.x.dtype, bases, rec.hidden)
        bases = tuple(self.temporary_place(d, b + r, phase.source) for r in range(height))
        return Rows("state", rec.element, bases, rec.hidden)

    def update(self, number: int, d: Dim, b: Dim, p: Dim, base: Dim) -> None:
        """The cell's formulas for one row and one panel; a row of length 0 yields zeros, as in onnxruntime."""
        w, rec = self.w, self.rec
        phase = self.rec.cell.phases[number]
        accumulators = {
            a: w.let("acc", ast.Load("gates", base + a * rec.lanes, rec.vector)) for a in phase.accumulators
        }
        unit = _SingleUnit(self, d, b, p)
        if self.lengths is None:
            rec.cell.finish(number, unit, accumulators)
            return
        with w.when((clamp_length(w, rec, self.lengths, b) - 1,)):
            rec.cell.finish(number, unit, accumulators)
        with w.otherwise():
            unit.clear()


@dataclass
class _SingleUnit:
    """A cell's view of its states: reads h0 and c0, writes y, h and c."""

    step: _SingleStep
    d: Dim
    b: Dim
    p: Dim

    @property
    def w(self) -> Writer:
        return self.step.w

    @property
    def _place(self) -> Dim:
        rec = self.step.rec
        return mul(self.step.row(self.d, self.b), rec.hidden) + mul(self.p, rec.lanes)

    def read(self, state: str) -> ast.Value:
        rec = self.step.rec
        if state in rec.cell.temporaries:
            at = self.step.temporary_place(self.d, self.b, state) + mul(self.p, rec.lanes)
            return self.w.let(state, ast.Load("state", at, self.step.rec.vector))
        buffer = self.step.h0 if state == "h" else self.step.c0
        if buffer is None:
            return ast.Const(0.0, self.step.rec.vector)
        loaded = ast.Load(buffer, self._place, ast.Type(rec.x.dtype, rec.lanes), mask=rec.tail_mask(self.p))
        return self.w.let(state, cast(loaded, rec.element))

    def write(self, state: str, value: ast.Value) -> None:
        rec = self.step.rec
        if state in rec.cell.temporaries:
            at = self.step.temporary_place(self.d, self.b, state) + mul(self.p, rec.lanes)
            self.w.store("state", at, value)
            return
        value, mask = self.w.let("new", cast(value, rec.x.dtype)), rec.tail_mask(self.p)
        if state == "h":
            self.w.store("y", self._place, value, mask)
        self.w.store(state, self._place, value, mask)

    def clear(self) -> None:
        rec = self.step.rec
        for output in ("y", "h", "c") if rec.cell.has_c else ("y", "h"):
            zero = ast.Const(0.0, ast.Type(rec.x.dtype, rec.lanes))
            self.w.store(output, self._place, zero, rec.tail_mask(self.p))

    def peephole(self, gate: int) -> ast.Value | None:
        return peephole(self.w, self.step.rec, self.step.peepholes, self.d, gate, self.p)
