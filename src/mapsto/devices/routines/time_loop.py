"""The steps of a recurrent network over time, from x W + b of all of them: one native loop for a share of batch rows.

States live in a scratch row for each direction and batch row: h twice (a step reads one and writes the other), c, what
the cell's phases hand on, and the products of a phase. A row whose sequence has ended is multiplied along with its
tile, and its units stay as they are.

All rows of a share take a step together, panel of weights by panel, so that weights too large for the near caches are
read once a step and not once for each tile (an LSTM of 512 units, 16 rows: 21 ms instead of 16 for 50 steps otherwise).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mapsto.devices.routines.code import RoutineCall, RoutineCode, Scratch
from mapsto.devices.routines.product import Rows, StepProduct
from mapsto.devices.routines.recurrence import Operands, Recurrence, Units, clamp_length
from mapsto.devices.routines.writer import Writer, as_value, integer, splat
from mapsto.ir.expr import Dim, maximum, minimum, mod, mul, sym
from mapsto.ir.expr_proofs import known_at_least
from mapsto.loop import ast as loop


def time_loop(rec: Recurrence) -> RoutineCode:
    """The call that makes y, h (and c), after R is packed. Its partition is over directions and tiles of batch rows."""
    over_time = _TimeLoop(rec, Writer([rec.time, rec.batch], rec.vectors.fused))
    w, tiles = over_time.w, over_time.products[0].plan.units
    with w.loop("d", 0, rec.directions) as d:
        start = w.index("start", maximum(sym("begin") - mul(d, tiles), 0))
        stop = w.index("stop", minimum(sym("end") - mul(d, tiles), tiles))
        with w.when((stop - start - 1,)):
            over_time.run(d, start, stop)
    steps = RoutineCall(w.function(f"{rec.name}_steps"), mul(rec.directions, tiles), w.operands, (over_time.state,))
    return RoutineCode((*(product.packing() for product in over_time.products), steps))


@dataclass
class _TimeLoop:
    """The operands of the loop, and its body. `d` is the direction, `b` a batch row, `p` a panel, `s` a step."""

    rec: Recurrence
    w: Writer
    slots: dict[str, int] = field(init=False)
    state: Scratch = field(init=False)
    products: list[StepProduct] = field(init=False)

    def __post_init__(self) -> None:
        rec, w = self.rec, self.w
        names = ["h", "h_next", *(["c"] if rec.cell.has_c else []), *rec.cell.temporaries, "sums"]
        self.slots = {name: i * rec.padded for i, name in enumerate(names)}
        sums = max(len(phase.gates) for phase in rec.cell.phases)
        stride = self.slots["sums"] + sums * rec.padded
        self.state = Scratch(f"{rec.name}_state", rec.element, (rec.directions, rec.batch, stride))
        rows = Rows("state", rec.element, stride)
        self.products = []
        for number, phase in enumerate(rec.cell.phases):
            made = StepProduct.of(rec, f"r{number}", rec.matrix, phase.gates, (rows, rows), *self.products[:1])
            self.products.append(made)
        self.operands = Operands.declared(w, rec)
        for product in self.products:
            product.declare(w)
        w.param("state", self.state.name, rec.element, writes=True)

    # -- places --------------------------------------------------------------------------------------------------------

    def own(self, d: Dim, b: Dim) -> Dim:
        """The start of a row's states."""
        return mul(mul(d, self.rec.batch) + b, self.state.shape[2])

    def time_of(self, d: Dim, s: Dim, length: Dim) -> Dim:
        """The time that step s of a row looks at, while it is not past the row's end."""
        if self.rec.directions == 1:
            return length - 1 - s if self.rec.reverse[0] else s
        return s + mul(d, length - 1 - s - s)

    # -- parts of the body ---------------------------------------------------------------------------------------------

    def run(self, d: Dim, start: Dim, stop: Dim) -> None:
        """All steps of the tiles [start, stop), together: a panel of weights serves every tile, then the next one."""
        w, rec, plan = self.w, self.rec, self.products[0].plan
        first, last = w.index("first", plan.first_row(start)), w.index("last", plan.first_row(stop))
        with w.loop("row", first, last) as row:
            self.begin(d, row)
        with w.loop("s", 0, self.longest(first, last)) as s:
            current = w.index("current", mul(mod(s, 2), rec.padded))
            for number, phase in enumerate(rec.cell.phases):
                source = current if phase.source == "h" else self.slots[phase.source]
                own, product = self.own(d, 0), self.products[number]
                starts = w.index("state", own + source), w.index("sums", own + self.slots["sums"])
                product.write(w, d, starts, (0, product.panels), (start, stop))
                with w.loop("row", first, last) as row:
                    self.update(_Step(d, s, current, number), row)
        with w.loop("row", first, last) as row:
            self.finish(d, row)

    def longest(self, first: Dim, stop: Dim) -> Dim:
        """Steps until the last of the rows has ended."""
        w, lengths = self.w, self.operands.lengths
        if lengths is None:
            return self.rec.time
        longest = w.declare("longest", integer(0))
        with w.loop("row", first, stop) as row:
            length = clamp_length(w, self.rec, lengths, row)
            w.assign(longest, loop.Binary("max", longest, as_value(length)))
        return w.index("steps", longest)

    def units(self, d: Dim, b: Dim, p: Dim, time: Dim) -> Units:
        return Units(self.rec, self.operands, self.w, d, b, p, time)

    def begin(self, d: Dim, b: Dim) -> None:
        """Initial states, zero where the node has none."""
        w, rec = self.w, self.rec
        with w.loop("p", 0, rec.panels) as p:
            for name in ("h", "c") if rec.cell.has_c else ("h",):
                value = self.units(d, b, p, 0).initial(name)
                w.store("state", self.own(d, b) + self.slots[name] + p * rec.lanes, value)

    def update(self, at: _Step, b: Dim) -> None:
        """The cell's formulas for one row, unless it has ended."""
        w, rec = self.w, self.rec
        length = clamp_length(w, rec, self.operands.lengths, b)

        def panels() -> None:
            time = w.index("time", self.time_of(at.d, at.s, length))
            with w.loop("p", 0, rec.panels) as p, w.pooled_constants():
                rec.cell.finish(at.phase, _LoopUnit(self, at, self.units(at.d, b, p, time)))

        if self.operands.lengths is None:
            return panels()
        with w.when((length - 1 - at.s,)):
            panels()

    def finish(self, d: Dim, b: Dim) -> None:
        """Final states to h and c; zeros to y after the row's end."""
        w, rec = self.w, self.rec
        length = clamp_length(w, rec, self.operands.lengths, b)
        last = w.index("last", mul(mod(length, 2), rec.padded))
        places = {"h": last, "c": self.slots["c"]} if rec.cell.has_c else {"h": last}
        with w.loop("p", 0, rec.panels) as p:
            units = self.units(d, b, p, 0)
            for name, slot in places.items():
                value: loop.Value = loop.Load("state", self.own(d, b) + slot + p * rec.lanes, rec.vector)
                if not known_at_least(length, 1):  # no step at all gives zeros, as in onnxruntime
                    stepped = splat(loop.Compare("gt", as_value(length), integer(0)), rec.lanes)
                    value = loop.Select(stepped, value, loop.Const(0.0, rec.vector))
                units.store(name, units.state, value)
            if self.operands.lengths is not None:
                with w.loop("time", length, rec.time) as time:
                    units.store("y", self.y_row(d, b, time), loop.Const(0.0, rec.vector))

    def y_row(self, d: Dim, b: Dim, time: Dim) -> Dim:
        return mul(mul(mul(time, self.rec.directions) + d, self.rec.batch) + b, self.rec.hidden)


@dataclass(frozen=True)
class _Step:
    """Step s of direction d in one phase; `current` is the slot of h that the step reads."""

    d: Dim
    s: Dim
    current: Dim
    phase: int


@dataclass
class _LoopUnit:
    """A cell's view of its states: reads the current h, writes the next one and y."""

    over_time: _TimeLoop
    at: _Step
    units: Units

    @property
    def w(self) -> Writer:
        return self.over_time.w

    def _load(self, hint: str, slot: Dim) -> loop.Value:
        return self.w.let(hint, loop.Load("state", self._place(slot), self.over_time.rec.vector))

    def _place(self, slot: Dim) -> Dim:
        return self.over_time.own(self.at.d, self.units.b) + slot + mul(self.units.p, self.over_time.rec.lanes)

    def read(self, state: str) -> loop.Value:
        return self._load(state, self.at.current if state == "h" else self.over_time.slots[state])

    def write(self, state: str, value: loop.Value) -> None:
        if state != "h":
            self.w.store("state", self._place(self.over_time.slots[state]), value)
            return
        value = self.w.let("h_new", value)
        self.w.store("state", self._place(self.over_time.rec.padded - self.at.current), value)
        self.units.store("y", self.over_time.y_row(self.at.d, self.units.b, self.units.time), value)

    def given(self, gate: int) -> loop.Value:
        return self.units.given(gate)

    def product(self, gate: int) -> loop.Value | None:
        place = self.over_time.products[self.at.phase].place(gate, self.units.p)
        at = self.over_time.own(self.at.d, self.units.b) + self.over_time.slots["sums"] + place
        return self.w.let("product", loop.Load("state", at, self.over_time.rec.vector))

    def bias(self) -> loop.Value | None:
        return self.units.bias()

    def peephole(self, gate: int) -> loop.Value | None:
        return self.units.peephole(gate)
