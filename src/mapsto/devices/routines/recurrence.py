"""What the calls of one recurrent node share: sizes, packed weights, the register tile that multiplies with them.

Weights are packed in *panels* of V hidden units (V: lanes of the accumulator): [direction][panel][k][gate][V], zeros
past the last unit. A step then reads each weight once, in order, and has all gates of a unit at hand together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mapsto.devices.routines.cells import Cell
from mapsto.devices.routines.code import RoutineCall, Scratch
from mapsto.devices.routines.writer import Writer, cast, splat, split_index
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, floordiv, maximum, minimum, mul
from mapsto.ir.graph import Value
from mapsto.loop import ast

# Steps of k in one round of the inner loop: the loop's own instructions cost about a tenth of it then.
UNROLL = 4


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
        registers = 32 if self.lanes * self.element.size == 64 else 16  # x86-64: 32 with vectors of 64 bytes
        width = len(self.cell.biases) * self.units(None)
        return max(1, (registers - width - (1 if self.fused else 2)) // width)

    def units(self, rows: int | None) -> int:
        """Panels of one register tile; more for a single row, so that enough multiply-adds are in flight."""
        target = 8 if rows == 1 else 4
        return max(1, min(self.panels, target // len(self.cell.biases)))

    def batch_tile(self) -> int:
        """Batch rows that go through the steps together: as even a split as the registers allow."""
        if not isinstance(self.batch, int):
            return self.tile_rows
        blocks = max(1, -(-self.batch // self.tile_rows))
        return max(1, -(-self.batch // blocks))

    def tail_mask(self, panel: Dim) -> ast.Value | None:
        """The hidden units that a panel really has; None where all panels are full."""
        if self.hidden % self.lanes == 0:
            return None
        return ast.LaneMask(self.hidden - mul(panel, self.lanes), ast.Type(DType.BOOL, self.lanes))


# -- the register tile ----------------------------------------------------------------------------------------------

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


def over_rows(w: Writer, first: Dim, stop: Dim, rows: int, body: Callable[[Dim, int], None]) -> None:
    """Calls body(first row, how many) for `rows` rows at once where that many are left, else for each row alone."""
    if rows == 1 or (isinstance(stop, int) and stop % rows == 0):
        return body(first, rows)
    with w.when((stop - first - rows,)):
        body(first, rows)
    with w.otherwise():
        with w.loop("row", first, minimum(first + rows, stop)) as row:
            body(row, 1)


# -- packing and projection: calls of their own ---------------------------------------------------------------------


def pack_matrix(rec: Recurrence, source: Value, target: Scratch) -> RoutineCall:
    """[direction, gate*hidden, k] -> [direction][panel][k][gate][V]. Reads weights alone: constants are packed once."""
    depth, gates, lanes = source.shape[2], rec.cell.gates, rec.lanes
    w = Writer(source.shape, rec.fused)
    matrix = w.tensor("matrix", source)
    packed = w.param("packed", target.name, target.dtype, writes=True)
    with w.share("item") as item:
        direction, panel = split_index(w, item, rec.panels)
        with w.loop("k", 0, depth) as k:
            with w.loop("g", 0, gates) as gate:
                line = (direction * gates + gate) * rec.hidden + panel * lanes
                weights = ast.Load(
                    matrix, mul(line, depth) + k, ast.Type(source.dtype, lanes), depth, rec.tail_mask(panel)
                )
                to = mul(mul(mul(item, depth) + k, gates) + gate, lanes)
                w.store(packed, to, cast(weights, rec.element))
    return RoutineCall(w.function(target.name), rec.directions * rec.panels, w.operands, (target,))


def pack_bias(rec: Recurrence) -> RoutineCall:
    """B = [Wb, Rb] -> what each accumulator starts from."""
    assert rec.bias is not None
    target, lanes, count = rec.packed_bias, rec.lanes, len(rec.cell.biases)
    w = Writer([], rec.fused)
    bias = w.tensor("bias", rec.bias)
    packed = w.param("packed", target.name, target.dtype, writes=True)
    with w.share("item") as item:
        direction, panel = split_index(w, item, rec.panels)
        for accumulator, blocks in enumerate(rec.cell.biases):
            parts: list[ast.Value] = []
            for block in blocks:
                at = (direction * 2 * rec.cell.gates + block) * rec.hidden + panel * lanes
                part = ast.Load(bias, at, ast.Type(rec.bias.dtype, lanes), mask=rec.tail_mask(panel))
                parts.append(cast(part, rec.element))
            total = parts[0] if len(parts) == 1 else ast.Binary("add", parts[0], parts[1])
            w.store(packed, mul(item, count * lanes) + accumulator * lanes, total)
    return RoutineCall(w.function(target.name), rec.directions * rec.panels, w.operands, (target,))


def start_tile(
    w: Writer, rec: Recurrence, rows: int, units: int, accumulators: Sequence[int],
    start: Callable[[int, int, int], ast.Value],
) -> Tile:  # fmt: skip
    """Accumulators that begin at start(row, unit, accumulator)."""
    return {
        (row, unit, a): w.declare("acc", start(row, unit, a))
        for row in range(rows)
        for unit in range(units)
        for a in accumulators
    }


def bias_vector(rec: Recurrence, buffer: str | None, direction: Dim, panel: Dim, accumulator: int) -> ast.Value:
    """What an accumulator starts from: its packed bias, or zero."""
    if buffer is None:
        return ast.Const(0.0, rec.vector)
    count = len(rec.cell.biases)
    at = mul(mul(direction, rec.panels) + panel, count * rec.lanes) + accumulator * rec.lanes
    return ast.Load(buffer, at, rec.vector)


def project(rec: Recurrence) -> RoutineCall:
    """x W + b for every time step at once: a matrix product; rows vary fastest, so that a panel stays in the cache."""
    rows, units, gates = rec.tile_rows, rec.units(None), rec.cell.gates
    total = mul(rec.time, rec.batch)
    w = Writer(rec.x.shape, rec.fused)
    x = w.tensor("x", rec.x)
    weights = w.param("w", rec.packed_input.name, rec.element)
    bias = w.param("b", rec.packed_bias.name, rec.element) if rec.bias else None
    target = w.param("projected", rec.projected.name, rec.element, writes=True)
    blocks, groups = (total + rows - 1) // rows, -(-rec.panels // units)

    def tile_of(direction: Dim, panel: Dim, count: int, row: Dim, height: int) -> None:
        def start(row: int, unit: int, accumulator: int) -> ast.Value:
            return bias_vector(rec, bias, direction, panel + unit, accumulator)

        tile = start_tile(w, rec, height, count, range(gates), start)
        left = Rows(x, rec.x.dtype, tuple(mul(row + r, rec.inputs) for r in range(height)), rec.inputs)
        base = w.index("panel", mul(direction * rec.panels + panel, rec.input_panel))
        pairs = tuple((g, g) for g in range(gates))
        accumulate(w, tile, left, Panels(weights, base, rec.input_panel, count, gates, pairs), rec.vector)
        for (r, unit, gate), variable in tile.items():
            place = mul(mul(direction, total) + row + r, rec.panels) + panel + unit
            w.store(target, mul(place, gates * rec.lanes) + gate * rec.lanes, variable)

    with w.share("item") as item:
        rest, block = split_index(w, item, blocks)
        direction, group = split_index(w, rest, groups)
        first = w.index("first", mul(block, rows))

        def of_group(panel: Dim, count: int) -> None:
            over_rows(w, first, total, rows, lambda row, height: tile_of(direction, panel, count, row, height))

        panel_group(w, rec.panels, units, group, of_group)
    extent = mul(rec.directions * groups, blocks)
    return RoutineCall(w.function(rec.projected.name), extent, w.operands, (rec.projected,))


def clamp_length(w: Writer, rec: Recurrence, buffer: str | None, row: Dim) -> Dim:
    """Steps of a batch row, within [0, time] whatever the input says."""
    if buffer is None or rec.lengths is None:
        return rec.time
    given = w.index("given", cast(ast.Load(buffer, row, ast.Type(rec.lengths.dtype)), DType.I64))
    return w.index("length", minimum(maximum(given, 0), rec.time))
