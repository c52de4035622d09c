"""Rows in tiles as loop code: crossed accesses go through registers, tile by tile; what is left over, row by row.

Tiles are walked in blocks of a few tiles (a block is what one thread does at least), so that a cache line of which a
tile touches a part is touched again soon, along either iterator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mapsto.devices.generic.blocks import Blocks, Key, Waiting
from mapsto.devices.generic.body import Body
from mapsto.devices.generic.context import Lane, Operand
from mapsto.devices.generic.crossing import Tile
from mapsto.devices.generic.flat import FlatLoad, FlatStep
from mapsto.devices.generic.networks import apart, joined, together, transposed
from mapsto.devices.generic.operations import convert, lift
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, ceildiv, linear, minimum, mod, sym
from mapsto.ir.expr_rewrite import substitute
from mapsto.kernel.ast import walk
from mapsto.loop import ast as loop


class TileBody(Body):
    """Emits a block of tiles: `inside` emits what is crossed in registers, `edges` (of the segment as it was) the rows
    that fill no tile. unrolled: whether a tile's rows are written out; else what is crossed waits in local arrays.
    chunk: bytes within which a processor interleaves two vectors at once. line: of its caches. waiting: arrays of
    stores that wait for the end of a block.
    """

    def __init__(
        self,
        inside: Body,
        edges: Body,
        tile: Tile,
        blocks: Blocks,
        arrays: Mapping[str, Operand],
        chunk: int,
        line: int,
        waiting: Mapping[Key, Operand],
    ) -> None:
        super().__init__(inside.emitter, inside.segment, inside.costs, inside.registers, inside.handed)
        self.edges = edges
        self.tile = tile
        self.blocks = blocks
        self.arrays = arrays
        self.chunk = chunk
        self.line = line
        self.waiting = {w.key: (w, waiting[w.key]) for w in blocks.waiting}
        self.place: tuple[Dim, Dim] = (0, 0)  # of the tile at work in its block, along the axis and across
        self.stored: dict[Key, list[loop.Value]] = {}

    def emit(self) -> None:
        tile, blocks, code = self.tile, self.blocks, self.code
        wide, high = blocks.wide * tile.lanes, blocks.high * tile.height
        left, top = code.expand(sym(blocks.columns.name) * wide), code.expand(blocks.row * high)
        columns = self._count(tile.axis.extent, wide, left, tile.lanes)
        rows = 1 if tile.narrow else self._count(tile.across.extent, high, top, tile.height)
        with self._tiles(columns, rows) as (along, down):
            code.bind(tile.columns.name, code.expand(sym(blocks.columns.name) * blocks.wide + along))
            code.bind(tile.rows.name, code.expand(blocks.row * blocks.high + down))
            self.place = along * tile.lanes, down * tile.height
            self._tile()
        for waiting, array in self.waiting.values():
            self._store_waiting(waiting, array, columns * tile.lanes, rows * tile.height)
        self._edges(left, top, columns, rows)

    @contextmanager
    def _tiles(self, columns: Dim, rows: Dim) -> Iterator[tuple[Dim, Dim]]:
        """Loops over a block's tiles."""
        tile, blocks, code = self.tile, self.blocks, self.code
        along = columns, tile.columns.name, (0, blocks.wide - 1)
        down = rows, tile.rows.name, (0, blocks.high - 1)
        outer, inner = (down, along) if blocks.along_first else (along, down)
        with code.loop(0, *outer) as first, code.loop(0, *inner) as second:
            yield (second, first) if blocks.along_first else (first, second)

    def _count(self, extent: Dim, whole: int, start: Dim, one: int) -> Dim:
        """Whole tiles in the block that starts here."""
        if mod(extent, whole) == 0:
            return whole // one
        if isinstance(extent, int) and extent < whole:
            return extent // one
        return self.code.symbol(minimum(self.code.expand(extent - start) // one, whole // one), "tiles")

    # ---- a tile ----

    def _tile(self) -> None:
        tile, emitter, code = self.tile, self.emitter, self.code
        emitter.begin_row()
        crossed = {name: self._loaded(load) for name, load in tile.loads}
        self._ask_ahead()
        with emitter.in_lanes(Lane(tile.lane, tile.lanes, sym(tile.axis.name))):
            if self.arrays:
                self._rows_in_a_loop(crossed)
            for k in range(0 if self.arrays else tile.height):
                code.bind(tile.row, k)
                for name, values in crossed.items():
                    emitter.define(name, values[k])
                super().emit()
        for key, values in self.stored.items():
            self._store_crossed(key, values)
        self.stored.clear()

    def _ask_ahead(self) -> None:
        """Asks for what tiles further along the axis load in rows along it, each line by one of the tiles in it."""
        tile, blocks, code = self.tile, self.blocks, self.code
        if not blocks.ahead:
            return
        found = {node for s in tile.segment.steps for node in walk(s.value) if isinstance(node, FlatLoad)}
        for load in sorted(found, key=str):
            operand = self.emitter.operands.get(load.tensor)
            along = linear(load.place, tile.lane)
            if operand is None or along is None or along[0] != 1:
                continue
            tiles = max(self.line // (tile.lanes * load.dtype.size), 1)
            each = max(tile.height // tiles, 1)
            start = mod(self.place[0] // tile.lanes, tiles) * each
            for k in range(each):
                place = code.expand(substitute(load.place, {tile.lane: 0, tile.row: start + k}))
                code.emit(loop.Prefetch(operand.buffer, place + blocks.ahead * tile.lanes))

    def _rows_in_a_loop(self, crossed: dict[str, list[loop.Value]]) -> None:
        tile, code = self.tile, self.code
        for name, values in crossed.items():
            for k, value in enumerate(values):
                code.emit(loop.Store(self.arrays[name].buffer, k * tile.lanes, value))
            self.emitter.forget(name)
        with code.loop(0, tile.height, tile.row) as row:
            code.bind(tile.row, row)
            super().emit()
        for key in self.stored:
            operand = self.arrays[_array(key)]
            t = loop.Type(operand.dtype, tile.lanes)
            self.stored[key] = [code.let(loop.Load(operand.buffer, k * tile.lanes, t), "x") for k in range(tile.height)]

    def store(self, step: FlatStep, value: loop.Value) -> loop.Value:
        """Crossed values wait for the tile's end."""
        key = step.target, step.place
        if key not in self.tile.stores:
            return self._wait(key, value) if key in self.waiting else super().store(step, value)
        value = self.code.let(lift(value, self.tile.lanes))
        if self.arrays:
            place = self.code.expand(sym(self.tile.row)) * self.tile.lanes
            self.code.emit(loop.Store(self.arrays[_array(key)].buffer, place, value))
            self.stored[key] = []
        else:
            self.stored.setdefault(key, []).append(value)
        return value

    # ---- what waits ----

    def _wait(self, key: Key, value: loop.Value) -> loop.Value:
        """A row of the tile, into the array of its block."""
        waiting, array = self.waiting[key]
        value = self.code.let(lift(value, self.tile.lanes))
        along, down = self.place
        place = (down + self.code.expand(sym(self.tile.row))) * waiting.pitch + along
        self.code.emit(loop.Store(array.buffer, place, self._packed(value)))
        return value

    def _store_waiting(self, waiting: Waiting, array: Operand, columns: Dim, rows: Dim) -> None:
        """What waited, row by row of memory: whole lines, then single vectors of tiles."""
        tile, blocks, code = self.tile, self.blocks, self.code
        code.bind(tile.columns.name, code.expand(sym(blocks.columns.name) * blocks.wide))
        code.bind(tile.rows.name, code.expand(blocks.row * blocks.high))
        first = code.expand(substitute(waiting.key[1], {tile.lane: 0, tile.row: 0}))
        count, length, piece = (rows, columns, tile.lanes) if waiting.along else (columns, rows, tile.height)
        line = max(self.line // waiting.dtype.size, piece)
        lines = length // line
        with code.loop(0, count, "row", (0, waiting.elements // waiting.pitch - 1)) as row:
            target, source = first + row * waiting.stride, row * waiting.pitch
            self._copied(waiting, array, target, source, lines, line)
            if mod(length, line) != 0:
                at = lines * line
                self._copied(waiting, array, target + at, source + at, (length - at) // piece, piece)
        self.emitter.forget(waiting.key[0])

    def _copied(self, waiting: Waiting, array: Operand, target: Dim, source: Dim, count: Dim, lanes: int) -> None:
        """Vectors that lie one after the other, from the array to memory."""
        code, operand = self.code, self.emitter.operands[waiting.key[0]]
        t = loop.Type(array.dtype, lanes)

        def copy(at: Dim) -> None:
            value = code.let(loop.Load(array.buffer, source + at, t), "x")
            code.emit(loop.Store(operand.buffer, target + at, self._unpacked(value, operand.dtype)))

        if isinstance(count, int):
            for k in range(count):
                copy(k * lanes)
            return
        with code.loop(0, count, "piece", (0, waiting.pitch // lanes)) as piece:
            copy(piece * lanes)

    # ---- what is crossed ----

    def _loaded(self, load: FlatLoad) -> list[loop.Value]:
        """The tile's rows of an operand that lies crossed."""
        tile = self.tile
        t = loop.Type(load.dtype, tile.lanes if tile.narrow else tile.height)
        buffer = self.emitter.operands[load.tensor].buffer
        vectors = [
            self._packed(self.code.let(loop.Load(buffer, place, t), "x")) for place in self._places(load.place)
        ]
        return [self._unpacked(v, load.dtype) for v in self._turned(vectors, loaded=True)]

    def _store_crossed(self, key: Key, values: list[loop.Value]) -> None:
        target, place = key
        operand = self.emitter.operands[target]
        vectors = self._turned([self._packed(v) for v in values], loaded=False)
        if key in self.waiting:
            waiting, array = self.waiting[key]
            along, down = self.place
            for k, vector in enumerate(vectors):
                self.code.emit(loop.Store(array.buffer, (along + k) * waiting.pitch + down, vector))
            return
        for at, vector in zip(self._places(place), vectors, strict=True):
            self.code.emit(loop.Store(operand.buffer, at, self._unpacked(vector, operand.dtype)))
        self.emitter.forget(target)

    def _places(self, place: Dim) -> list[Dim]:
        """Where the vectors of a crossed access begin: one for each lane of the axis, or one after the other."""
        tile = self.tile
        first = self.code.expand(substitute(place, {tile.lane: 0, tile.row: 0}))
        if tile.narrow:
            return [first + k * tile.lanes for k in range(tile.height)]
        along = linear(place, tile.lane)
        assert along is not None, "a crossed access is linear along the axis"
        return [first + k * self.code.expand(along.coefficient) for k in range(tile.lanes)]

    def _turned(self, vectors: list[loop.Value], loaded: bool) -> list[loop.Value]:
        name = self.code.let
        if not self.tile.narrow:
            chunk = max(self.chunk // vectors[0].type.element.size, 1)
            return joined(vectors, chunk, name) if loaded else transposed(vectors, chunk, name)
        return apart(vectors, 1, name) if loaded else together(vectors, name)

    def _packed(self, value: loop.Value) -> loop.Value:
        """Masks have no lanes to move: bools move as bytes."""
        return self.code.let(convert(value, DType.U8)) if value.type.element is DType.BOOL else value

    def _unpacked(self, value: loop.Value, dtype: DType) -> loop.Value:
        return self.code.let(convert(value, dtype)) if dtype is DType.BOOL else value

    # ---- edges ----

    def _edges(self, left: Dim, top: Dim, columns: Dim, rows: Dim) -> None:
        """The columns that fill no tile, for rows that do; then all columns of the rows that do not."""
        tile, blocks, code = self.tile, self.blocks, self.code
        ragged_columns = mod(tile.axis.extent, tile.lanes) != 0
        ragged_rows = not tile.narrow and mod(tile.across.extent, tile.height) != 0
        if not ragged_columns and not ragged_rows:
            return
        right = self._end(tile.axis.extent, left, blocks.wide * tile.lanes)
        bottom = self._end(tile.across.extent, top, blocks.high * tile.height)
        past_columns, past_rows = left + columns * tile.lanes, top + rows * tile.height
        if not ragged_rows:
            self._rectangle(past_columns, right, top, bottom)
        elif not ragged_columns:
            self._rectangle(left, right, past_rows, bottom)
        else:
            with code.loop(0, 2, "edge") as edge:
                start = code.symbol(past_columns + edge * (left - past_columns), "left")
                first = code.symbol(top + edge * (past_rows - top), "top")
                last = code.symbol(past_rows + edge * (bottom - past_rows), "bottom")
                self._rectangle(start, right, first, last)

    def _end(self, extent: Dim, start: Dim, size: int) -> Dim:
        return self.code.symbol(minimum(extent, start + size), "end") if mod(extent, size) != 0 else start + size

    def _rectangle(self, left: Dim, right: Dim, top: Dim, bottom: Dim) -> None:
        """Vectors along the axis, the last one masked."""
        tile, code, emitter = self.tile, self.code, self.emitter
        with code.loop(top, bottom, tile.across.name, (0, tile.across.extent - 1)) as row:
            code.bind(tile.across.name, row)
            span = (0, ceildiv(tile.axis.extent, tile.lanes) - 1)
            with code.loop(0, ceildiv(right - left, tile.lanes), tile.axis.name, span) as vector:
                at = left + vector * tile.lanes
                code.bind(tile.axis.name, code.expand(at + sym(tile.lane)))
                with emitter.in_lanes(Lane(tile.lane, tile.lanes, sym(tile.axis.name), right - at)):
                    self.edges.emit()


def arrays_of(tile: Tile, dtypes: Mapping[str, DType]) -> list[tuple[str, DType]]:
    """Names and types of the local arrays where what is crossed waits: `height` vectors each."""
    found = [(name, load.dtype) for name, load in tile.loads]
    return found + [(_array(key), dtypes[key[0]]) for key in sorted(tile.stores, key=str)]


def _array(key: Key) -> str:
    return f"{key[0]} crossed at {key[1]}"
