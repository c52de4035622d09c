"""What the calls of one recurrent node share: its sizes, where its operands lie, how large a register tile is.

Weights are packed in *panels* of V hidden units (V: lanes of the accumulator): [direction][panel][k][gate][V], zeros
past the last unit. A step then reads each weight once, in order, and has all gates of a unit at hand together.
"""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.devices.routines.cells import Cell
from mapsto.devices.routines.code import Scratch
from mapsto.devices.routines.writer import Writer, cast
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, maximum, minimum, mul
from mapsto.ir.graph import Value
from mapsto.loop import ast


@dataclass(frozen=True)
class Recurrence:
    """One recurrent node. Hidden units and directions are plain numbers; other sizes may be symbols."""

    name: str
    cell: Cell
    x: Value
    weights: Value
    recurrent: Value
    bias: Value | None
    lengths: Value | None
    h0: Value | None
    c0: Value | None
    peepholes: Value | None
    outputs: tuple[Value, ...]
    reverse: tuple[bool, ...]
    lanes: int
    fused: bool
    registers: int

    @property
    def time(self) -> Dim:
        return self.x.shape[0]

    @property
    def batch(self) -> Dim:
        return self.x.shape[1]

    @property
    def inputs(self) -> Dim:
        return self.x.shape[2]

    @property
    def hidden(self) -> int:
        hidden = self.recurrent.shape[2]
        assert isinstance(hidden, int)
        return hidden

    @property
    def directions(self) -> int:
        return len(self.reverse)

    @property
    def element(self) -> DType:
        """What is computed in: f64 for f64, else f32."""
        return DType.F64 if self.x.dtype is DType.F64 else DType.F32

    @property
    def vector(self) -> ast.Type:
        return ast.Type(self.element, self.lanes)

    @property
    def panels(self) -> int:
        return -(-self.hidden // self.lanes)

    @property
    def padded(self) -> int:
        """Hidden units, those of the last panel's tail included."""
        return self.panels * self.lanes

    @property
    def input_panel(self) -> Dim:
        """Elements of one panel of packed W."""
        return mul(self.inputs, self.cell.gates * self.lanes)

    @property
    def recurrent_panel(self) -> int:
        return self.hidden * self.cell.gates * self.lanes

    @property
    def packed_input(self) -> Scratch:
        shape = (self.directions, self.panels, self.inputs, self.cell.gates, self.lanes)
        return Scratch(f"{self.name}_w", self.element, shape)

    @property
    def packed_recurrent(self) -> Scratch:
        shape = (self.directions, self.panels, self.hidden, self.cell.gates, self.lanes)
        return Scratch(f"{self.name}_r", self.element, shape)

    @property
    def packed_bias(self) -> Scratch:
        shape = (self.directions, self.panels, len(self.cell.biases), self.lanes)
        return Scratch(f"{self.name}_b", self.element, shape)

    @property
    def projected(self) -> Scratch:
        """x W + b of every time step."""
        shape = (self.directions, self.time, self.batch, self.panels, self.cell.gates, self.lanes)
        return Scratch(f"{self.name}_xw", self.element, shape)

    @property
    def tile_rows(self) -> int:
        """Rows of one register tile: the registers beside a row of weights and a scalar hold accumulators."""
        width = len(self.cell.biases) * self.units(None)
        return max(1, (self.registers - width - (1 if self.fused else 2)) // width)

    def units(self, rows: int | None) -> int:
        """Panels of one register tile; more for a single row, so that enough multiply-adds are in flight."""
        target = 8 if rows == 1 else 4
        return max(1, min(self.panels, target // len(self.cell.biases)))

    def tail_mask(self, panel: Dim) -> ast.Value | None:
        """The hidden units that a panel really has; None where all panels are full."""
        if self.hidden % self.lanes == 0:
            return None
        return ast.LaneMask(self.hidden - mul(panel, self.lanes), ast.Type(DType.BOOL, self.lanes))


def bias_vector(rec: Recurrence, buffer: str | None, direction: Dim, panel: Dim, accumulator: int) -> ast.Value:
    """What an accumulator starts from: its packed bias, or zero."""
    if buffer is None:
        return ast.Const(0.0, rec.vector)
    count = len(rec.cell.biases)
    at = mul(mul(direction, rec.panels) + panel, count * rec.lanes) + accumulator * rec.lanes
    return ast.Load(buffer, at, rec.vector)


def clamp_length(w: Writer, rec: Recurrence, buffer: str | None, row: Dim) -> Dim:
    """Steps of a batch row, within [0, time] whatever the input says."""
    if buffer is None or rec.lengths is None:
        return rec.time
    given = w.index("given", cast(ast.Load(buffer, row, ast.Type(rec.lengths.dtype)), DType.I64))
    return w.index("length", minimum(maximum(given, 0), rec.time))
