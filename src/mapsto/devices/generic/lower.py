"""From a kernel to a function in the loop language: the parts of the kernel share one range that threads divide.

The range of a part counts its rows (or vectors of rows); the parts' ranges are laid end to end, so any share [begin,
end) of the sum is a share of each part. What a part computes for a row never depends on the share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from mapsto.devices.generic.blocks import Blocks, Waiting, blocks_of
from mapsto.devices.generic.body import Body
from mapsto.devices.generic.border import zero_segments
from mapsto.devices.generic.context import Lane, Operand, Tensors
from mapsto.devices.generic.cost import SegmentCosts, Vector
from mapsto.devices.generic.crossing import Tile, tile_of, widest
from mapsto.devices.generic.exactness import rounded_tensors
from mapsto.devices.generic.flat import FlatSegment, reductions
from mapsto.devices.generic.interior import guard_free
from mapsto.devices.generic.processor import Processor
from mapsto.devices.generic.scalar import Emitter
from mapsto.devices.generic.schedule import (
    KernelPart,
    RowSchedule,
    VectorAxis,
    near_tensors,
    prepare,
    sorted_rows,
    tile_height,
    vector_rows,
    walked,
)  # fmt: skip
from mapsto.devices.generic.scope import Code
from mapsto.devices.generic.staging import stage
from mapsto.devices.generic.temps import Temps
from mapsto.devices.generic.tiles import TileBody, arrays_of
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, ceildiv, floordiv, maximum, minimum, mod, product, sym, symbols
from mapsto.kernel.ast import Iter, Kernel, Op, Where, walk
from mapsto.loop import ast as loop
from mapsto.loop.ast import Function, Param
from mapsto.plan.layout import Layout
from mapsto.plan.loop_forms import lanes_for

# Bounds on how much code one kernel is. Up to this many scalar operations the tail of a row vector gets code of its
# own; beyond, all vectors run under a mask.
_SMALL_BODY = 40
# Up to this many rows at the ends of a row of windows have code of their own each.
_FEW_EDGES = 6
# Up to this many, rows where guards matter are kept apart from those where they do not.
_LARGE_BODY = 120


def lower(
    kernel: Kernel, layouts: Mapping[str, Layout], schedule: RowSchedule, name: str, processor: Processor
) -> tuple[Function, Dim]:
    """The kernel as a function, and the extent of the range that threads share.

    Parameters: the inputs, the outputs, then the temporaries that `scratch_temps` names.
    """
    kernel = walked(kernel, schedule)
    parts = prepare(kernel, layouts, schedule, processor)
    lanes = max((p.schedule.lanes for p in parts), default=1)
    writer = _Writer(kernel, layouts, parts, name, processor.with_lanes(lanes))
    for part in parts:
        writer.part(part)
    for tensor in kernel.outputs:
        writer.zeros(tensor.name, tensor.dtype)
    return writer.function(), writer.extent


def zero_borders(
    tensor: str, dtype: DType, layout: Layout, processor: Processor, name: str
) -> tuple[Function, Dim]:
    """A function that writes the zeros of a layout (border and tail) and nothing else."""
    from mapsto.kernel.ast import Tensor

    kernel = Kernel(name, (), (Tensor(tensor, dtype, layout.shape),), (), ())
    writer = _Writer(kernel, {tensor: layout}, (), name, processor)
    writer.zeros(tensor, dtype)
    return writer.function(), writer.extent


class _Writer:
    """The function under construction."""

    def __init__(
        self,
        kernel: Kernel,
        layouts: Mapping[str, Layout],
        parts: tuple[KernelPart, ...],
        name: str,
        processor: Processor,
    ) -> None:
        self.kernel = kernel
        self.layouts = layouts
        self.name = name
        self.extent: Dim = 0
        self.processor = processor
        self.filled: set[str] = set()
        self.rounded = rounded_tensors(kernel.stmts)
        scratch = [t for p in parts for t in p.temps.buffers]
        dtypes = {t.name: t.dtype for t in (*kernel.inputs, *kernel.outputs, *kernel.temps)}
        taken: set[str] = {"begin", "end", *_names(parts, layouts)}
        plain = {t for t in dtypes if t.isidentifier() and t.isascii() and t not in taken}
        self.code = Code(taken | plain)
        self.params: list[Param] = []
        self.operands: dict[str, Operand] = {}
        written = {t.name for t in kernel.outputs} | set(scratch)
        for tensor in (*(t.name for t in kernel.inputs), *(t.name for t in kernel.outputs), *scratch):
            param = Param(
                tensor if tensor in plain else self.code.fresh(_identifier(tensor)), dtypes[tensor], tensor in written
            )
            self.params.append(param)
            self.operands[tensor] = Operand(param.name, dtypes[tensor])

    def function(self) -> Function:
        body = tuple(self.code.scopes[0].statements)
        used, defined = _symbols(body)
        dims = sorted(used - defined - {"begin", "end"})
        return Function(self.name, tuple(self.params), tuple(dims), body)

    # ---- parts ----

    def part(self, part: KernelPart) -> None:
        if part.schedule.vector == "transposed":
            self._tiles(part)
            return
        schedule, flat, temps = part.schedule, part.flat, part.temps
        lanes: VectorAxis | None = None
        if schedule.vector == "rows":
            block = self._padding(flat, flat.rows[schedule.axis].name, schedule.lanes)
            symbol = self.code.lane_symbol(schedule.lanes)
            flat, lanes = vector_rows(flat, temps, schedule.axis, schedule.lanes, symbol, block)
            if block is not None:
                self.filled |= {s.target for s in flat.steps if s.padded == lanes.iterator}
        width = schedule.lanes if lanes is not None else 1
        operands = dict(self.operands)
        for name, dtype, count in temps.arrays:
            operands[name] = self._local(name, dtype, count, width)
        flat, staged = stage(flat, part.segment.internal)
        for s in staged:
            operands[s.array] = self._local(s.array, s.load.dtype, s.count, width)
        inner = schedule.lanes if schedule.vector == "inner" else 1
        tensors = Tensors(
            part.segment.internal | temps.registers | {s.array for s in staged},
            near_tensors(temps),
            self.rounded | {s.array for s in staged if s.load.tensor in self.rounded},
        )
        emitter = Emitter(self.code, operands, self.processor, inner, tensors)
        costs = SegmentCosts(self.processor, inner, emitter.near, flat.rows)
        body = Body(emitter, flat, costs, temps.registers, temps.handed, staged)
        rows = self._walked(flat.rows)
        self._emit(rows, body, lambda low, high: self._rows(rows[-1], low, high, lanes, body))

    def _walked(self, rows: tuple[Iter, ...]) -> tuple[Iter, ...]:
        """Row iterators that are loops; those of one round are not (one is kept where all are)."""
        walked = tuple(it for it in rows if it.extent != 1) or rows[-1:]
        for it in rows:
            if it not in walked:
                self.code.bind(it.name, 0)
        return walked

    def _tiles(self, part: KernelPart) -> None:
        """A part whose rows are walked in tiles; threads share blocks of them."""
        schedule, flat, temps = part.schedule, part.flat, part.temps
        axis, across = flat.rows[schedule.axis], flat.rows[schedule.across]
        tile, blocks = self._tile(flat, near_tensors(temps), axis, across, schedule.lanes)
        waiting = {w.key: self._array_of(w) for w in blocks.waiting}
        arrays: dict[str, Operand] = {}
        if _operations(flat) * tile.height > _LARGE_BODY:
            dtypes = {name: operand.dtype for name, operand in self.operands.items()}
            for name, dtype in arrays_of(tile, dtypes):
                arrays[name] = self._local(name, dtype, tile.height, tile.lanes)
        tensors = Tensors(
            part.segment.internal | temps.registers | set(arrays),
            near_tensors(temps),
            self.rounded | {name for name, load in tile.loads if load.tensor in self.rounded},
        )
        emitter = Emitter(self.code, {**self.operands, **arrays}, self.processor, 1, tensors)
        inside, edges = (
            Body(emitter, s, SegmentCosts(self.processor, 1, emitter.near, s.rows), temps.registers, temps.handed)
            for s in (tile.segment, flat)
        )
        near = self.processor.near
        line = near.line if near is not None else 0
        body = TileBody(inside, edges, tile, blocks, arrays, self.processor.chunk_bytes, line, waiting)
        others = tuple(it for it in flat.rows if it is not axis and it is not across)
        rows = tuple(it for it in (*others, *blocks.iters) if it.extent != 1)
        for it in blocks.iters:
            if it.extent == 1:
                self.code.bind(it.name, 0)
        self._emit(rows, body, lambda low, high: self._row_loop(rows[-1], low, high, (0, rows[-1].extent - 1), body))

    def _tile(
        self, flat: FlatSegment, near: frozenset[str], axis: Iter, across: Iter, lanes: int
    ) -> tuple[Tile, Blocks]:
        """Tiles and their blocks; of no more rows than a set of the first cache has lines where these are few."""
        size = widest(flat, near)
        symbol = self.code.lane_symbol(lanes)
        height = tile_height(lanes, size, self.processor)
        tile = tile_of(flat, near, axis, across, lanes, height, symbol)
        assert tile is not None, "a schedule of tiles that cross nothing"
        blocks = blocks_of(flat, tile, self.processor)
        cache = self.processor.near
        fewer = min(height, max(cache.ways, self.processor.chunk_bytes // size)) if cache is not None else height
        if fewer == height or not blocks.waiting or any(w.along for w in blocks.waiting):
            return tile, blocks
        tile = tile_of(flat, near, axis, across, lanes, fewer, symbol)
        assert tile is not None, "what is crossed in one tile is in another"
        return tile, blocks_of(flat, tile, self.processor)

    def _array_of(self, waiting: Waiting) -> Operand:
        """The array of a store that waits; bools wait as bytes."""
        dtype = DType.U8 if waiting.dtype is DType.BOOL else waiting.dtype
        return self._local(waiting.name, dtype, waiting.elements, 1)

    def _local(self, name: str, dtype: DType, count: int, width: int) -> Operand:
        """A local array; of vectors where rows are lanes."""
        local = self.code.local(_identifier(name), dtype, max(count, 1) * width)
        return Operand(local, dtype, per_lane=width > 1)

    def _padding(self, flat: FlatSegment, iterator: str, lanes: int) -> int | None:
        """The block that targets are filled up to along this iterator, if it holds whole vectors."""
        padded = [self.layouts[s.target].block for s in flat.steps if s.padded == iterator]
        blocks = {block.size for block in padded if block is not None}
        if len(blocks) != 1:
            return None
        (block,) = blocks
        return block if block % lanes == 0 else None

    def zeros(self, tensor: str, dtype: DType) -> None:
        """Border and tail of an output, as parts of their own."""
        layout = self.layouts[tensor]
        for flat in zero_segments(tensor, dtype, layout, self.code.fresh, tail=tensor not in self.filled):
            self._zero_part(flat)

    def _zero_part(self, flat: FlatSegment) -> None:
        temps = Temps(frozenset(), frozenset(), (), ())
        flat = sorted_rows(flat, temps)
        lanes: VectorAxis | None = None
        width = self.processor.lanes
        costs = SegmentCosts(self.processor, width, frozenset(), flat.rows)
        found: list[tuple[float, int]] = []
        for axis, it in enumerate(flat.rows):
            vector = Vector(it, lanes_for(it.extent, width))
            found.append((costs.group(flat.groups[0], vector) * vector.waste, axis))
        if found:
            axis = min(found)[1]
            count = lanes_for(flat.rows[axis].extent, width)
            flat, lanes = vector_rows(flat, temps, axis, count, self.code.lane_symbol(count), None)
        emitter = Emitter(self.code, self.operands, self.processor)
        body = Body(emitter, flat, costs, frozenset(), frozenset())
        self._emit(flat.rows, body, lambda low, high: self._rows(flat.rows[-1], low, high, lanes, body))

    # ---- rows ----

    def _emit(self, rows: tuple[Iter, ...], body: Body, last: Callable[[Dim, Dim], None]) -> None:
        """One part: its share of the range, decoded into its row iterators; `last` walks a share of the last one."""
        extent = product(i.extent for i in rows)
        if extent == 0:
            return
        begin, end = sym("begin"), sym("end")
        offset = self.extent
        self.extent = offset + extent
        with self.code.branch((end - offset - 1, offset + extent - begin - 1)):
            # a branch, so that nothing of a part is computed by threads that have no share of it
            body.emitter.begin_part()
            if offset != 0:
                begin = self.code.symbol(maximum(begin - offset, 0), "begin")  # type: ignore[assignment]
            end = self.code.symbol(minimum(end - offset, extent), "end")  # type: ignore[assignment]
            if not rows:
                body.emit()
                return
            with self._last_row(rows, begin, end) as (low, high):
                last(low, high)

    @contextmanager
    def _last_row(self, rows: tuple[Iter, ...], begin: Dim, end: Dim) -> Iterator[tuple[Dim, Dim]]:
        """Loops over all row iterators but the last; yields the last one's share of its extent."""
        *outer, last = rows
        if not outer:
            yield begin, end
            return
        count = product(i.extent for i in outer)
        first, past = floordiv(begin, last.extent), ceildiv(end, last.extent)
        with self.code.loop(first, past, "row", (0, count - 1)) as row:
            left: Dim = row
            for it in reversed(outer[1:]):
                self._bind(it, self.code.symbol(mod(left, it.extent), it.name))
                left = self.code.symbol(floordiv(left, it.extent), "row")
            self._bind(outer[0], left)
            low = self.code.symbol(maximum(begin - row * last.extent, 0), "low")
            high = self.code.symbol(minimum(end - row * last.extent, last.extent), "high")
            yield low, high

    def _bind(self, it: Iter, value: Dim) -> None:
        self.code.bind(it.name, value)
        for name in symbols(value):
            self.code.assume(name, (0, it.extent - 1))

    def _rows(self, last: Iter, low: Dim, high: Dim, lanes: VectorAxis | None, body: Body) -> None:
        """The innermost row loop.

        Where guards or a tail concern a few rows only, those are apart, and the others free of them.
        """
        partial = lanes is not None and lanes.tail is not None and lanes.outer == last.name
        free = guard_free(body.segment, last) if _operations(body.segment) <= _LARGE_BODY else None
        if free is None and partial and _is_small(body.segment):
            free = (0, last.extent)
        lane = None
        if lanes is not None:
            lane = Lane(lanes.symbol, lanes.count, lanes.expression, lanes.tail, lanes.fills)
        with body.emitter.in_lanes(_of_all_rows(lane, last)):
            body.fill()
        with body.emitter.in_lanes(lane):
            if free is None:
                self._row_loop(last, low, high, (0, last.extent - 1), body)
                return
            first, past = free
            if partial and lanes is not None:
                past = minimum(past, floordiv(lanes.extent, lanes.count))
            whole = replace(lane, tail=None) if partial and lane is not None else lane
            with body.emitter.in_lanes(whole):
                self._row_loop(last, maximum(low, first), minimum(high, past), (first, past - 1), body)
            inside = (first, maximum(first, past))
            if partial or not self._few_edges(last, low, high, inside, body):
                self._edges(last, low, high, inside, body)

    def _few_edges(self, last: Iter, low: Dim, high: Dim, inside: tuple[Dim, Dim], body: Body) -> bool:
        """The rows before and past those that are done, each by code of its own, in which its guards are decided; False
        where they are many, or the code would be.
        """
        first, past = inside
        if not isinstance(first, int) or not isinstance(past, int) or not isinstance(last.extent, int):
            return False
        if first + max(last.extent - past, 0) > _FEW_EDGES or not _is_small(body.segment):
            return False
        for row in (*range(first), *range(past, last.extent)):
            with self.code.branch((row - low, high - 1 - row)):
                self.code.bind(last.name, row)
                body.emit()
        return True

    def _edges(self, last: Iter, low: Dim, high: Dim, inside: tuple[Dim, Dim], body: Body) -> None:
        """The rows before and past those that are done."""
        first, past = inside
        if first == 0:
            self._row_loop(last, maximum(low, past), high, (past, last.extent - 1), body)
            return
        # both ends by the same code: first the rows before, then those past
        before, after = minimum(high, first), maximum(low, past)
        with self.code.loop(0, 2, "edge") as edge:
            start = self.code.symbol(low + edge * (after - low), "low")
            stop = self.code.symbol(before + edge * (high - before), "high")
            self._row_loop(last, start, stop, (0, last.extent - 1), body)

    def _row_loop(self, last: Iter, low: Dim, high: Dim, span: tuple[Dim, Dim], body: Body) -> None:
        if isinstance(span[0], int) and isinstance(span[1], int) and span[1] < span[0]:
            return
        count = body.at_once(last, span)
        if count > 1:
            whole = self.code.symbol(low + floordiv(maximum(high - low, 0), count) * count, "whole")
            inside = span[0], span[1] - (count - 1)
            with self.code.loop(low, whole, last.name, inside, step=count) as row:
                body.emit_at_once(last.name, row, count)
            low = whole
        with self.code.loop(low, high, last.name, span) as row:
            self.code.bind(last.name, row)
            body.emit()


def _of_all_rows(lane: Lane | None, row: Iter) -> Lane | None:
    """The lanes of what is the same for all rows, and read before the first. Which of them lie past the end in a row is
    left open: where that differs from row to row the first has them all.
    """
    is_cut = lane is not None and lane.tail is not None and row.name in symbols(lane.tail)
    return replace(lane, tail=None) if lane is not None and is_cut else lane


def _operations(segment: FlatSegment) -> int:
    return sum(isinstance(n, Op | Where) for s in segment.steps for n in walk(s.value))


def _is_small(segment: FlatSegment) -> bool:
    return not any(g.inner for g in segment.groups) and _operations(segment) <= _SMALL_BODY


def _identifier(name: str) -> str:
    """A tensor's name as a name in C."""
    found = "".join(c if c.isalnum() and c.isascii() else "_" for c in name).strip("_")
    return f"t_{found}" if not found or found[0].isdigit() else found


def _names(parts: tuple[KernelPart, ...], layouts: Mapping[str, Layout]) -> set[str]:
    """Symbols that the function's own names must stay away from: sizes, and iterators of the kernel."""
    found: set[str] = set()
    for part in parts:
        for e in (*part.flat.exprs(), *(i.extent for i in part.flat.rows)):
            found |= symbols(e)
        for group in part.flat.groups:
            found |= {n for i in group.inner for n in symbols(i.extent)}
            for step in group.steps:
                found |= {n for r in reductions(step.value) for i in r.iters for n in symbols(i.extent)}
    for layout in layouts.values():
        for e in (*layout.shape, layout.elements, layout.offset, *(a.stride for a in layout.axes)):
            found |= symbols(e)
    return found


def _symbols(statements: tuple[loop.Statement, ...]) -> tuple[set[str], set[str]]:
    """(used, defined) index symbols of statements."""
    used: set[str] = set()
    defined: set[str] = set()

    waiting: list[object] = [statements]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Expr):
            used.update(node.names)
        elif isinstance(node, tuple):
            waiting.extend(node)
        elif names := loop.fields_of(type(node)):
            if isinstance(node, loop.For):
                defined.add(node.var)
            elif isinstance(node, loop.LetIndex):
                defined.add(node.name)
            waiting.extend([getattr(node, name) for name in names])
    return used, defined
