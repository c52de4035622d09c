"""What the contraction template makes of the processor's peak, from its own cost rule of tiles: no form, no code."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

from mapsto.devices.contraction import tile_plan as rules
from mapsto.devices.contraction.core import Core
from mapsto.devices.contraction.form import adds_apart
from mapsto.devices.contraction.products import multiply
from mapsto.devices.contraction.tile import PIECE, ProductShape, Tiling, choose, tile_cycles
from mapsto.ir.dtypes import DType
from mapsto.plan.contraction_tally import Extents, TemplateShare


@functools.lru_cache(maxsize=4096)
def reach(core: Core, e: Extents, a: DType, b: DType, total: DType, out: DType) -> TemplateShare:
    """The share of the peak and the passes over the operands, for a contraction of these extents and types."""
    if not e.columns or not e.channels or not e.windows or not all(e.rows):
        return TemplateShare(1.0)
    by = multiply(core, a, b)
    interleave, staged = by.interleave, by.a is not a
    groups = -(-e.channels // interleave)
    steps = max(e.windows * groups, 1)
    widest = core.vector_bits // (8 * total.size)
    widest = min(widest, e.out_block) if e.out_block else widest
    rows = math.prod(e.rows)
    shape = ProductShape(
        None if e.open_rows else e.rows[-1],
        None if e.open_columns else e.columns,
        steps,
        PIECE if staged else e.row_bytes,
        interleave * by.b.size,
        widest,
        False,
        rows * e.columns * out.size > rules.NEAR_BYTES,
        by.a is DType.BF16,
        core.lanes(by.a) // interleave if staged else 0,
        rows == 1 and rules.is_far(e.columns * e.channels * e.windows * by.b.size),
        adds_apart(by.a, total),
    )
    tiling = choose(core, shape)
    shape = replace(shape, far=False)  # how far operands come is priced with their streams
    cycles = _cycles(core, shape, tiling, e) * math.prod(e.rows[:-1])
    instructions = 1 if core.has("fma") else 2
    ideal = rows * e.columns * steps * instructions / (core.vector_bits // (8 * total.size) * core.fma_per_cycle)
    panels = max(-(-e.columns // max(tiling.width, 1)), 1)
    bytes_a, bytes_b = rows * e.channels * a.size, e.columns * steps * shape.group_bytes
    tiles = max(e.rows[-1] // max(tiling.sizes[0], 1), 1)
    outer_rows = math.prod(e.rows[:-1])
    several = len(e.rows) > 1
    unit = tile_cycles(core, tiling.panel, tiling.sizes[0], shape) * (tiles if several else 1)
    work = rules.SharedWork(outer_rows if several else tiles, unit, panels, e.batch)
    by_rows = -(-work.units // rules.units_a_block(work, bytes_a))
    outer = rules.is_outer_by_rows(bytes_a, bytes_b, panels, by_rows)
    shares = e.batch * panels * max(rows // max(tiling.sizes[0], 1), 1)
    between_a, between_b = bytes_a + bytes_b / panels, bytes_b + bytes_a / by_rows
    if outer:
        return TemplateShare(ideal / cycles, 1.0, 0.0, by_rows, between_b, shares)
    return TemplateShare(ideal / cycles, panels, between_a, 1.0, 0.0, shares)


def _cycles(core: Core, shape: ProductShape, tiling: Tiling, e: Extents) -> float:
    """Of one row axis and all columns, for these extents, whichever of them the code knows beforehand."""
    full, rest = divmod(e.columns, max(tiling.width, 1))
    if tiling.full_panels is not None:
        full, last = tiling.full_panels, tiling.last
    else:
        last = tiling.panel if rest else ()
    if tiling.counts is not None:
        tiles = list(zip(tiling.sizes, tiling.counts, strict=True))
    else:
        tiles, left = [], e.rows[-1]
        for size in tiling.sizes:
            tiles.append((size, left // size))
            left %= size
    per_panel = sum(n * tile_cycles(core, tiling.panel, size, shape) for size, n in tiles)
    last_panel = sum(n * tile_cycles(core, last, size, shape) for size, n in tiles)
    return max(full * per_panel + last_panel, 1e-9)
