"""Convolutions of 3x3 taps by products at points (see `winograd_plan`), as one function.

    for item (strip of blocks, share of the columns; the caller's threads share this range)
      for block of tiles
        values: the inputs of each tile at all points, to scratch memory       (once for all shares of a thread)
        for panel of columns
          for point: sums = values * taps, by the tiles of the template
          results of each tile from its sums; epilogue and store

Results that come out infinite or NaN are computed again, tap by tap: at the points, one such input would spread over
its tile, and large ones overflow earlier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from mapsto.devices.contraction.coming import Coming, Turn, asked_for
from mapsto.devices.contraction.epilogue import is_long
from mapsto.devices.contraction.form import Epilogue, TilePlace
from mapsto.devices.contraction.results import offset, stored, targets
from mapsto.devices.contraction.template import inlined_product
from mapsto.devices.contraction.toom_cook import Matrix, short_convolution, twice
from mapsto.devices.contraction.winograd_plan import SCRATCH, TAPS, WinogradPlan
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, ceildiv, floordiv, minimum, mod, mul, sym
from mapsto.loop import ast as loop
from mapsto.loop.ast import Function, Param

DIRECT = "taps"  # the parameter that holds the taps as they are: [down, across, channel, column]
_AGAIN = "again"  # the local array of a tile's results


def winograd(plan: WinogradPlan, epilogue: Epilogue) -> tuple[Function, Dim]:
    """The function of a planned convolution, and the extent of the range that its begin and end share out. Operands: A,
    taps at the points (packed, point after point), the result, further ones, others, taps as they are, scratch memory.
    """
    form = plan.form
    results = plan.edge * plan.edge * plan.lanes
    body = (
        loop.Alloc(_AGAIN, DType.F32, results),
        loop.For("item", sym("begin"), sym("end"), tuple(_Writer(plan, epilogue).item())),
    )
    own = (Param(DIRECT, DType.F32), Param(SCRATCH, DType.F32, True))
    params = (form.a, form.b, form.out, *(also.param for also in form.also), *form.others, *own)
    return Function(form.name, params, form.dims, body), plan.extent


class _Writer:
    def __init__(self, plan: WinogradPlan, epilogue: Epilogue) -> None:
        self.plan, self.form, self.epilogue = plan, plan.form, epilogue
        self.short = short_convolution(plan.edge, TAPS)
        self.type = loop.Type(DType.F32, plan.lanes)
        self._counter = 0
        self.looped = is_long(epilogue, plan.form, plan.lanes, self.fresh)

    def fresh(self, prefix: str) -> str:
        self._counter += 1
        return f"{prefix}_{self._counter}"

    # ---- the shared range ----

    def item(self) -> list[loop.Statement]:
        """A strip's blocks, for a share of the columns."""
        plan = self.plan
        strip, share = sym("strip"), sym("share")
        region = mul(sym("begin"), plan.region)  # no other call has it, and this one keeps it in its cache
        first = mul(strip, plan.blocks_of_a_strip)
        stop = minimum(add(first, plan.blocks_of_a_strip), plan.blocks)
        return [
            loop.LetIndex("strip", floordiv(sym("item"), plan.shares)),
            loop.LetIndex("share", mod(sym("item"), plan.shares)),
            loop.LetIndex("region", region),
            loop.LetIndex("again_for", mul(minimum(add(sym("item"), mul(sym("begin"), -1)), share), -1)),
            loop.For("block", first, stop, tuple(self._block())),
        ]

    def _block(self) -> list[loop.Statement]:
        plan, block = self.plan, sym("block")
        panels, share = plan.product.panels, sym("share")
        total = plan.geometry.tiles(plan.edge)
        values = self._tiles("tile", self._values)
        return [
            loop.LetIndex("first", mul(block, plan.tiles)),
            loop.LetIndex("count", minimum(plan.tiles, total - mul(block, plan.tiles))),
            # other shares of this strip that the same thread did before have left the values there
            loop.If((sym("again_for"),), (values,)),
            loop.For(
                "panel",
                floordiv(mul(share, panels), plan.shares),
                floordiv(mul(add(share, 1), panels), plan.shares),
                (*self._products(), self._tiles("tile", self._results)),
            ),
        ]

    def _tiles(self, name: str, body: Callable[[Dim, Dim], list[loop.Statement]]) -> loop.Statement:
        """A loop over the block's tiles: their number in it, and in all."""
        return loop.For(name, 0, sym("count"), tuple(body(sym(name), add(sym("first"), sym(name)))))

    def _corner(self, tile: Dim, out: list[loop.Statement]) -> tuple[tuple[Dim, ...], Dim, Dim]:
        """Outer indices of a tile, and the first row and column of its results."""
        where, edge = self.plan.geometry, self.plan.edge
        down, across = where.grid(edge)
        indices: list[Dim] = []
        rest = floordiv(tile, down * across)
        for extent in reversed(where.outer):
            indices.insert(0, mod(rest, extent))
            rest = floordiv(rest, extent)
        y, x = self.fresh("y"), self.fresh("x")
        out.append(loop.LetIndex(y, mul(mod(floordiv(tile, across), down), edge)))
        out.append(loop.LetIndex(x, mul(mod(tile, across), edge)))
        return tuple(indices), sym(y), sym(x)

    # ---- inputs to values ----

    def _values(self, number: Dim, tile: Dim) -> list[loop.Statement]:
        """The values of one tile at all points, vector by vector of channels."""
        plan, form = self.plan, self.form
        out: list[loop.Statement] = []
        outer, y, x = self._corner(tile, out)
        base = self.fresh("from")
        out.append(loop.LetIndex(base, offset(form.a_start, form.rows[:-2], outer, lambda axis: axis.a)))
        limits = plan.geometry.height + TAPS - 2, plan.geometry.width + TAPS - 2
        rows = [self._along(out, y, i, limits[0], form.rows[-2].a) for i in range(self.short.products)]
        columns = [self._along(out, x, i, limits[1], form.rows[-1].a) for i in range(self.short.products)]

        def vector(channel: Dim, at: Dim) -> list[loop.Statement]:
            body: list[loop.Statement] = []
            to, count = add(add(sym("region"), mul(number, plan.depth)), channel), self.short.products

            def column(j: int) -> list[loop.Value]:
                loads = [loop.Load(form.a.name, add(add(row, columns[j]), at), self.type) for row in rows]
                return [self._let(body, "d", load) for load in loads]

            for i, values in enumerate(self._twice(self.short.inputs, column, body)):
                for j, value in enumerate(values):
                    body.append(loop.Store(SCRATCH, add(to, (i * count + j) * plan.values_plane), value))
                body.append(loop.Fence())
            return body

        return [*out, *self._channels(sym(base), vector)]

    def _along(self, out: list[loop.Statement], start: Dim, i: int, limit: int, stride: Dim) -> Dim:
        """Where input i of a tile lies along an axis; inputs past the last one are the last one again: what becomes of
        them is not stored.
        """
        name = self.fresh("at")
        out.append(loop.LetIndex(name, mul(minimum(add(start, i), limit), stride)))
        return sym(name)

    def _channels(self, base: Dim, vector: Callable[[Dim, Dim], list[loop.Statement]]) -> list[loop.Statement]:
        """A loop over vectors of channels: (the first channel, where it lies)."""
        form, lanes = self.form, self.plan.lanes
        if not form.channel_block:
            name = self.fresh("channel")
            body = vector(sym(name), add(base, mul(sym(name), form.channel_stride)))
            return [loop.For(name, 0, self.plan.depth, tuple(body), step=lanes)]
        outer, inner = self.fresh("block"), self.fresh("channel")
        channel = add(mul(sym(outer), form.channel_block), sym(inner))
        at = add(add(base, mul(sym(outer), form.channel_block_stride)), sym(inner))
        loops = loop.For(inner, 0, form.channel_block, tuple(vector(channel, at)), step=lanes)
        return [loop.For(outer, 0, self.plan.depth // form.channel_block, (loops,))]

    def _twice(
        self, matrix: Matrix, column: Callable[[int], list[loop.Value]], out: list[loop.Statement]
    ) -> Iterator[list[loop.Value]]:
        """See `toom_cook.twice`."""
        return twice(matrix, column, out, lambda hint, value: self._let(out, hint, value), self.plan.core.has("fma"))

    # ---- products ----

    def _products(self) -> list[loop.Statement]:
        """The sums of a panel at every point."""
        plan, product = self.plan, self.plan.product
        point, panel = sym("point"), sym("panel")
        (rows,) = product.tiling.sizes
        form = replace(
            product.form,
            a_start=add(sym("region"), mul(point, plan.values_plane)),
            b_start=mul(point, plan.packing.size),
            out_start=add(self._sums_at(point), mul(mul(panel, product.tiling.width), -1)),
        )
        unit = self.fresh("unit")
        panels, units = (panel, add(panel, 1)), (sym(unit), add(sym(unit), 1))
        body = inlined_product(replace(product, form=form), panels, units, self.fresh, plan.ahead)
        before, asked = self._asked_for(sym(unit), -(-plan.tiles // rows))
        tiles = loop.For(unit, 0, ceildiv(sym("count"), rows), (*asked, *body))
        return [loop.For("point", 0, plan.points, (*before, tiles))]

    def _asked_for(self, unit: Dim, units: int) -> tuple[list[loop.Statement], list[loop.Statement]]:
        """What the tiles of the next block are read from, a share of it with each unit of the products of a panel."""
        plan, panels = self.plan, self.plan.product.panels
        coming = self._coming()
        if coming is None or not isinstance(panels, int):
            return [], []
        shared = -(-panels // plan.shares)
        panel = add(sym("panel"), mul(floordiv(mul(sym("share"), panels), plan.shares), -1))
        turn = Turn(add(mul(panel, plan.points), sym("point")), shared * plan.points, unit, units)
        return asked_for([coming], add(sym("first"), plan.tiles), plan.tiles, turn, self._let_index)

    def _coming(self) -> Coming | None:
        form, where = self.form, self.plan.geometry
        strides = (*(axis.a for axis in form.rows[:-1]), form.channel_block_stride)
        if not all(isinstance(stride, int) for stride in strides):
            return None
        *outer, down, apart = (int(stride) for stride in strides)  # type: ignore[arg-type]
        blocks = self.plan.depth // form.channel_block if form.channel_block else 1
        plane, grid = where.height * down, math.prod(where.grid(self.plan.edge))
        return Coming(form.a.name, form.a_start, where.outer, tuple(outer), blocks, apart, plane, grid)

    def _let_index(self, out: list[loop.Statement], prefix: str, value: Dim) -> Dim:
        if isinstance(value, int):
            return value
        name = self.fresh(prefix)
        out.append(loop.LetIndex(name, value))
        return sym(name)

    def _sums_at(self, point: Dim) -> Dim:
        plan = self.plan
        return add(add(sym("region"), plan.points * plan.values_plane), mul(point, plan.sums_plane))

    # ---- sums to results ----

    def _results(self, number: Dim, tile: Dim) -> list[loop.Statement]:
        """The results of one tile, vector by vector of the panel's columns."""
        plan, edge = self.plan, self.plan.edge
        out: list[loop.Statement] = []
        outer, y, x = self._corner(tile, out)
        name, width = self.fresh("vector"), plan.product.tiling.width
        lane = mul(sym(name), plan.lanes)
        column = add(mul(sym("panel"), width), lane)
        body: list[loop.Statement] = []
        at = add(add(self._sums_at(0), mul(number, width)), lane)
        count = self.short.products

        def sums(j: int) -> list[loop.Value]:
            places = [add(at, (i * count + j) * plan.sums_plane) for i in range(count)]
            return [self._let(body, "s", loop.Load(SCRATCH, place, self.type)) for place in places]

        found = [value for row in self._twice(self.short.results, sums, body) for value in row]
        mask = self._mask(column, body)
        rows = minimum(edge, add(plan.geometry.height, mul(y, -1)))
        columns = minimum(edge, add(plan.geometry.width, mul(x, -1)))
        body.append(loop.LetIndex("rows_left", rows))
        body.append(loop.LetIndex("columns_left", columns))
        odd = self._let(body, "odd", self._is_odd(found, mask, body))
        kept = [loop.Store(_AGAIN, k * plan.lanes, value) for k, value in enumerate(found)]
        again = self._over(lambda i, j: self._tap_by_tap(outer, add(y, i), add(x, j), i, j, column))
        one_by_one = (
            *kept,
            loop.If(odd, (again,)),
            self._over(lambda i, j: self._from_memory(outer, add(y, i), add(x, j), i, j, column, mask)),
        )
        if self.looped:
            return [*out, loop.For(name, 0, self._vectors(), (*body, *one_by_one))]
        at_once = [
            statement
            for k, value in enumerate(found)
            for statement in self._finished(value, outer, add(y, k // edge), add(x, k % edge), column, mask)
        ]
        whole = (sym("rows_left") - edge, sym("columns_left") - edge)
        body.append(loop.If(odd, one_by_one, (loop.If(whole, tuple(at_once), one_by_one),)))
        return [*out, loop.For(name, 0, self._vectors(), tuple(body))]

    def _vectors(self) -> Dim:
        """Of a panel's columns; those of the last one end with the stored columns."""
        plan = self.plan
        width, panels = plan.product.tiling.width, plan.product.panels
        assert isinstance(panels, int)
        last = -(-(plan.columns - (panels - 1) * width) // plan.lanes)
        full = width // plan.lanes
        is_last = floordiv(add(sym("panel"), 1), panels)
        return add(full, mul(is_last, last - full))

    def _over(self, body: Callable[[Dim, Dim], list[loop.Statement]]) -> loop.Statement:
        """A loop over those results of a tile that there are."""
        i, j = self.fresh("i"), self.fresh("j")
        inner = loop.For(j, 0, sym("columns_left"), tuple(body(sym(i), sym(j))))
        return loop.For(i, 0, sym("rows_left"), (inner,))

    def _mask(self, column: Dim, out: list[loop.Statement]) -> loop.Value | None:
        """Which lanes are columns; None: all are, in every vector."""
        plan, columns = self.plan, self.form.columns
        if columns == plan.columns and plan.columns % plan.lanes == 0:
            return None
        return self._let(out, "mask", loop.LaneMask(columns - column, loop.Type(DType.BOOL, plan.lanes)))

    def _is_odd(self, found: list[loop.Value], mask: loop.Value | None, out: list[loop.Statement]) -> loop.Value:
        """Whether any of them is infinite or NaN."""
        zero = loop.Const(0.0, self.type)
        total: loop.Value = zero
        for value in found:
            total = self._let(out, "odd", loop.Fma(value, zero, total))
        if mask is not None:
            total = loop.Select(mask, total, zero)
        return loop.ReduceLanes("any", loop.Compare("ne", total, total), loop.Type(DType.BOOL))

    def _tap_by_tap(
        self, outer: tuple[Dim, ...], y: Dim, x: Dim, i: Dim, j: Dim, column: Dim
    ) -> list[loop.Statement]:
        """One place's vector of results, as the contraction is written."""
        form, plan = self.form, self.plan
        total, down, across = self.fresh("total"), self.fresh("down"), self.fresh("across")
        base = offset(form.a_start, form.rows, (*outer, y, x), lambda axis: axis.a)
        axes = [form.window[k] for k in plan.geometry.window]
        base = add(base, add(mul(sym(down), axes[0].a), mul(sym(across), axes[1].a)))
        tap = add(mul(sym(down), TAPS), sym(across))

        def added(channel: Dim, at: Dim) -> list[loop.Statement]:
            lane = self.fresh("lane")
            row = add(mul(tap, plan.depth), add(channel, sym(lane)))
            weights = loop.Load(DIRECT, add(mul(row, plan.taps_columns), column), self.type)
            a = loop.Broadcast(loop.Load(form.a.name, add(at, sym(lane)), loop.Type(DType.F32)), self.type)
            summed = loop.Assign(total, loop.Fma(a, weights, loop.Var(total, self.type)))
            # lanes past the last channel hold zeros, whose products with an infinite tap would be NaN
            limit = minimum(plan.lanes, add(form.channels, mul(channel, -1)))
            return [loop.For(lane, 0, limit, (summed,))]

        window = loop.For(across, 0, TAPS, tuple(self._channels(base, added)))
        place = mul(add(mul(i, plan.edge), j), plan.lanes)
        return [
            loop.Declare(total, loop.Const(0.0, self.type)),
            loop.For(down, 0, TAPS, (window,)),
            loop.Store(_AGAIN, place, loop.Var(total, self.type)),
        ]

    def _from_memory(
        self,
        outer: tuple[Dim, ...],
        y: Dim,
        x: Dim,
        i: Dim,
        j: Dim,
        column: Dim,
        mask: loop.Value | None,
    ) -> list[loop.Statement]:
        """Epilogue and store of one place's vector of results, from the local array."""
        out: list[loop.Statement] = []
        place = mul(add(mul(i, self.plan.edge), j), self.plan.lanes)
        value = self._let(out, "result", loop.Load(_AGAIN, place, self.type))
        return out + self._finished(value, outer, y, x, column, mask)

    def _finished(
        self, value: loop.Value, outer: tuple[Dim, ...], y: Dim, x: Dim, column: Dim, mask: loop.Value | None
    ) -> list[loop.Statement]:
        """Epilogue and store of one place's vector of results."""
        form = self.form
        rows = (*outer, y, x)
        valid = None if mask is None else form.columns - column
        out, results = self.epilogue(value, TilePlace((), rows, column, self.plan.lanes, valid, mask, self.fresh))
        for target, result in zip(targets(form, (), rows), results, strict=False):
            out.append(stored(form, target, column, result, mask))
        return out

    def _let(self, out: list[loop.Statement], prefix: str, value: loop.Value) -> loop.Value:
        name = self.fresh(prefix)
        out.append(loop.Let(name, value))
        return loop.Var(name, value.type)


