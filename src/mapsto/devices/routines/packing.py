"""The calls before the steps of a recurrent network: weights packed into panels, x W + b of every time step at once."""

from __future__ import annotations

from mapsto.devices.routines.code import RoutineCall, Scratch
from mapsto.devices.routines.recurrence import Recurrence, bias_vector
from mapsto.devices.routines.tile import Panels, Rows, Tiling, accumulate, panel_group, start_tile
from mapsto.devices.routines.writer import Writer, cast, split_index
from mapsto.ir.expr import Dim, mul
from mapsto.ir.graph import Value
from mapsto.loop import ast


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


def project(rec: Recurrence) -> RoutineCall:
    """x W + b for every time step at once: a matrix product; rows vary fastest, so that a panel stays in the cache."""
    rows, units, gates = rec.tile_rows, rec.units(None), rec.cell.gates
    total = mul(rec.time, rec.batch)
    w = Writer(rec.x.shape, rec.fused)
    x = w.tensor("x", rec.x)
    weights = w.param("w", rec.packed_input.name, rec.element)
    bias = w.param("b", rec.packed_bias.name, rec.element) if rec.bias else None
    target = w.param("projected", rec.projected.name, rec.element, writes=True)
    tiling, groups = Tiling.of(total, rows), -(-rec.panels // units)

    def tile_of(direction: Dim, panel: Dim, count: int, row: Dim, height: int) -> None:
        def start(row: int, unit: int, accumulator: int) -> ast.Value:
            return bias_vector(rec, bias, direction, panel + unit, accumulator)

        tile = start_tile(w, height, count, range(gates), start)
        left = Rows(x, rec.x.dtype, tuple(mul(row + r, rec.inputs) for r in range(height)), rec.inputs)
        base = w.index("panel", mul(direction * rec.panels + panel, rec.input_panel))
        pairs = tuple((g, g) for g in range(gates))
        accumulate(w, tile, left, Panels(weights, base, rec.input_panel, count, gates, pairs), rec.vector)
        for (r, unit, gate), variable in tile.items():
            place = mul(mul(direction, total) + row + r, rec.panels) + panel + unit
            w.store(target, mul(place, gates * rec.lanes) + gate * rec.lanes, variable)

    with w.share("item") as item:
        rest, block = split_index(w, item, tiling.count)
        direction, group = split_index(w, rest, groups)

        def of_group(panel: Dim, count: int) -> None:
            tiling.write(w, block, lambda row, height: tile_of(direction, panel, count, row, height))

        panel_group(w, rec.panels, units, group, of_group)
    extent = mul(rec.directions * groups, tiling.count)
    return RoutineCall(w.function(rec.projected.name), extent, w.operands, (rec.projected,))
