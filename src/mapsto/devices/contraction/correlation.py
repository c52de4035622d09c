"""Correlations of images at points (see `correlation_plan`), as two functions: sums at the points, and results of them.

    for item (part of the images, block of channels, block of columns; the caller's threads share this range)
      sums = 0
      for block of tiles
        values of A's and of B's tiles at all points, to scratch memory
        for point: sums += values of A^T * values of B, by the tiles of the template

    for channel (shared too), for vector of columns
      sums of all parts, added; results from them; epilogue and store

Results that come out infinite or NaN are computed again, place by place: at the points, one such element would spread
to all shifts, and large ones overflow earlier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from mapsto.devices.contraction.coming import Coming, Turn, asked_for
from mapsto.devices.contraction.correlation_plan import SUMS, CorrelationPlan, Images
from mapsto.devices.contraction.form import ContractionForm, Epilogue, TilePlace
from mapsto.devices.contraction.results import stored, targets
from mapsto.devices.contraction.template import inlined_product
from mapsto.devices.contraction.toom_cook import Matrix, short_convolution, twice
from mapsto.devices.contraction.winograd_plan import SCRATCH
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, floordiv, maximum, minimum, mod, mul, sym
from mapsto.loop import ast as loop
from mapsto.loop.ast import Function, Param
from mapsto.plan.correlation import SHIFTS

_ADDED = "added"  # the local array of a vector's sums of all parts
_RESULTS = "results"  # and of its results at all shifts
_F32 = DType.F32


class _Names:
    """Names and statements of one function."""

    def __init__(self, plan: CorrelationPlan) -> None:
        self.plan, self.form = plan, plan.form
        self.short = short_convolution(SHIFTS, plan.edge)
        self.type = loop.Type(_F32, plan.lanes)
        self._counter = 0

    def fresh(self, prefix: str) -> str:
        self._counter += 1
        return f"{prefix}_{self._counter}"

    def let(self, out: list[loop.Statement], prefix: str, value: loop.Value) -> loop.Value:
        name = self.fresh(prefix)
        out.append(loop.Let(name, value))
        return loop.Var(name, value.type)

    def twice(
        self, matrix: Matrix, column: Callable[[int], list[loop.Value]], out: list[loop.Statement]
    ) -> Iterator[list[loop.Value]]:
        """See `toom_cook.twice`."""
        return twice(matrix, column, out, lambda hint, value: self.let(out, hint, value), self.plan.core.has("fma"))

    def times(self, a: loop.Value, b: loop.Value, onto: loop.Value) -> loop.Value:
        """a * b + onto."""
        return loop.Fma(a, b, onto) if self.plan.core.has("fma") else loop.Binary("add", onto, loop.Binary("mul", a, b))

    def let_index(self, out: list[loop.Statement], prefix: str, value: Dim) -> Dim:
        if isinstance(value, int):
            return value
        name = self.fresh(prefix)
        out.append(loop.LetIndex(name, value))
        return sym(name)


def _image(operand: Images, outer: Sequence[Dim]) -> Dim:
    """Where an image begins."""
    at: Dim = operand.start
    for index, stride in zip(outer, operand.outer, strict=True):
        at = add(at, mul(index, stride))
    return at


def _channel(operand: Images, channel: Dim) -> Dim:
    """How far a channel, the first of a vector, is from the first one."""
    if not operand.block:
        return channel
    block = mul(floordiv(channel, operand.block), operand.block_stride)
    return add(block, mod(channel, operand.block))


# ---- sums at the points ----------------------------------------------------------------------------------------------


def point_sums(plan: CorrelationPlan) -> Function:
    """The function of the sums. Operands: A, B, the sums (`plan.held` of each item), scratch memory (`plan.region`)."""
    body = loop.For("item", sym("begin"), sym("end"), tuple(_Sums(plan).item()))
    params = (plan.form.a.param, plan.form.b.param, Param(SUMS, _F32, True), Param(SCRATCH, _F32, True))
    return Function("kernel", params, (), (body,))


class _Sums(_Names):
    def item(self) -> list[loop.Statement]:
        plan, across = self.plan, self.plan.column_blocks
        pairs = plan.channel_blocks * across
        first = mul(sym("part"), plan.blocks_of_a_part)
        stop = minimum(add(first, plan.blocks_of_a_part), plan.blocks)
        zero = loop.Store(SUMS, add(sym("own"), sym("i")), loop.Const(0.0, self.type))
        return [
            loop.LetIndex("part", floordiv(sym("item"), pairs)),
            loop.LetIndex("channels", mul(mod(floordiv(sym("item"), across), plan.channel_blocks), plan.channels)),
            loop.LetIndex("columns", mul(mod(sym("item"), across), plan.columns)),
            loop.LetIndex("region", mul(sym("begin"), plan.region)),  # no other call has it; items share its cache
            loop.LetIndex("own", mul(sym("item"), plan.held)),
            loop.For("i", 0, plan.held, (zero,), step=plan.lanes),
            loop.For("block", first, stop, tuple(self._block())),
        ]

    def _block(self) -> list[loop.Statement]:
        plan = self.plan
        total = plan.form.tiles(plan.edge)
        tile = sym("tile")
        out: list[loop.Statement] = [
            loop.LetIndex("first", mul(sym("block"), plan.tiles)),
            loop.LetIndex("count", minimum(plan.tiles, add(total, mul(sym("block"), -plan.tiles)))),
            loop.For("tile", 0, sym("count"), tuple(self._values(tile, add(sym("first"), tile)))),
        ]
        if total % plan.tiles:  # the last block has fewer: what is not there adds nothing
            out.append(loop.For("tile", sym("count"), plan.tiles, tuple(self._nothing(tile))))
        return [*out, loop.For("point", 0, plan.points, tuple(self._product()))]

    def _values(self, number: Dim, tile: Dim) -> list[loop.Statement]:
        """The values of one tile at all points: A's, then B's."""
        form, edge = self.form, self.plan.edge
        down, across = form.grid(edge)
        out: list[loop.Statement] = []
        rest, outer = floordiv(tile, down * across), list[Dim]()
        for extent in reversed(form.outer):
            outer.insert(0, mod(rest, extent))
            rest = floordiv(rest, extent)
        y = self.let_index(out, "y", mul(mod(floordiv(tile, across), down), edge))
        x = self.let_index(out, "x", mul(mod(tile, across), edge))
        outer = [self.let_index(out, "outer", index) for index in outer]
        return [*out, *self._values_of_a(number, outer, y, x), *self._values_of_b(number, outer, y, x)]

    def _values_of_a(self, number: Dim, outer: Sequence[Dim], y: Dim, x: Dim) -> list[loop.Statement]:
        plan, a, count = self.plan, self.form.a, self.short.products
        out: list[loop.Statement] = []
        base = self.let_index(out, "from", _image(a, outer))
        # past the last ones are these again: they meet zeros of B
        last = self.form.height + SHIFTS - 2, self.form.width + SHIFTS - 2
        rows = [self.let_index(out, "row", add(base, mul(minimum(add(y, i), last[0]), a.down))) for i in range(count)]
        columns = [self.let_index(out, "at", mul(minimum(add(x, j), last[1]), a.across)) for j in range(count)]
        to = add(sym("region"), mul(number, plan.channels))

        def vector(channel: Dim) -> list[loop.Statement]:
            body: list[loop.Statement] = []
            at = self.let_index(body, "channel", _channel(a, add(sym("channels"), channel)))

            def column(j: int) -> list[loop.Value]:
                places = [add(add(row, columns[j]), at) for row in rows]
                return [self.let(body, "a", loop.Load(a.param.name, place, self.type)) for place in places]

            self._stored(self.short.inputs, column, add(to, channel), plan.plane_a, body)
            return body

        return [*out, self._vectors(plan.channels, vector)]

    def _values_of_b(self, number: Dim, outer: Sequence[Dim], y: Dim, x: Dim) -> list[loop.Statement]:
        """Places past the last ones are zeros: they are looked for where a tile is not whole."""
        form, edge = self.form, self.plan.edge
        out: list[loop.Statement] = []
        base = self.let_index(out, "from", _image(form.b, outer))
        whole = self._panels(number, base, y, x, False)
        left = add(form.height - edge, mul(y, -1)), add(form.width - edge, mul(x, -1))
        if form.height % edge == 0 and form.width % edge == 0:
            return [*out, *whole]
        return [*out, loop.If(left, tuple(whole), tuple(self._panels(number, base, y, x, True)))]

    def _panels(self, number: Dim, base: Dim, y: Dim, x: Dim, cut: bool) -> list[loop.Statement]:
        """B's values, in the panels of the product."""
        plan = self.plan
        tiling, packing = plan.product.tiling, plan.product.packing
        full, width, last = packing.full_panels, tiling.width, sum(tiling.last)
        assert isinstance(full, int)
        start = add(sym("region"), plan.points * plan.plane_a)

        def panel(first: Dim, of: int) -> loop.Statement:
            to = add(add(start, mul(first, plan.tiles)), mul(number, of))

            def vector(column: Dim) -> list[loop.Statement]:
                body: list[loop.Statement] = []
                self._vector_of_b(add(sym("columns"), add(first, column)), add(to, column), base, y, x, cut, body)
                return body

            return self._vectors(of, vector)

        name = self.fresh("panel")
        found: list[loop.Statement] = []
        if full:
            found.append(loop.For(name, 0, full, (panel(mul(sym(name), width), width),)))
        if last:
            found.append(panel(full * width, last))
        return found

    def _vector_of_b(
        self, column: Dim, to: Dim, base: Dim, y: Dim, x: Dim, cut: bool, body: list[loop.Statement]
    ) -> None:
        plan, form = self.plan, self.form
        b, edge = form.b, plan.edge
        at = self.let_index(body, "column", add(base, _channel(b, column)))

        def place(i: int, j: int) -> loop.Value:
            where = add(at, add(mul(add(y, i), b.down), mul(add(x, j), b.across)))
            mask = None
            if cut and (i or j):
                inside = (_one_or_none(add(limit, mul(add(index, k), -1))) for limit, index, k in
                          ((form.height, y, i), (form.width, x, j)))  # fmt: skip
                lanes: Dim = plan.lanes
                for one in inside:
                    lanes = mul(lanes, one)
                mask = loop.LaneMask(lanes, loop.Type(DType.BOOL, plan.lanes))
            return self.let(body, "b", loop.Load(b.param.name, where, self.type, mask=mask))

        self._stored(self.short.taps, lambda j: [place(i, j) for i in range(edge)], to, plan.plane_b, body)

    def _stored(
        self, matrix: Matrix, column: Callable[[int], list[loop.Value]], to: Dim, plane: int, body: list[loop.Statement]
    ) -> None:
        """matrix * D * matrix^T, a plane for each element. column: loads one of D's."""
        for i, values in enumerate(self.twice(matrix, column, body)):
            for j, value in enumerate(values):
                body.append(loop.Store(SCRATCH, add(to, (i * len(matrix) + j) * plane), value))
            body.append(loop.Fence())

    def _vectors(self, extent: int, vector: Callable[[Dim], list[loop.Statement]]) -> loop.Statement:
        name = self.fresh("vector")
        return loop.For(name, 0, extent, tuple(vector(sym(name))), step=self.plan.lanes)

    def _nothing(self, number: Dim) -> list[loop.Statement]:
        """Zeros in the place of a tile's values."""
        plan = self.plan
        zero = loop.Const(0.0, self.type)
        tiling, full = plan.product.tiling, plan.product.packing.full_panels
        assert isinstance(full, int)
        last = sum(tiling.last)
        start = add(sym("region"), plan.points * plan.plane_a)

        def stored_at(first: Dim, plane: int, extent: int) -> loop.Statement:
            place = add(first, mul(sym("point"), plane))
            return self._vectors(extent, lambda at: [loop.Store(SCRATCH, add(place, at), zero)])

        panels: list[loop.Statement] = []
        if full:
            to = add(add(start, mul(sym("panel"), tiling.width * plan.tiles)), mul(number, tiling.width))
            panels.append(loop.For("panel", 0, full, (stored_at(to, plan.plane_b, tiling.width),)))
        if last:
            to = add(add(start, full * tiling.width * plan.tiles), mul(number, last))
            panels.append(stored_at(to, plan.plane_b, last))
        of_a = stored_at(add(sym("region"), mul(number, plan.channels)), plan.plane_a, plan.channels)
        return [loop.For("point", 0, plan.points, (of_a, *panels))]

    def _product(self) -> list[loop.Statement]:
        """Sums at a point, and this block's added to them."""
        plan, product, point = self.plan, self.plan.product, sym("point")
        start = add(sym("own"), mul(point, plan.channels * plan.columns))
        form = replace(
            product.form,
            a_start=add(sym("region"), mul(point, plan.plane_a)),
            b_start=add(sym("region"), add(plan.points * plan.plane_a, mul(point, plan.plane_b))),
            out_start=start,
        )

        def onto(sums: loop.Value, place: TilePlace) -> tuple[list[loop.Statement], tuple[loop.Value, ...]]:
            (row,) = place.rows
            before = loop.Load(SUMS, add(start, add(mul(row, plan.columns), place.column)), sums.type)
            return [], (loop.Binary("add", before, sums),)

        unit, panels = self.fresh("unit"), (0, product.panels)
        one = sym(unit), add(sym(unit), 1)
        made = inlined_product(replace(product, form=form), panels, one, self.fresh, epilogue=onto)
        before, asked = self._asked_for(sym(unit))
        return [*before, loop.For(unit, 0, product.units, (*asked, *made))]

    def _asked_for(self, unit: Dim) -> tuple[list[loop.Statement], list[loop.Statement]]:
        """What the tiles of the next block are read from, a share of it with each unit of the product at each point."""
        plan, units = self.plan, self.plan.product.units
        assert isinstance(units, int)
        a = self._coming(plan.form.a, sym("channels"), plan.channels)
        b = self._coming(plan.form.b, sym("columns"), plan.columns)
        turn = Turn(sym("point"), plan.points, unit, units)
        return asked_for([a, b], add(sym("first"), plan.tiles), plan.tiles, turn, self.let_index)

    def _coming(self, operand: Images, first: Dim, channels: int) -> Coming:
        form = self.form
        start, width = add(operand.start, _channel(operand, first)), operand.block or channels
        blocks, plane, grid = channels // width, form.height * operand.down, math.prod(form.grid(self.plan.edge))
        return Coming(
            operand.param.name, start, form.outer, operand.outer, blocks, operand.block_stride, plane, grid
        )


def _one_or_none(left: Dim) -> Dim:
    """1 where something is left, else 0."""
    return minimum(maximum(left, 0), 1)


# ---- results ---------------------------------------------------------------------------------------------------------


def shift_results(plan: CorrelationPlan, results: ContractionForm, epilogue: Epilogue) -> tuple[Function, Dim]:
    """The function of the results, and the extent of the range that its begin and end share out. results: where they
    lie. Operands: the result, further ones, others, A, B, the sums.
    """
    writer = _Results(plan, results, epilogue)
    lanes, points, shifts = plan.lanes, plan.points, SHIFTS * SHIFTS
    body = (
        loop.Alloc(_ADDED, _F32, points * lanes),
        loop.Alloc(_RESULTS, _F32, shifts * lanes),
        loop.For("channel", sym("begin"), sym("end"), tuple(writer.channel())),
    )
    given = (plan.form.a.param, plan.form.b.param, Param(SUMS, _F32))
    params = (results.out, *(also.param for also in results.also), *results.others, *given)
    return Function(results.name, params, results.dims, body), plan.form.channels


class _Results(_Names):
    def __init__(self, plan: CorrelationPlan, results: ContractionForm, epilogue: Epilogue) -> None:
        super().__init__(plan)
        self.results, self.epilogue = results, epilogue

    def channel(self) -> list[loop.Statement]:
        plan, channel = self.plan, sym("channel")
        column = sym("column")
        block = mul(floordiv(channel, plan.channels), plan.column_blocks)
        item = add(block, floordiv(column, plan.columns))
        place = add(mul(mod(channel, plan.channels), plan.columns), mod(column, plan.columns))
        body: list[loop.Statement] = [
            loop.LetIndex("from", add(mul(item, plan.held), place)),
            loop.For("point", 0, plan.points, tuple(self._added())),
        ]

        def sums(j: int) -> list[loop.Value]:
            count = self.short.products
            places = [(i * count + j) * plan.lanes for i in range(count)]
            return [self.let(body, "s", loop.Load(_ADDED, at, self.type)) for at in places]

        found = [value for row in self.twice(self.short.results, sums, body) for value in row]
        odd = self.let(body, "odd", self._is_odd(found, body))
        body += [loop.Store(_RESULTS, k * plan.lanes, value) for k, value in enumerate(found)]
        body.append(loop.If(odd, (self._shifts(self._place_by_place),)))
        body.append(self._shifts(self._finished))
        return [loop.For("column", 0, self.form.columns, tuple(body), step=plan.lanes)]

    def _added(self) -> list[loop.Statement]:
        """A point's sums of all parts."""
        plan = self.plan
        at = add(sym("from"), mul(sym("point"), plan.channels * plan.columns))
        at = add(at, mul(sym("part"), plan.channel_blocks * plan.column_blocks * plan.held))
        total = loop.Var("total", self.type)
        one = loop.Assign("total", loop.Binary("add", total, loop.Load(SUMS, at, self.type)))
        return [
            loop.Declare("total", loop.Const(0.0, self.type)),
            loop.For("part", 0, plan.parts, (one,)),
            loop.Store(_ADDED, mul(sym("point"), plan.lanes), total),
        ]

    def _is_odd(self, found: Sequence[loop.Value], out: list[loop.Statement]) -> loop.Value:
        """Whether any of them is infinite or NaN."""
        zero = loop.Const(0.0, self.type)
        total: loop.Value = zero
        for value in found:
            total = self.let(out, "odd", self.times(value, zero, total))
        return loop.ReduceLanes("any", loop.Compare("ne", total, total), loop.Type(DType.BOOL))

    def _shifts(self, body: Callable[[Dim, Dim], list[loop.Statement]]) -> loop.Statement:
        dy, dx = self.fresh("dy"), self.fresh("dx")
        return loop.For(dy, 0, SHIFTS, (loop.For(dx, 0, SHIFTS, tuple(body(sym(dy), sym(dx)))),))

    def _place_by_place(self, dy: Dim, dx: Dim) -> list[loop.Statement]:
        """One shift's vector of results, as the correlation is written."""
        form, total = self.form, self.fresh("total")
        names = [self.fresh("outer") for _ in form.outer]
        y, x = self.fresh("y"), self.fresh("x")
        outer = [sym(name) for name in names]
        at_a = add(_image(form.a, outer), _channel(form.a, sym("channel")))
        at_a = add(at_a, add(mul(add(sym(y), dy), form.a.down), mul(add(sym(x), dx), form.a.across)))
        at_b = add(_image(form.b, outer), _channel(form.b, sym("column")))
        at_b = add(at_b, add(mul(sym(y), form.b.down), mul(sym(x), form.b.across)))
        a = loop.Broadcast(loop.Load(form.a.param.name, at_a, loop.Type(_F32)), self.type)
        b = loop.Load(form.b.param.name, at_b, self.type)
        body: loop.Statement = loop.Assign(total, self.times(a, b, loop.Var(total, self.type)))
        axes = zip((*names, y, x), (*form.outer, form.height, form.width), strict=True)
        for name, extent in reversed(list(axes)):
            body = loop.For(name, 0, extent, (body,))
        at = mul(add(mul(dy, SHIFTS), dx), self.plan.lanes)
        return [
            loop.Declare(total, loop.Const(0.0, self.type)),
            body,
            loop.Store(_RESULTS, at, loop.Var(total, self.type)),
        ]

    def _finished(self, dy: Dim, dx: Dim) -> list[loop.Statement]:
        """Epilogue and store of one shift's vector of results."""
        plan, column = self.plan, sym("column")
        out: list[loop.Statement] = []
        at = mul(add(mul(dy, SHIFTS), dx), plan.lanes)
        value = self.let(out, "result", loop.Load(_RESULTS, at, self.type))
        rows: list[Dim] = [0] * len(self.results.rows)
        for axis, index in zip(self.form.axes, (dy, dx, sym("channel")), strict=True):
            rows[axis] = index
        place = TilePlace((), tuple(rows), column, plan.lanes, None, None, self.fresh)
        more, results = self.epilogue(value, place)
        out += more
        for target, result in zip(targets(self.results, (), tuple(rows)), results, strict=False):
            out.append(stored(self.results, target, column, result, None))
        return out
