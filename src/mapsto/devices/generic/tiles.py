"""Rows in tiles as loop code: crossed accesses go through registers, tile by tile; what is left over, row by row.

Tiles are walked in blocks of a few tiles (a block is what one thread does at least), so that a cache line of which a
tile touches a part is touched again soon, along either iterator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mapsto.devices.generic.body import Body
from mapsto.devices.generic.context import Lane, Operand
from mapsto.devices.generic.crossing import Tile
from mapsto.devices.generic.flat import FlatLoad, FlatStep
from mapsto.devices.generic.networks import apart, together, transposed
from mapsto.devices.generic.operations import convert, lift
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, ceildiv, linear, minimum, mod, sym
from mapsto.ir.expr_rewrite import substitute
from mapsto.kernel.ast import Iter
from mapsto.loop import ast as loop

# Tiles in a block: enough along the axis to fill cache lines with narrow elements; more across, so that what is loaded
# runs on in memory and is fetched ahead.
_WIDE, _HIGH = 4, 8
_NARROW = 16  # of narrow tiles, which lie one after the other
# Blocks across that all of the axis is walked for: pages that their rows lie in are found again for the next columns.
_BAND = 4


@dataclass(frozen=True)
class Blocks:
    """Blocks of tiles: how many tiles each has along the axis and across, and the iterators that count them, outermost
    first. Rows of blocks are walked in bands of equally many.
    """

    bands: Iter
    columns: Iter
    rows: Iter
    band: int
    wide: int
    high: int

    @property
    def iters(self) -> tuple[Iter, ...]:
        return self.bands, self.columns, self.rows

    @property
    def row(self) -> Dim:
        """The number of a row of blocks."""
        return sym(self.bands.name) * self.band + sym(self.rows.name)

    @staticmethod
    def of(tile: Tile) -> Blocks:
        wide = _side(tile.axis.extent, tile.lanes, _NARROW if tile.narrow else _WIDE)
        high = 1 if tile.narrow else _side(tile.across.extent, tile.height, _HIGH)
        rows = ceildiv(tile.across.extent, high * tile.height)
        band = next(k for k in range(_BAND, 0, -1) if rows % k == 0) if isinstance(rows, int) else 0
        return Blocks(
            Iter(f"{tile.across.name}_s", rows // band if band else 1),
            Iter(f"{tile.axis.name}_b", ceildiv(tile.axis.extent, wide * tile.lanes)),
            Iter(f"{tile.across.name}_b", band or rows),
            band,
            wide,
            high,
        )


def _side(extent: Dim, lanes: int, most: int) -> int:
    return min(most, max(extent // lanes, 1)) if isinstance(extent, int) else most


class TileBody(Body):
    """Emits a block of tiles: `inside` emits what is crossed in registers, `edges` (of the segment as it was) the rows
    that fill no tile. unrolled: whether a tile's rows are written out; else what is crossed waits in local arrays.
    chunk: bytes within which a processor interleaves two vectors at once.
    """

    def __init__(
        self,
        inside: Body,
        edges: Body,
        tile: Tile,
        blocks: Blocks,
        arrays: Mapping[str, Operand],
        chunk: int,
    ) -> None:
        super().__init__(inside.emitter, inside.segment, inside.costs, inside.registers, inside.handed)
        self.edges = edges
        self.tile = tile
        self.blocks = blocks
        self.arrays = arrays
        self.chunk = chunk
        self.stored: dict[tuple[str, Dim], list[loop.Value]] = {}

    def emit(self) -> None:
        tile, blocks, code = self.tile, self.blocks, self.code
        wide, high = blocks.wide * tile.lanes, blocks.high * tile.height
        left, top = code.expand(sym(blocks.columns.name) * wide), code.expand(blocks.row * high)
        columns = self._count(tile.axis.extent, wide, left, tile.lanes)
        rows = 1 if tile.narrow else self._count(tile.across.extent, high, top, tile.height)
        with code.loop(0, columns, tile.columns.name, (0, blocks.wide - 1)) as along:
            code.bind(tile.columns.name, code.expand(sym(blocks.columns.name) * blocks.wide + along))
            with code.loop(0, rows, tile.rows.name, (0, blocks.high - 1)) as down:
                code.bind(tile.rows.name, code.expand(blocks.row * blocks.high + down))
                self._tile()
        self._edges(left, top, columns, rows)

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
            return super().store(step, value)
        value = self.code.let(lift(value, self.tile.lanes))
        if self.arrays:
            place = self.code.expand(sym(self.tile.row)) * self.tile.lanes
            self.code.emit(loop.Store(self.arrays[_array(key)].buffer, place, value))
            self.stored[key] = []
        else:
            self.stored.setdefault(key, []).append(value)
        return value

    # ---- what is crossed ----

    def _loaded(self, load: FlatLoad) -> list[loop.Value]:
        """The tile's rows of an operand that lies crossed."""
        tile = self.tile
        t = loop.Type(load.dtype, tile.lanes)
        buffer = self.emitter.operands[load.tensor].buffer
        vectors = [
            self._packed(self.code.let(loop.Load(buffer, place, t), "x")) for place in self._places(load.place)
        ]
        return [self._unpacked(v, load.dtype) for v in self._turned(vectors, loaded=True)]

    def _store_crossed(self, key: tuple[str, Dim], values: list[loop.Value]) -> None:
        target, place = key
        operand = self.emitter.operands[target]
        vectors = self._turned([self._packed(v) for v in values], loaded=False)
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
            return transposed(vectors, max(self.chunk // vectors[0].type.element.size, 1), name)
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


def _array(key: tuple[str, Dim]) -> str:
    return f"{key[0]} crossed at {key[1]}"
