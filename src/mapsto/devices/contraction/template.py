"""The contraction template: one loop nest for convolutions and matrix products in every number format.

    for item (batch, panel of columns, block of rows; the caller's threads share this range)
      for slice of the reduction                           where a panel is large, else all of it is one
        for row tile in the block
          accumulators = 0                                 vectors x rows of them, in registers
          for channel block, window position, dot group    one linear walk through packed B
            load the vectors of B; broadcast A for each row; multiply-add into every accumulator
            (after each block of very many terms, or of those that have a scale in common: settle what the accumulators
            hold, times that, and begin anew)
          epilogue and store; before the last slice: add to what waits in a local array

Where A is multiplied in a wider type than it lies in, the innermost loop is one over pieces: a vector conversion brings
the rows' next channels to a local array, from where they are broadcast (`stage`).

Only the register tile is unrolled. `tile` chooses its size, `packing` says how B lies in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from mapsto.devices.contraction import nibbles, stage
from mapsto.devices.contraction.ahead import Ahead, elements_ahead
from mapsto.devices.contraction.epilogue import is_long
from mapsto.devices.contraction.form import ContractionForm, Epilogue, LoopAxis, TilePlace
from mapsto.devices.contraction.reduction import ReductionPart, division, in_slices, reduction_parts
from mapsto.devices.contraction.results import ResultPlace, offset, stored, targets
from mapsto.devices.contraction.scaled import ScaledBlocks
from mapsto.devices.contraction.steps import InnerSteps
from mapsto.devices.contraction.sums import PanelSlice, TilePanel, TileSums, added, zeroed
from mapsto.devices.contraction.tile_plan import TilePlan, plan_contraction
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, ceildiv, floordiv, maximum, minimum, mod, mul, sym
from mapsto.loop import ast as loop
from mapsto.loop.ast import Function

__all__ = ["ContractionForm", "Epilogue", "LoopAxis", "TilePlace", "TilePlan", "contraction", "plan_contraction"]

_WAITING = "waiting"  # the array of sums


def contraction(plan: TilePlan, epilogue: Epilogue) -> tuple[Function, Dim]:
    """The function of a planned contraction, and the extent of the range that its begin and end share out."""
    form = plan.form
    body: tuple[loop.Statement, ...] = (
        *stage.array(plan),
        *_array_of_sums(plan),
        *((nibbles.array(max(plan.tiling.sizes), form.scaled),) if form.nibbles else ()),
        loop.For("item", sym("begin"), sym("end"), tuple(_Template(plan, epilogue, ahead=elements_ahead(plan)).item())),
    )
    scales = () if form.scale is None else (form.scale,)
    params = (form.a, form.b, form.out, *(also.param for also in form.also), *form.others, *scales)
    return Function(form.name, params, form.dims, body), plan.extent


def _array_of_sums(plan: TilePlan) -> tuple[loop.Statement, ...]:
    """Where the sums of a row block wait for the next slice, in whole vectors."""
    if not plan.slice:
        return ()
    lanes = plan.core.lanes(plan.form.accumulator)
    count = plan.tiles_a_block * max(plan.tiling.sizes) * plan.tiling.width
    return (loop.Alloc(_WAITING, plan.form.accumulator, -(-count // lanes) * lanes),)


def _as_they_are(sums: loop.Value, place: TilePlace) -> tuple[list[loop.Statement], tuple[loop.Value, ...]]:
    return [], (sums,)


def inlined_product(
    plan: TilePlan,
    panels: tuple[Dim, Dim],
    units: tuple[Dim, Dim],
    fresh: Callable[[str], str],
    ahead: int = 0,
    epilogue: Epilogue = _as_they_are,
) -> list[loop.Statement]:
    """A form without batch axes as a part of a function of somebody else's: these of its panels, and of its row tiles
    (`plan.units` of them). Its starts may name what that function has named; fresh gives names that it has not.
    epilogue: what becomes of the sums; they are stored as they are where none is given. ahead: B is asked for so many
    elements before it is read, where it is not 0.
    """
    name = fresh("panel")
    template = _Template(plan, epilogue, fresh, ahead)
    return [loop.For(name, *panels, tuple(template.panel(sym(name), *units)))]


def _numbered() -> Callable[[str], str]:
    """Names by a count of all of them."""
    numbers = itertools.count(1)
    return lambda prefix: f"{prefix}_{next(numbers)}"


class _Template:
    def __init__(
        self, plan: TilePlan, epilogue: Epilogue, fresh: Callable[[str], str] | None = None, ahead: int = 0
    ) -> None:
        self.plan, self.form, self.epilogue, self.ahead = plan, plan.form, epilogue, ahead
        self.fresh = fresh or _numbered()
        self.steps = InnerSteps(plan, self.fresh)
        self.looped = is_long(epilogue, plan.form, plan.tiling.panel[0], self.fresh)

    # ---- the shared range ----

    def item(self) -> list[loop.Statement]:
        """Split an item's number into batch, panel and row block, from outer to inner."""
        plan = self.plan
        names = [*(f"batch{i}" for i in range(len(self.form.batch)))]
        digits = list(zip(names, (axis.extent for axis in self.form.batch), strict=True))
        inner = [("panel", plan.panels), ("block", plan.blocks)]
        digits += reversed(inner) if plan.rows_outer else inner
        out: list[loop.Statement] = []
        rest: Dim = sym("item")
        for name, extent in reversed(digits):
            out.insert(0, loop.LetIndex(name, mod(rest, extent)))
            rest = floordiv(rest, extent)
        chunk, block = self.plan.chunk, sym("block")
        stop = minimum(add(mul(block, chunk), chunk), self.plan.units)
        return out + self.panel(sym("panel"), mul(block, chunk), stop)

    def panel(self, panel: Dim, start: Dim, stop: Dim) -> list[loop.Statement]:
        """The units [start, stop) of a panel."""
        tiling, pack = self.plan.tiling, self.plan.packing
        full, columns = pack.full_panels, self.form.columns
        first = mul(panel, tiling.width)
        if not isinstance(columns, int) or not isinstance(full, int):
            begin = TilePanel(tiling.panel, first, self._start_of_b(first), columns - first)
            return self._panel(begin, start, stop)
        last_one = full * tiling.width
        left = columns - last_one
        narrow = None if left == sum(tiling.last) else left
        last = TilePanel(tiling.last, last_one, self._start_of_b(last_one), narrow)
        if full == 0:
            return self._panel(last, start, stop)
        whole = self._panel(TilePanel(tiling.panel, first, self._start_of_b(first), None), start, stop)
        if not tiling.last:
            return whole
        return [loop.If((panel - full,), tuple(self._panel(last, start, stop)), tuple(whole))]

    def _start_of_b(self, column: Dim) -> Dim:
        """Where the panel with this first column begins in B."""
        form = self.form
        if form.b_channel_stride is None:
            return mul(column, self.plan.packing.column_elements)
        if not form.b_block:
            return column
        return add(mul(floordiv(column, form.b_block), form.b_block_stride), mod(column, form.b_block))

    def _panel(self, panel: TilePanel, start: Dim, stop: Dim) -> list[loop.Statement]:
        """Rows of the outer axes, then tiles along the last."""
        out: list[loop.Statement] = []
        panel = replace(panel, masks=self._masks(panel, out))
        if not self.plan.slice:
            return out + self._units(panel, start, stop)
        plan, accumulator = self.plan, self.form.accumulator
        number, at, pitch = self.fresh("slice"), self.fresh("at"), max(plan.tiling.sizes) * plan.tiling.width
        t = loop.Type(accumulator, plan.core.lanes(accumulator))
        none = loop.Store(_WAITING, mul(sym(at), t.lanes), loop.Const(0, t))
        out.append(loop.For(at, 0, ceildiv(plan.tiles_a_block * pitch, t.lanes), (none,)))
        count = plan.sliced.rounds // plan.slice
        panel = replace(panel, slice=PanelSlice(sym(number), count, pitch, mul(start, plan.tiles_a_unit)))
        return [*out, loop.For(number, 0, count, tuple(self._units(panel, start, stop)))]

    def _units(self, panel: TilePanel, start: Dim, stop: Dim) -> list[loop.Statement]:
        if len(self.form.rows) == 1:
            return self._tiles(panel, (), start, stop)
        name = self.fresh("row")
        return [loop.For(name, start, stop, tuple(self._row(panel, sym(name))))]

    def _masks(self, panel: TilePanel, out: list[loop.Statement]) -> tuple[loop.Value | None, ...]:
        """The masks of a panel's vectors, named once before its loops."""
        masks: list[loop.Value | None] = []
        column = 0
        for lanes in panel.vectors:
            whole = panel.valid is None or (isinstance(panel.valid, int) and panel.valid >= column + lanes)
            if whole:
                masks.append(None)
            else:
                assert panel.valid is not None
                mask = loop.LaneMask(panel.valid - column, loop.Type(DType.BOOL, lanes))
                masks.append(self.steps.let(out, "mask", mask))
            column += lanes
        return tuple(masks)

    def _row(self, panel: TilePanel, row: Dim) -> list[loop.Statement]:
        indices: list[Dim] = []
        if panel.slice is not None:  # tiles are counted along the last axis
            first = add(panel.slice.first, mul(row, -self.plan.tiles_a_unit))
            panel = replace(panel, slice=replace(panel.slice, first=first))
        for axis in reversed(self.form.rows[:-1]):
            indices.insert(0, mod(row, axis.extent))
            row = floordiv(row, axis.extent)
        indices[0] = add(mul(row, self.form.rows[0].extent), indices[0])  # the outermost needs no modulus
        return self._tiles(panel, tuple(indices), 0, None)

    def _tiles(self, panel: TilePanel, outer: tuple[Dim, ...], start: Dim, stop: Dim | None) -> list[loop.Statement]:
        """Tiles [start, stop) along the last row axis (None: all)."""
        tiling = self.plan.tiling
        if tiling.counts is None:
            return self._run_time_tiles(panel, outer, start, stop)
        out: list[loop.Statement] = []
        first_tile, first_row = 0, 0
        for size, count in zip(tiling.sizes, tiling.counts, strict=True):
            low, high = maximum(start, first_tile), first_tile + count
            limit = high if stop is None else minimum(stop, high)
            name = self.fresh("tile")
            row = add(mul(sym(name) - first_tile, size), first_row)
            out.append(loop.For(name, low, limit, tuple(self._tile(panel, (*outer, row), size, sym(name)))))
            first_tile, first_row = high, first_row + size * count
        return out

    def _run_time_tiles(
        self, panel: TilePanel, outer: tuple[Dim, ...], start: Dim, stop: Dim | None
    ) -> list[loop.Statement]:
        """Whole tiles, then, after the last of them, ever smaller ones for what is left."""
        sizes, extent = self.plan.tiling.sizes, self.form.rows[-1].extent
        whole = floordiv(extent, sizes[0])
        limit = whole if stop is None else minimum(stop, whole)
        name = self.fresh("tile")
        row = mul(sym(name), sizes[0])
        main = loop.For(name, start, limit, tuple(self._tile(panel, (*outer, row), sizes[0])))
        done = mul(whole, sizes[0])
        rest: list[loop.Statement] = []
        for size in sizes[1:]:
            name = self.fresh("rest")
            body = tuple(self._tile(panel, (*outer, add(done, mul(sym(name), size))), size))
            count = floordiv(extent - done, size)
            rest.append(loop.For(name, 0, count, body))
            done = add(done, mul(count, size))
        return [main, *rest] if stop is None else [main, loop.If((stop - self.plan.units,), tuple(rest))]

    # ---- one tile ----

    def _tile(self, panel: TilePanel, rows: tuple[Dim, ...], size: int, number: Dim = 0) -> list[loop.Statement]:
        """number: of the tile in its row, or in the only row axis."""
        form = self.form
        parts = reduction_parts(form, sum(panel.vectors))
        if panel.slice is not None:
            parts = in_slices(parts, panel.slice.number, self.plan.slice)
        accumulators = [[self.fresh("acc") for _ in panel.vectors] for _ in range(size)]
        out = zeroed(self.form.accumulator, panel, accumulators, loop.Declare)
        settled: list[list[str]] | None = None
        if form.scale is not None or any(division(form, part) for part in parts):
            settled = [[self.fresh("settled") for _ in panel.vectors] for _ in range(size)]
            out += zeroed(self.form.accumulator, panel, settled, loop.Declare)
        batch = tuple(sym(f"batch{i}") for i in range(len(form.batch)))
        a_base = offset(form.a_start, (*form.batch, *form.rows), (*batch, *rows), lambda axis: axis.a)
        b_base = add(offset(form.b_start, form.batch, batch, lambda axis: axis.b), panel.b_start)
        asked_for = self._asked_for(panel, number, rows, out)
        nests: list[list[loop.Statement]] = []
        for part in parts:
            ahead = None
            if asked_for is not None and panel.slice is None:
                ahead = replace(asked_for, start=add(add(b_base, asked_for.start), asked_for.paced(part.b_start)))
            elif asked_for is not None and not nests:
                ahead = replace(asked_for, start=add(add(b_base, asked_for.start), part.b_start))
            sums = TileSums(panel, accumulators, settled, ahead)
            nests.append([*self._nest(part, sums, add(a_base, part.a_start), add(b_base, part.b_start))])
        if form.scale is not None and settled is not None:
            accumulators, settled = settled, None  # all are settled
        settling = [] if settled is None else added(self.form.accumulator, panel, accumulators, settled)
        finish = self._finish_looped if self.looped else self._finish
        finished = finish(panel, batch, rows, accumulators)
        if panel.slice is None:
            return [*out, *itertools.chain(*nests), *settling, *finished]
        first, others = nests[0], [*itertools.chain(*nests[1:])]
        return out + first + self._in_slices(panel, number, accumulators, others, settling, finished)

    def _in_slices(
        self,
        panel: TilePanel,
        number: Dim,
        accumulators: list[list[str]],
        others: list[loop.Statement],
        settling: list[loop.Statement],
        finished: list[loop.Statement],
    ) -> list[loop.Statement]:
        """After a slice: with what waits, and, of the last one, with what is in no slice (others), the sums are
        finished, else they wait. number: of the tile.
        """
        assert panel.slice is not None
        is_last = (add(panel.slice.number, 1 - panel.slice.count),)
        at = mul(add(number, mul(panel.slice.first, -1)), panel.slice.pitch)
        adding: list[loop.Statement] = []
        storing: list[loop.Statement] = []
        for name, lanes in itertools.chain(*(zip(names, panel.vectors, strict=True) for names in accumulators)):
            total = loop.Var(name, loop.Type(self.form.accumulator, lanes))
            adding.append(loop.Assign(name, loop.Binary("add", total, loop.Load(_WAITING, at, total.type))))
            storing.append(loop.Store(_WAITING, at, total))
            at = add(at, lanes)
        rest: list[loop.Statement] = [loop.If(is_last, tuple(others))] if others else []
        return [*rest, *settling, *adding, loop.If(is_last, tuple(finished), tuple(storing))]

    def _asked_for(
        self, panel: TilePanel, number: Dim, rows: tuple[Dim, ...], out: list[loop.Statement]
    ) -> Ahead | None:
        """What a tile asks for while it is computed: of the lines of the panel that far ahead, the tiles of this one
        share all evenly, as a core waits for few lines at a time.
        """
        column = self.plan.packing.column_elements  # elements of it
        if not self.ahead or not isinstance(column, int):
            return None
        several, counts = len(self.form.rows) > 1, self.plan.tiling.counts
        tiles, width = sum(counts) if counts else 1, sum(panel.vectors) * self.form.interleave
        steps = self.ahead // width if self.plan.slice else column // self.form.interleave
        pace = -(-width // self._visits(tiles))
        turn = mod(add(mul(rows[-2], tiles), number) if several else number, -(-width // pace))
        name = self.fresh("ahead")
        out.append(loop.LetIndex(name, add(mul(turn, pace * steps), self.ahead)))
        return Ahead(sym(name), width, pace)

    def _visits(self, tiles: int) -> int:
        """Tiles that a panel meets one after the other, before the next panel is met. tiles: of the last row axis."""
        units, several = self.plan.units, len(self.form.rows) > 1
        if self.plan.rows_outer or self.plan.slice or not isinstance(units, int):
            units = self.plan.chunk
        return max(units * tiles if several else min(tiles, units), 1)

    def _nest(self, part: ReductionPart, sums: TileSums, a_base: Dim, b_base: Dim) -> Sequence[loop.Statement]:
        if self.form.scale is not None:
            return [*ScaledBlocks(self.steps).blocks(part, sums, a_base, b_base)]
        form, divided = self.form, division(self.form, part)
        loops = [(self.fresh("k"), axis) for axis in part.loops]
        settles = None
        if divided is not None:
            place, rounds = divided
            settles, (name, axis) = self.fresh("k"), loops[place]
            left = axis.extent - mul(sym(settles), rounds)
            whole = isinstance(axis.extent, int) and axis.extent % rounds == 0
            blocks = LoopAxis(ceildiv(axis.extent, rounds), mul(axis.a, rounds), mul(axis.b, rounds))
            block = replace(axis, extent=rounds if whole else minimum(rounds, left))
            loops[place : place + 1] = [(settles, blocks), (name, block)]
        staged = stage.is_staged(form, loops[-1][1].a if loops else None, part.group)
        outer = loops[:-1]
        axes, indices = [axis for _, axis in outer], [sym(name) for name, _ in outer]
        a = offset(a_base, axes, indices, lambda axis: axis.a)
        b = offset(b_base, axes, indices, lambda axis: axis.b)
        ahead = sums.ahead
        if ahead is not None:
            at = offset(ahead.start, axes, indices, lambda axis: ahead.paced(axis.b))
            sums = replace(sums, ahead=replace(ahead, start=at))
        steps = self.steps
        if staged:
            body = list(steps.pieces(sums, a, b, loops[-1][1]))
        else:
            name, axis = loops[-1] if loops else (self.fresh("k"), LoopAxis(1))
            body = list(
                steps.rounds(sums, name, axis, b, lambda at: steps.groups(sums, add(a, mul(at, axis.a)), part))
            )
        for name, axis in reversed(outer):
            if name == settles:
                assert sums.settled is not None
                body += added(self.form.accumulator, sums.panel, sums.settled, sums.accumulators)
                body += zeroed(self.form.accumulator, sums.panel, sums.accumulators, loop.Assign)
            body = [loop.For(name, 0, axis.extent, tuple(body))]
        return body

    # ---- epilogue ----

    def _finish(
        self, panel: TilePanel, batch: tuple[Dim, ...], rows: tuple[Dim, ...], accumulators: list[list[str]]
    ) -> list[loop.Statement]:
        """Epilogue and store of every accumulator, in the order in which they lie: a vector's rows adjoin in a blocked
        output, a row's vectors in a row-major one. Many short streams of stores cost up to 10 % where K is small."""
        places = [(position, row) for row in range(len(accumulators)) for position in range(len(panel.vectors))]
        if self.form.out_block:
            places.sort()
        out: list[loop.Statement] = []
        for position, row in places:
            value = loop.Var(accumulators[row][position], loop.Type(self.form.accumulator, panel.vectors[position]))
            column = sum(panel.vectors[:position])
            out += self._emit(panel, position, column, value, batch, (*rows[:-1], add(rows[-1], row)))
        return out

    def _finish_looped(
        self, panel: TilePanel, batch: tuple[Dim, ...], rows: tuple[Dim, ...], accumulators: list[list[str]]
    ) -> list[loop.Statement]:
        """A long epilogue is written once per vector, in a loop over the tile's rows; the accumulators wait in a
        local array."""
        out: list[loop.Statement] = []
        width, scratch = sum(panel.vectors), self.fresh("tile")
        out.append(loop.Alloc(scratch, self.form.accumulator, width * len(accumulators)))
        for row, names in enumerate(accumulators):
            column = 0
            for name, lanes in zip(names, panel.vectors, strict=True):
                out.append(
                    loop.Store(scratch, row * width + column, loop.Var(name, loop.Type(self.form.accumulator, lanes)))
                )
                column += lanes
        name = self.fresh("row")
        body: list[loop.Statement] = []
        column = 0
        for position, lanes in enumerate(panel.vectors):
            loaded = loop.Load(scratch, add(mul(sym(name), width), column), loop.Type(self.form.accumulator, lanes))
            value = self.steps.let(body, "acc", loaded)
            body += self._emit(panel, position, column, value, batch, (*rows[:-1], add(rows[-1], sym(name))))
            column += lanes
        return [*out, loop.For(name, 0, len(accumulators), tuple(body))]

    def _emit(
        self,
        panel: TilePanel,
        position: int,
        column: int,
        value: loop.Value,
        batch: tuple[Dim, ...],
        rows: tuple[Dim, ...],
    ) -> list[loop.Statement]:
        """Epilogue and store of the accumulators of one vector of the panel."""
        lanes, mask = value.type.lanes, panel.masks[position]
        valid = None if mask is None or panel.valid is None else panel.valid - column
        at = add(panel.column, column)
        out, results = self.epilogue(value, TilePlace(batch, rows, at, lanes, valid, mask, self.fresh))
        for target, result in zip(targets(self.form, batch, rows), results, strict=False):
            out.append(stored(self.form, target, at, result, mask))
            if self.form.out_block:
                out += self._zero_tail(panel, column + lanes, target, result.type.element)
        return out

    def _zero_tail(self, panel: TilePanel, column: int, target: ResultPlace, element: DType) -> list[loop.Statement]:
        """After the last vector: zeros to the end of its block."""
        form = self.form
        at = add(panel.column, column)
        if column != sum(panel.vectors) or not isinstance(at, int) or at % form.out_block == 0:
            return []
        where = add(mul(at // form.out_block, target.block_stride), at % form.out_block)
        t = loop.Type(element, form.out_block - at % form.out_block)
        return [loop.Store(target.name, add(target.base, where), loop.Const(0, t))]
