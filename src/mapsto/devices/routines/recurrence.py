"""What the calls of one recurrent node share: its sizes, where its operands lie, and its units' places.

The products of a step are columns, V of them in a vector, in one of two orders. By gates, as R has them: [gate][unit].
By units, where threads share those of one step: [panel][gate][V], so that who makes some columns has all gates of their
units. A *panel* is V hidden units; the last one may have fewer.
"""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.devices.routines.cells import Cell
from mapsto.devices.routines.code import Vectors
from mapsto.devices.routines.writer import Writer, cast
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, maximum, minimum, mul
from mapsto.ir.graph import Value
from mapsto.loop import ast as loop


@dataclass(frozen=True)
class Recurrence:
    """One recurrent node. Hidden units and directions are plain numbers; other sizes may be symbols. given: x W + b, or
    x where there are `weights` for it. element: what is computed in, f64 for f64, else f32.
    """

    name: str
    cell: Cell
    given: Value
    matrix: Value
    lengths: Value | None
    h0: Value | None
    c0: Value | None
    bias: Value | None
    peepholes: Value | None
    weights: Value | None
    start: Value | None
    outputs: tuple[Value, ...]
    reverse: tuple[bool, ...]
    element: DType
    lanes: int
    vectors: Vectors

    @property
    def time(self) -> Dim:
        return self.given.shape[0]

    @property
    def batch(self) -> Dim:
        return self.given.shape[1]

    @property
    def hidden(self) -> int:
        hidden = self.matrix.shape[2]
        assert isinstance(hidden, int)
        return hidden

    @property
    def directions(self) -> int:
        return len(self.reverse)

    @property
    def stored(self) -> DType:
        """What states and results are stored in."""
        return self.matrix.dtype

    @property
    def vector(self) -> loop.Type:
        return loop.Type(self.element, self.lanes)

    @property
    def panels(self) -> int:
        return -(-self.hidden // self.lanes)

    @property
    def padded(self) -> int:
        """Hidden units, those of the last panel's tail included."""
        return self.panels * self.lanes

    def tail_mask(self, panel: Dim) -> loop.Value | None:
        """The hidden units that a panel really has; None where all panels are full."""
        if self.hidden % self.lanes == 0:
            return None
        return loop.LaneMask(self.hidden - mul(panel, self.lanes), loop.Type(DType.BOOL, self.lanes))


@dataclass(frozen=True)
class Operands:
    """The names of the parameters for a node's operands; None for what it has not."""

    given: str
    lengths: str | None
    h0: str | None
    c0: str | None
    bias: str | None
    peepholes: str | None
    start: str | None

    @staticmethod
    def declared(w: Writer, rec: Recurrence) -> Operands:
        """Declares them, and y, h (and c)."""

        def optional(name: str, value: Value | None) -> str | None:
            return None if value is None else w.tensor(name, value)

        made = Operands(
            w.tensor("given", rec.given),
            optional("lengths", rec.lengths),
            optional("h0", rec.h0),
            optional("c0", rec.c0),
            optional("bias", rec.bias),
            optional("peepholes", rec.peepholes),
            optional("start", rec.start),
        )
        for name, value in zip(("y", "h", "c"), rec.outputs, strict=False):
            w.tensor(name, value, writes=True)
        return made


@dataclass(frozen=True)
class Units:
    """One panel of units of a batch row, and what the node's operands hold for it. `time` is the step's."""

    rec: Recurrence
    operands: Operands
    w: Writer
    d: Dim
    b: Dim
    p: Dim
    time: Dim

    def given(self, gate: int) -> loop.Value:
        """x W + b of the step."""
        rec = self.rec
        row = mul(mul(self.time, rec.batch) + self.b, rec.directions) + self.d
        return self._gate(self.operands.given, row, gate)

    def start(self, gate: int) -> loop.Value | None:
        """What a gate begins with, if the node has it."""
        return None if self.operands.start is None else self._gate(self.operands.start, self.d, gate)

    def _gate(self, name: str, row: Dim, gate: int) -> loop.Value:
        rec = self.rec
        return self._row(name, rec.element, mul(mul(row, rec.cell.gates) + gate, rec.hidden), "gate")

    def bias(self) -> loop.Value | None:
        """See `cells.Unit`."""
        name, rec = self.operands.bias, self.rec
        return None if name is None else self._row(name, rec.stored, mul(self.d, rec.hidden), "bias")

    def peephole(self, gate: int) -> loop.Value | None:
        """See `cells.Unit`."""
        name, rec = self.operands.peepholes, self.rec
        return None if name is None else self._row(name, rec.stored, mul(mul(self.d, 3) + gate, rec.hidden), "peephole")

    def initial(self, state: str) -> loop.Value:
        """h0 or c0, zero where the node has none."""
        name = self.operands.h0 if state == "h" else self.operands.c0
        return loop.Const(0.0, self.rec.vector) if name is None else self._row(name, self.rec.stored, self.state, state)

    @property
    def state(self) -> Dim:
        """The start of the row in h0, c0, h, c."""
        return mul(mul(self.d, self.rec.batch) + self.b, self.rec.hidden)

    def _row(self, name: str, element: DType, start: Dim, hint: str) -> loop.Value:
        """The panel of a row of hidden units."""
        rec = self.rec
        at, mask = start + mul(self.p, rec.lanes), rec.tail_mask(self.p)
        return self.w.let(hint, cast(loop.Load(name, at, loop.Type(element, rec.lanes), mask=mask), rec.element))

    def store(self, name: str, start: Dim, value: loop.Value) -> None:
        """The panel of a row of a result."""
        at, mask = start + mul(self.p, self.rec.lanes), self.rec.tail_mask(self.p)
        self.w.store(name, at, cast(value, self.rec.stored), mask)


def clamp_length(w: Writer, rec: Recurrence, buffer: str | None, row: Dim) -> Dim:
    """Steps of a batch row, within [0, time] whatever the input says."""
    if buffer is None or rec.lengths is None:
        return rec.time
    given = w.index("given", cast(loop.Load(buffer, row, loop.Type(rec.lengths.dtype)), DType.I64))
    return w.index("length", minimum(maximum(given, 0), rec.time))
