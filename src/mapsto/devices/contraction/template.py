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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from mapsto.devices.contraction import nibbles, stage
from mapsto.devices.contraction.ahead import LINE, Ahead, elements_ahead
from mapsto.devices.contraction.epilogue import is_long
from mapsto.devices.contraction.form import ContractionForm, Epilogue, LoopAxis, TilePlace
from mapsto.devices.contraction.products import dot_of
from mapsto.devices.contraction.reduction import ReductionPart, division, in_slices, reduction_parts
from mapsto.devices.contraction.results import ResultPlace, offset, stored, targets
from mapsto.devices.contraction.tile_plan import TilePlan, plan_contraction
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, ceildiv, floordiv, maximum, minimum, mod, mul, sym
from mapsto.loop import ast as loop
from mapsto.loop.ast import Function

__all__ = ["ContractionForm", "Epilogue", "LoopAxis", "TilePlace", "TilePlan", "contraction", "plan_contraction"]

_STEPS = 8  # of the innermost loop in a round; 16 take more of the cache of decoded instructions, and gain nothing
_WHOLE = 16  # steps that are no loop: a channel block
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


@dataclass(frozen=True)
class _Panel:
    """A panel's vectors, its first column, the start of its B, and how many of its columns exist (None: all).

    `masks`: for each vector, which of its lanes are columns; None where all are. `slice`: None where all is one.
    """

    vectors: tuple[int, ...]
    column: Dim
    b_start: Dim
    valid: Dim | None
    masks: tuple[loop.Value | None, ...] = ()
    slice: _Slice | None = None


@dataclass(frozen=True)
class _Slice:
    """number: of a slice, of so many (count). Each tile has `pitch` elements of the array in which sums wait, the first
    ones tile `first`.
    """

    number: Dim
    count: int
    pitch: int
    first: Dim


@dataclass(frozen=True)
class _Sums:
    """Names of a tile's sums, row by row for each vector of the panel: accumulators, and what they were added to after
    each block of terms (None: there are few terms)."""

    panel: _Panel
    accumulators: list[list[str]]
    settled: list[list[str]] | None
    ahead: Ahead | None = None


class _Template:
    def __init__(
        self, plan: TilePlan, epilogue: Epilogue, fresh: Callable[[str], str] | None = None, ahead: int = 0
    ) -> None:
        self.plan, self.form, self.epilogue, self.ahead = plan, plan.form, epilogue, ahead
        self._counter = 0
        self.fresh = fresh or self._numbered
        self.looped = is_long(epilogue, plan.form, plan.tiling.panel[0], self.fresh)

    def _numbered(self, prefix: str) -> str:
        self._counter += 1
        return f"{prefix}_{self._counter}"

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
            begin = _Panel(tiling.panel, first, self._start_of_b(first), columns - first)
            return self._panel(begin, start, stop)
        last_one = full * tiling.width
        left = columns - last_one
        narrow = None if left == sum(tiling.last) else left
        last = _Panel(tiling.last, last_one, self._start_of_b(last_one), narrow)
        if full == 0:
            return self._panel(last, start, stop)
        whole = self._panel(_Panel(tiling.panel, first, self._start_of_b(first), None), start, stop)
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

    def _panel(self, panel: _Panel, start: Dim, stop: Dim) -> list[loop.Statement]:
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
        panel = replace(panel, slice=_Slice(sym(number), count, pitch, mul(start, plan.tiles_a_unit)))
        return [*out, loop.For(number, 0, count, tuple(self._units(panel, start, stop)))]

    def _units(self, panel: _Panel, start: Dim, stop: Dim) -> list[loop.Statement]:
        if len(self.form.rows) == 1:
            return self._tiles(panel, (), start, stop)
        name = self.fresh("row")
        return [loop.For(name, start, stop, tuple(self._row(panel, sym(name))))]

    def _masks(self, panel: _Panel, out: list[loop.Statement]) -> tuple[loop.Value | None, ...]:
        """The masks of a panel's vectors, named once before its loops."""
        masks: list[loop.Value | None] = []
        column = 0
        for lanes in panel.vectors:
            whole = panel.valid is None or (isinstance(panel.valid, int) and panel.valid >= column + lanes)
            if whole:
                masks.append(None)
            else:
                assert panel.valid is not None
                masks.append(self._let(out, "mask", loop.LaneMask(panel.valid - column, loop.Type(DType.BOOL, lanes))))
            column += lanes
        return tuple(masks)

    def _row(self, panel: _Panel, row: Dim) -> list[loop.Statement]:
        indices: list[Dim] = []
        if panel.slice is not None:  # tiles are counted along the last axis
            first = add(panel.slice.first, mul(row, -self.plan.tiles_a_unit))
            panel = replace(panel, slice=replace(panel.slice, first=first))
        for axis in reversed(self.form.rows[:-1]):
            indices.insert(0, mod(row, axis.extent))
            row = floordiv(row, axis.extent)
        indices[0] = add(mul(row, self.form.rows[0].extent), indices[0])  # the outermost needs no modulus
        return self._tiles(panel, tuple(indices), 0, None)

    def _tiles(self, panel: _Panel, outer: tuple[Dim, ...], start: Dim, stop: Dim | None) -> list[loop.Statement]:
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
        self, panel: _Panel, outer: tuple[Dim, ...], start: Dim, stop: Dim | None
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

    def _tile(self, panel: _Panel, rows: tuple[Dim, ...], size: int, number: Dim = 0) -> list[loop.Statement]:
        """number: of the tile in its row, or in the only row axis."""
        form = self.form
        parts = reduction_parts(form, sum(panel.vectors))
        if panel.slice is not None:
            parts = in_slices(parts, panel.slice.number, self.plan.slice)
        accumulators = [[self.fresh("acc") for _ in panel.vectors] for _ in range(size)]
        out = self._zeroed(panel, accumulators, loop.Declare)
        settled: list[list[str]] | None = None
        if form.scale is not None or any(division(form, part) for part in parts):
            settled = [[self.fresh("settled") for _ in panel.vectors] for _ in range(size)]
            out += self._zeroed(panel, settled, loop.Declare)
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
            sums = _Sums(panel, accumulators, settled, ahead)
            nests.append([*self._nest(part, sums, add(a_base, part.a_start), add(b_base, part.b_start))])
        if form.scale is not None and settled is not None:
            accumulators, settled = settled, None  # all are settled
        settling = [] if settled is None else self._added(panel, accumulators, settled)
        finish = self._finish_looped if self.looped else self._finish
        finished = finish(panel, batch, rows, accumulators)
        if panel.slice is None:
            return [*out, *itertools.chain(*nests), *settling, *finished]
        first, others = nests[0], [*itertools.chain(*nests[1:])]
        return out + first + self._in_slices(panel, number, accumulators, others, settling, finished)

    def _in_slices(
        self,
        panel: _Panel,
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

    def _asked_for(self, panel: _Panel, number: Dim, rows: tuple[Dim, ...], out: list[loop.Statement]) -> Ahead | None:
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

    def _zeroed(
        self, panel: _Panel, names: list[list[str]], by: Callable[[str, loop.Value], loop.Statement]
    ) -> list[loop.Statement]:
        types = [loop.Type(self.form.accumulator, lanes) for lanes in panel.vectors]
        return [by(name, loop.Const(0, t)) for row in names for name, t in zip(row, types, strict=True)]

    def _added(self, panel: _Panel, to: list[list[str]], others: list[list[str]]) -> list[loop.Statement]:
        out: list[loop.Statement] = []
        for names, more in zip(to, others, strict=True):
            for name, other, lanes in zip(names, more, panel.vectors, strict=True):
                t = loop.Type(self.form.accumulator, lanes)
                out.append(loop.Assign(name, loop.Binary("add", loop.Var(name, t), loop.Var(other, t))))
        return out

    def _blocks(self, part: ReductionPart, sums: _Sums, a_base: Dim, b_base: Dim) -> Iterator[loop.Statement]:
        """Block by block of those channels that have a scale in common."""
        blocks, axis = part.loops
        name, inner = self.fresh("k"), self.fresh("k")
        a, b = add(a_base, mul(sym(name), blocks.a)), add(b_base, mul(sym(name), blocks.b))
        starts = [add(a, mul(row, self.form.rows[-1].a)) for row in range(len(sums.accumulators))]
        zeroed, before = self._zeroed(sums.panel, sums.accumulators, loop.Assign), list[loop.Statement]()
        offsets = self._spread(part, starts, before) if self.form.nibbles else []
        steps = self._rounds(sums, inner, axis, b, lambda at: self._scalars(part, starts, at))
        settled = self._scaled(part, sums, sym(name), offsets)
        yield loop.For(name, 0, blocks.extent, (*before, *zeroed, *steps, *settled))

    def _spread(self, part: ReductionPart, starts: list[Dim], out: list[loop.Statement]) -> list[loop.Value]:
        """Elements of A for a block of nibbles, and what its sums are too large by, of each row."""
        form, elements = self.form, part.loops[1].extent
        if part.group < form.nibbles:
            return [self._let(out, "offset", nibbles.offset_of_cut(form.a.name, at, part.group)) for at in starts]
        assert isinstance(elements, int)
        return nibbles.spread(form.a.name, starts, elements, self.fresh, out)

    def _scalars(self, part: ReductionPart, starts: list[Dim], at: Dim) -> list[loop.Value]:
        """What is broadcast in a step: of each row, channel by channel of an element of B."""
        form, (_, axis) = self.form, part.loops
        if not form.nibbles:
            return [self._group(add(start, mul(at, axis.a)), part.group) for start in starts]
        channels, rows, elements = range(part.group), range(len(starts)), axis.extent
        if part.group < form.nibbles:
            return [nibbles.alone(form.a.name, add(start, n), n) for n in channels for start in starts]
        assert isinstance(elements, int)
        return [nibbles.multiplied(elements, row, at, n) for n in channels for row in rows]

    def _scaled(
        self, part: ReductionPart, sums: _Sums, block: Dim, offsets: list[loop.Value]
    ) -> Iterator[loop.Statement]:
        """A block's sums times their scales, added to what is settled. block: its number in this part. offsets: what
        each row's sums are too large by.
        """
        form, panel = self.form, sums.panel
        assert form.scale is not None and sums.settled is not None and isinstance(part.b_start, int)
        width = sum(panel.vectors)
        first = part.b_start // width // form.scaled * width
        at = add(mul(panel.column, form.scales), add(first, mul(block, width)))
        for position, lanes in enumerate(panel.vectors):
            t, scales = loop.Type(form.accumulator, lanes), list[loop.Statement]()
            scale = self._let(scales, "scale", loop.Load(form.scale.name, add(at, sum(panel.vectors[:position])), t))
            yield from scales
            for row, (names, totals) in enumerate(zip(sums.accumulators, sums.settled, strict=True)):
                total, own = loop.Var(totals[position], t), cast(loop.Value, loop.Var(names[position], t))
                own = loop.Binary("sub", own, loop.Broadcast(offsets[row], t)) if offsets else own
                if self.plan.core.has("fma"):
                    yield loop.Assign(total.name, loop.Fma(own, scale, total))
                else:
                    yield loop.Assign(total.name, loop.Binary("add", total, loop.Binary("mul", own, scale)))

    def _nest(self, part: ReductionPart, sums: _Sums, a_base: Dim, b_base: Dim) -> Sequence[loop.Statement]:
        if self.form.scale is not None:
            return [*self._blocks(part, sums, a_base, b_base)]
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
        if staged:
            body = list(self._pieces(sums, a, b, loops[-1][1]))
        else:
            name, axis = loops[-1] if loops else (self.fresh("k"), LoopAxis(1))
            body = list(self._rounds(sums, name, axis, b, lambda at: self._groups(sums, add(a, mul(at, axis.a)), part)))
        for name, axis in reversed(outer):
            if name == settles:
                assert sums.settled is not None
                body += self._added(sums.panel, sums.settled, sums.accumulators)
                body += self._zeroed(sums.panel, sums.accumulators, loop.Assign)
            body = [loop.For(name, 0, axis.extent, tuple(body))]
        return body

    def _groups(self, sums: _Sums, a: Dim, part: ReductionPart) -> list[loop.Value]:
        """What is broadcast in one step, of each row."""
        rows = range(len(sums.accumulators))
        return [self._group(add(a, mul(row, self.form.rows[-1].a)), part.group) for row in rows]

    def _pieces(self, sums: _Sums, a: Dim, b: Dim, axis: LoopAxis) -> Iterator[loop.Statement]:
        """A loop over dot groups that adjoin in A, piece by piece by way of the local array."""
        k, rows = self.form.interleave, len(sums.accumulators)
        for piece in stage.pieces(self.form, axis.extent, self.fresh("piece")):
            start, now = add(a, mul(piece.first, k)), sums
            if sums.ahead is not None:
                asked = add(sums.ahead.start, mul(piece.first, sums.ahead.paced(axis.b)))
                now = replace(sums, ahead=replace(sums.ahead, start=asked))
            steps = self._rounds(
                now, self.fresh("k"), replace(axis, extent=piece.groups), add(b, mul(piece.first, axis.b)),
                lambda at: [stage.group(self.form, row, at) for row in range(rows)],
            )  # fmt: skip
            body = (*stage.filled(self.plan, start, rows, mul(piece.groups, k), self.fresh), *steps)
            yield from body if piece.count == 1 else (loop.For(piece.name, 0, piece.count, body),)

    def _rounds(
        self, sums: _Sums, name: str, axis: LoopAxis, b: Dim, groups: Callable[[Dim], list[loop.Value]]
    ) -> Iterator[loop.Statement]:
        """The innermost loop, several steps a round (`_steps_a_round`): what counts and branches takes a quarter of a
        step's instructions where registers are few. groups: what a step broadcasts, given its number. Fences keep the
        loads of a step in it: moved up, they push accumulators out of the registers; a device that keeps none does a
        step a round. So do vectors of different widths: sums of the narrow ones then move from register to register,
        and one more than there are is needed.
        """
        several = self.plan.core.has("fence") and len(set(sums.panel.vectors)) == 1
        count, rest = _steps_a_round(axis.extent) if several else (1, 0)
        whole, size = floordiv(axis.extent, count), self.form.b.element.size

        kept = tuple(itertools.chain(*sums.accumulators)) if self.form.adds_apart else ()

        def round_(first: Dim, steps: int) -> Iterator[loop.Statement]:
            for number in range(steps):
                at, asked = add(first, number), None
                if sums.ahead is not None:
                    asked = sums.ahead.share(first, number, axis.b, steps, size)
                yield from (loop.Fence(kept),) if number else ()
                yield from self._step(replace(sums, ahead=asked), groups(at), add(b, mul(at, axis.b)))

        if whole == 1:
            yield from round_(0, count)
        else:
            yield loop.For(name, 0, whole, tuple(round_(mul(sym(name), count), count)))
        yield from round_(mul(whole, count), rest)

    def _step(self, sums: _Sums, groups: list[loop.Value], b: Dim) -> list[loop.Statement]:
        """One reduction step: every vector of B against the broadcast of every row's group of A."""
        form, k = self.form, self.form.interleave
        out: list[loop.Statement] = []
        if sums.ahead is not None:
            for first in range(0, sums.ahead.pace, LINE // form.b.element.size):
                out.append(loop.Prefetch(form.b.name, add(sums.ahead.start, first), level=2))
        if form.widens:
            return [*out, *self._widened_step(sums, groups, b)]
        vectors: list[loop.Value] = []
        column = 0
        for lanes, valid in zip(sums.panel.vectors, sums.panel.masks, strict=True):
            mask = None if form.b_channel_stride is None else valid  # packed B has all columns
            loaded = loop.Load(form.b.name, add(b, column * k), loop.Type(form.b.element, lanes * k), mask=mask)
            vectors.append(self._let(out, "b", loaded))
            column += lanes
        for group, names in zip(groups, sums.accumulators, strict=True):
            scalar = self._let(out, "a", group)
            for name, vector in zip(names, vectors, strict=True):
                total = loop.Var(name, loop.Type(form.accumulator, vector.type.lanes // k))
                out.append(loop.Assign(name, self._multiply(scalar, vector, total)))
        return out

    def _widened_step(self, sums: _Sums, groups: list[loop.Value], b: Dim) -> list[loop.Statement]:
        """The same where B is widened as it comes: a vector is multiplied as soon as it is, so that few wait in
        registers beside the broadcasts of a few rows.
        """
        form, rows, column = self.form, len(sums.accumulators), 0
        out: list[loop.Statement] = []
        vectors: list[loop.Value] = []
        for lanes in sums.panel.vectors if form.nibbles else ():
            word = loop.Type(form.b.element, lanes)
            vectors.append(self._let(out, "b", loop.Load(form.b.name, add(b, column), word)))
            column += lanes
        for first in range(0, len(groups), rows):
            scalars = [self._let(out, "a", group) for group in groups[first : first + rows]]
            column = 0
            for position, lanes in enumerate(sums.panel.vectors):
                if form.nibbles:
                    wide = nibbles.channel_of(vectors[position], first // rows)
                else:
                    loaded = loop.Load(form.b.name, add(b, column), loop.Type(form.b.element, lanes))
                    wide = _converted(loaded, form.accumulator)
                vector = self._let(out, "b", wide)
                for scalar, names in zip(scalars, sums.accumulators, strict=True):
                    total = loop.Var(names[position], loop.Type(form.accumulator, lanes))
                    out.append(loop.Assign(total.name, self._multiply(scalar, vector, total)))
                column += lanes
        return out

    def _let(self, out: list[loop.Statement], prefix: str, value: loop.Value) -> loop.Value:
        name = self.fresh(prefix)
        out.append(loop.Let(name, value))
        return loop.Var(name, value.type)

    def _group(self, at: Dim, group: int) -> loop.Value:
        """One channel of A as an accumulator's element, or a dot group as the 32 bits that hold it."""
        form, k = self.form, self.form.interleave
        if k == 1:
            return _converted(loop.Load(form.a.name, at, loop.Type(form.a.element)), form.accumulator)
        if form.staged is not None:
            return stage.lone_group(form, at, group)
        t = loop.Type(form.a.element, k)
        mask = None if group == k else loop.LaneMask(group, loop.Type(DType.BOOL, k))
        return loop.Bitcast(loop.Load(form.a.name, at, t, mask=mask), loop.Type(DType.I32))

    def _multiply(self, scalar: loop.Value, vector: loop.Value, total: loop.Value) -> loop.Value:
        form, lanes = self.form, total.type.lanes
        if form.interleave == 1:
            spread = loop.Broadcast(scalar, total.type)
            if form.accumulator.is_float and self.plan.core.has("fma"):
                return loop.Fma(spread, vector, total)
            return loop.Binary("add", total, loop.Binary("mul", spread, vector))
        group = loop.Bitcast(
            loop.Broadcast(scalar, loop.Type(DType.I32, lanes)), loop.Type(form.multiplied, lanes * form.interleave)
        )
        return loop.Dot(dot_of(form.multiplied), group, vector, total)

    # ---- epilogue ----

    def _finish(
        self, panel: _Panel, batch: tuple[Dim, ...], rows: tuple[Dim, ...], accumulators: list[list[str]]
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
        self, panel: _Panel, batch: tuple[Dim, ...], rows: tuple[Dim, ...], accumulators: list[list[str]]
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
            value = self._let(body, "acc", loaded)
            body += self._emit(panel, position, column, value, batch, (*rows[:-1], add(rows[-1], sym(name))))
            column += lanes
        return [*out, loop.For(name, 0, len(accumulators), tuple(body))]

    def _emit(
        self,
        panel: _Panel,
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

    def _zero_tail(self, panel: _Panel, column: int, target: ResultPlace, element: DType) -> list[loop.Statement]:
        """After the last vector: zeros to the end of its block."""
        form = self.form
        at = add(panel.column, column)
        if column != sum(panel.vectors) or not isinstance(at, int) or at % form.out_block == 0:
            return []
        where = add(mul(at // form.out_block, target.block_stride), at % form.out_block)
        t = loop.Type(element, form.out_block - at % form.out_block)
        return [loop.Store(target.name, add(target.base, where), loop.Const(0, t))]


def _steps_a_round(extent: Dim) -> tuple[int, int]:
    """How many steps of the innermost loop are written out, and how many are left after whole rounds of them: a channel
    block whole, so that it is no loop; else as many as divide the loop, or nearly `_STEPS`.
    """
    if not isinstance(extent, int):
        return 1, 0
    if extent <= _WHOLE:
        return max(extent, 1), 0
    count = next((n for n in range(_STEPS, _STEPS // 2, -1) if extent % n == 0), _STEPS)
    return count, extent % count


def _converted(value: loop.Value, element: DType) -> loop.Value:
    return value if value.type.element is element else loop.Cast(value, loop.Type(element, value.type.lanes))
