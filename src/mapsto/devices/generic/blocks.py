"""Blocks of tiles, and which results wait in a local array until their block is whole.

Rows that lie a power of two apart fall into few sets of the first cache: a tile's lines drive each other out, and each
waits for the one before it. So what a block writes there is gathered in an array, and stored from it row by row in
pieces of many lines, which fall into sets of their own. (What is loaded comes in tiles of few rows, see `lower`.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mapsto.devices.generic.cost import estimate
from mapsto.devices.generic.crossing import Tile
from mapsto.devices.generic.flat import FlatLoad, FlatSegment, FlatStep
from mapsto.devices.generic.processor import NearCache, Processor
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, ceildiv, linear, sym
from mapsto.kernel.ast import Iter, Load, walk
from mapsto.plan.loop_forms import MOST_TILE_ROWS

# Tiles in a block: enough along the axis to fill cache lines with narrow elements; more across, so that what is loaded
# runs on in memory and is fetched ahead.
_WIDE, _HIGH = 4, 8
_NARROW = 16  # of narrow tiles, which lie one after the other
# Blocks across that all of the axis is walked for: pages that their rows lie in are found again for the next columns.
_BAND = 4
# Tiles along the axis that far loads are asked for ahead of: a way of some lines, which takes as long as memory does.
_AHEAD = 8

Key = tuple[str, Dim]


@dataclass(frozen=True)
class Waiting:
    """A store of a tile (target, place) whose elements wait for the rest of their block.

    along: whether neighbours in memory are neighbours along the tile's axis, not across. stride: elements from one row
    in memory to the next. pitch: the same in the array, of `elements` in all; an odd number of lines.
    """

    key: Key
    dtype: DType
    along: bool
    stride: int
    pitch: int
    elements: int

    @property
    def name(self) -> str:
        """The array's."""
        return f"{self.key[0]} waiting at {self.key[1]}"


@dataclass(frozen=True)
class Blocks:
    """Blocks of tiles: how many tiles each has along the axis and across, and the iterators that count them, outermost
    first. Rows of blocks are walked in bands of equally many.

    waiting: stores that wait for the block's end. along_first: whether tiles are walked along the axis, then across.
    ahead: of how many tiles along the axis loads are asked for before they are made; 0: of none.
    """

    bands: Iter
    columns: Iter
    rows: Iter
    band: int
    wide: int
    high: int
    waiting: tuple[Waiting, ...] = ()
    along_first: bool = False
    ahead: int = 0

    @property
    def iters(self) -> tuple[Iter, ...]:
        return self.bands, self.columns, self.rows

    @property
    def row(self) -> Dim:
        """The number of a row of blocks."""
        return sym(self.bands.name) * self.band + sym(self.rows.name)


def blocks_of(flat: FlatSegment, tile: Tile, processor: Processor) -> Blocks:
    """How the rows of `flat` are walked in blocks of these tiles: in the order in which the first cache keeps what is
    touched again, or with results that wait, or, in tensors that no cache holds, in that of pages.
    """
    near = processor.near
    if tile.narrow:
        return _blocks(tile, _NARROW, 1)
    if near is None:
        return _blocks(tile, _WIDE, _HIGH)
    points = estimate(tile.axis.extent) * estimate(tile.across.extent)
    touched = sum(points * dtype.size for dtype, _ in _accesses(flat, tile))
    if touched >= 2 * processor.far_bytes:
        return replace(_blocks(tile, _WIDE, _HIGH), ahead=_AHEAD)
    pitches = _pitches(flat, tile)
    if pitches is None:
        return _blocks(tile, _WIDE, _HIGH)
    of_a_line = near.line // max(dtype.size for dtype, _ in _accesses(flat, tile))
    few = min(map(near.room, pitches)) < min(of_a_line, 2 * MOST_TILE_ROWS)
    waiting = _waits(flat, tile, near, processor.array_bytes) if few and touched < processor.far_bytes else None
    if waiting is not None:
        return waiting
    if of_a_line <= MOST_TILE_ROWS and not any(pitch % near.line for pitch in pitches):
        # whole lines of what is loaded, one row of tiles after the other: a few lines of either side stay near
        return replace(_blocks(tile, max(of_a_line // tile.lanes, 1), _HIGH), along_first=True)
    return _blocks(tile, _WIDE, _HIGH)


def _blocks(tile: Tile, most_wide: int, most_high: int) -> Blocks:
    wide = _side(tile.axis.extent, tile.lanes, most_wide)
    high = 1 if tile.narrow else _side(tile.across.extent, tile.height, most_high)
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


# ---- results that wait ---------------------------------------------------------------------------------------------


def _waits(flat: FlatSegment, tile: Tile, near: NearCache, most: int) -> Blocks | None:
    """Blocks whose results wait, in arrays of `most` bytes in all; None where none may."""
    found = list(_stores(flat, tile))
    if not found:
        return None
    short = _side_of_array(near, max(dtype.size for _, dtype, _, _ in found))
    wide, high = (2 * short, short) if found[0][2] else (short, 2 * short)
    blocks = _blocks(tile, max(wide // tile.lanes, 1), max(high // tile.height, 1))
    waiting = tuple(_waiting(blocks, tile, near, *store) for store in found)
    if sum(w.elements * w.dtype.size for w in waiting) > most:
        return None
    return replace(blocks, waiting=waiting, along_first=True)


def _side_of_array(near: NearCache, size: int) -> int:
    """Rows of an array that are twice as long as there are rows and fill the cache: a power of two."""
    return 1 << ((near.bytes // (2 * size)).bit_length() - 1) // 2


def _waiting(blocks: Blocks, tile: Tile, near: NearCache, key: Key, dtype: DType, along: bool, stride: int) -> Waiting:
    wide, high = blocks.wide * tile.lanes, blocks.high * tile.height
    length, count = (wide, high) if along else (high, wide)
    line = near.line // dtype.size
    pitch = (-(-length // line) | 1) * line
    return Waiting(key, dtype, along, stride, pitch, pitch * count)


def _pitches(flat: FlatSegment, tile: Tile) -> list[int] | None:
    """How far apart, in bytes, rows lie of what is accessed; None where that is not known."""
    found = []
    for dtype, strides in _accesses(flat, tile):
        for stride in strides:
            if not isinstance(stride, int):
                return None
            if abs(stride) > 1:
                found.append(abs(stride) * dtype.size)
    return found or None


def _accesses(flat: FlatSegment, tile: Tile) -> Iterator[tuple[DType, tuple[Dim, Dim]]]:
    """Types of what is accessed evenly along both sides of tiles, and how far apart its elements lie along each."""
    for step in flat.steps:
        for dtype, place in ((step.dtype, step.place), *_places(step)):
            strides = _strides(place, tile)
            if strides is not None:
                yield dtype, strides


def _places(step: FlatStep) -> Iterator[tuple[DType, Dim]]:
    return ((node.dtype, node.place) for node in walk(step.value) if isinstance(node, FlatLoad))


def _strides(place: Dim, tile: Tile) -> tuple[Dim, Dim] | None:
    """How far apart elements lie along the axis and across, where they lie evenly."""
    along = linear(place, tile.axis.name)
    across = None if along is None else linear(along[1], tile.across.name)
    return None if along is None or across is None else (along[0], across[0])


def _stores(flat: FlatSegment, tile: Tile) -> Iterator[tuple[Key, DType, bool, int]]:
    """Stores that may wait: to rows that lie evenly, of targets that are neither read here nor stored to twice."""
    read = {node.tensor for s in flat.steps for node in walk(s.value) if isinstance(node, Load)}
    written = [s.target for s in flat.steps]
    for step, split in zip(flat.steps, tile.segment.steps, strict=True):
        strides = _strides(step.place, tile)
        if strides is None or step.target in read or written.count(step.target) > 1 or 1 not in strides:
            continue
        along, across = strides
        stride = across if along == 1 else along
        if isinstance(stride, int) and stride > 1:
            yield (split.target, split.place), step.dtype, along == 1, stride
