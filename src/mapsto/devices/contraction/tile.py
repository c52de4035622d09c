"""Chooses register tiles for contractions by a cost rule: registers, multiply-add ports, loads, latency, extents.
Nothing is listed or tuned.

A tile is (vectors of output columns) x (rows). One step of its reduction loads the vectors of B once, then for every
row broadcasts one element (or group) of A and multiplies it into every vector: vectors * rows multiply-adds for
vectors + rows loads.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mapsto.devices.contraction.core import Core

_LATENCY = 4.0  # cycles from one multiply-add to the next on the same accumulator
_ISSUE = 5.0  # instructions a core starts per cycle
_LOOP = 3.0  # instructions of the reduction loop besides loads and multiply-adds
_TILE_OVERHEAD = 8.0  # cycles to enter and leave a tile; most of it hides behind the neighbours' work
_STORE = 1.0  # cycles to finish and store one accumulator
_STREAM = 1.5  # more, beyond the near caches, for each that comes after `_BURST` in one go: stores wait for lines
_BURST = 12
_CROWDED = 1.2  # where a product that waits to be added has no register left (a guess: two more moves a step)
_LONE_BF16 = 1.4  # a bf16 dot product with a broadcast of its own (one vector a row) runs at 70 % on Zen 4
_L1_BYTES = 24 * 1024  # what a panel may take of the first-level cache
_L2_BYTES_PER_CYCLE = 24.0
FAR_BYTES_PER_CYCLE = 6.0  # of one core, from beyond its own caches
_WIDE_STREAM = 256  # bytes a step of what is far, from which on it comes as fast as it can
_NARROW_STREAM = 1.6  # times as long with fewer: 35-40 us for 1.6 MB instead of 23 (Xeon)
_SHARED_BY = (2, 3, 4)  # cores that a product of one row is evenly divided for
_MANY_PANELS = 32  # from which on shares differ little
_EVEN = 0.1  # of the time: what even shares are worth to who may have one core
_SET_BYTES = 4096  # addresses this far apart share a set of the first-level cache
_WAYS = 6  # of its 8 ways, what rows of A may take
_MOST_VECTORS = 8
_ADDRESS_REGISTERS = 6  # rows whose distance is not a number need a pointer each
_NARROWEST = 4
PIECE = 256  # bytes of a row of A that is staged, at most: those of a tile stay in the nearest cache
_STAGING = 3.0  # instructions of a vector of A on its way: loaded, converted, stored
_WIDENING = 2.0  # of a vector of B on its way to floats: masked or extended, converted
_WIDENED = 0.25  # the share of that which does not hide behind what comes from afar
_MOST_WORDS = 6  # vectors of eights of 4 bits: with 8, masks and sums go to the stack (1.1 to 1.2 times as long, Zen 4)
_SPREADING = 7.0  # of eight elements of a row of A, which are stored times powers of two, and summed


@dataclass(frozen=True)
class ProductShape:
    """What the rule looks at. `rows`/`columns` None: known at run time only. `row_bytes` None: the rows' distance is
    a run-time size.

    `steps`: of the reduction. `group_bytes`: of B, per column and step. `widest`: lanes that a vector may have at most.
    `masked`: B is read under a mask for each vector of the panel. `streams`: the output overflows the second-level
    cache. `far`: each element of B is used once, and comes from beyond that cache.
    `bf16_dot`: the products are bf16 dot products. `adds_apart`: a product waits in a register to be added. `staged`:
    steps for which one vector of A is brought to the local array; 0: A is read where it lies. `held`: channels
    that an element of B holds, which are made wide as they come, and whose sums are settled in registers of their own,
    a block after the other; 0: it is one that is not settled so.
    """

    rows: int | None
    columns: int | None
    steps: int
    row_bytes: int | None
    group_bytes: int = 4
    widest: int = 64
    masked: bool = False
    streams: bool = False
    bf16_dot: bool = False
    staged: int = 0
    far: bool = False
    adds_apart: bool = False
    held: int = 0


@dataclass(frozen=True)
class Tiling:
    """The choice. `panel`: lanes of each vector of a full panel; `last`: those of the narrower last panel (empty:
    there is none).

    `sizes`: the row counts of tiles that code is made for, largest first. With known rows `counts[i]` tiles of
    `sizes[i]` follow one another.
    """

    panel: tuple[int, ...]
    last: tuple[int, ...]
    full_panels: int | None
    sizes: tuple[int, ...]
    counts: tuple[int, ...] | None
    cycles: float

    @property
    def width(self) -> int:
        """Columns of a full panel."""
        return sum(self.panel)


def choose(core: Core, shape: ProductShape) -> Tiling:
    """The cheapest tiling."""
    return min(tilings(core, shape), key=_rank)


def anything(tiling: Tiling) -> bool:
    """Allows every tiling."""
    return True


def best_of_widths(core: Core, shape: ProductShape, allowed: Callable[[Tiling], bool] = anything) -> list[Tiling]:
    """The cheapest tiling of each panel width, the cheapest of all first."""
    best: dict[int, Tiling] = {}
    for tiling in filter(allowed, tilings(core, shape)):
        known = best.get(len(tiling.panel))
        if known is None or _rank(tiling) < _rank(known):
            best[len(tiling.panel)] = tiling
    return sorted(best.values(), key=_rank)


def _rank(tiling: Tiling) -> tuple[float, int]:
    return tiling.cycles * (1.0 + _EVEN * _unevenness(tiling)), -tiling.sizes[0]


def _unevenness(tiling: Tiling) -> float:
    """Of the panels, where there are only these to share."""
    if tiling.counts is None or sum(tiling.counts) != 1 or not tiling.full_panels:
        return 0.0
    if tiling.full_panels >= _MANY_PANELS:
        return 0.0
    return unevenness([tiling.width] * tiling.full_panels + ([sum(tiling.last)] if tiling.last else []))


def unevenness(items: Sequence[int]) -> float:
    """By how much the largest share of a few cores is larger than an even one, of works that are shared in order: in
    the mean of `_SHARED_BY`.
    """
    found = 0.0
    for cores in _SHARED_BY:
        ends = [core * len(items) // cores for core in range(cores + 1)]
        largest = max(sum(items[low:high]) for low, high in itertools.pairwise(ends))
        found += largest * cores / sum(items) - 1.0
    return found / len(_SHARED_BY)


def tilings(core: Core, shape: ProductShape) -> Iterator[Tiling]:
    """All that registers allow."""
    lanes = min(core.accumulator_lanes, shape.widest)
    for vectors in range(1, _MOST_VECTORS + 1):
        panel, last, full = split_columns(shape.columns, lanes, vectors)
        if shape.columns is not None and full == 0 and vectors > 1 and len(last) < vectors:
            continue  # the same as with fewer vectors
        if shape.held > 1 and vectors > _MOST_WORDS:
            continue
        widest = len(panel) if full != 0 else len(last)
        for rows in range(1, row_limit(core, widest, shape) + 1):
            sizes, counts = split_rows(shape.rows, rows)
            cycles = _total(core, shape, [(panel, full), (last, 1)], sizes, counts)
            yield Tiling(panel, last, full, sizes, counts, cycles)


class Panels(NamedTuple):
    """Vectors of a full panel and of the last one, and the number of full ones (None: known at run time only)."""

    panel: tuple[int, ...]
    last: tuple[int, ...]
    full: int | None


def split_columns(columns: int | None, lanes: int, vectors: int) -> Panels:
    """Columns cut into panels; the last vector is as narrow as its columns allow."""
    panel = (lanes,) * vectors
    if columns is None:
        return Panels(panel, (), None)
    full, rest = divmod(columns, lanes * vectors)
    last = [lanes] * (rest // lanes)
    if rest % lanes:
        width = _NARROWEST
        while width < rest % lanes:
            width *= 2
        last.append(min(width, lanes))
    return Panels(panel, tuple(last), full)


def row_limit(core: Core, vectors: int, shape: ProductShape) -> int:
    """Rows that fit the registers beside the vectors of B and one broadcast.

    Without multiply-add, products and the copies that two-operand instructions need come on top; without mask
    registers, the masks.
    """
    spare = core.registers - vectors - 1 - (0 if core.has("fma") else 4)
    if shape.masked and not core.mask_registers:
        spare -= vectors
    limit = spare // vectors if vectors > 1 else max(spare, 1)
    limit = max(limit // 2, 1) if shape.held else limit
    if shape.row_bytes is None:
        return min(limit, _ADDRESS_REGISTERS)
    return min(limit, _conflict_free(shape.row_bytes, limit))


def _conflict_free(row_bytes: int, limit: int) -> int:
    """Rows that do not push each other out of a set of the first-level cache."""
    lines: dict[int, int] = {}
    for row in range(limit):
        place = row * row_bytes % _SET_BYTES // 64
        if row_bytes >= 64 and lines.get(place, 0) >= _WAYS:
            return row
        lines[place] = lines.get(place, 0) + 1
    return limit


def split_rows(rows: int | None, largest: int) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Known rows: equal tiles, some one larger than the others. Unknown: the largest, then halves, down to one."""
    if rows is None:
        sizes = [largest]
        while sizes[-1] > 1:
            sizes.append((sizes[-1] + 1) // 2)
        return tuple(sizes), None
    if rows == 0:
        return (1,), (0,)
    tiles = -(-rows // largest)
    small, larger = divmod(rows, tiles)
    if larger == 0:
        return (small,), (tiles,)
    return (small + 1, small), (larger, tiles - larger)


@functools.lru_cache(maxsize=4096)
def tile_cycles(core: Core, vectors: tuple[int, ...], rows: int, shape: ProductShape) -> float:
    """Cycles of one tile: the slowest of multiply-adds, loads, latency and issue, and the second-level cache where a
    panel overflows the first."""
    if not vectors:
        return 0.0
    lanes = core.accumulator_lanes
    width = sum(1.0 if v == lanes else max(v / lanes, core.narrow_cost) for v in vectors)
    work = 1.0 if core.has("fma") else 2.0
    count = len(vectors)
    multiply = width * rows * work / core.fma_per_cycle
    load = (count + rows) / core.loads_per_cycle
    issue = (count + rows + count * rows * work + _LOOP) / _ISSUE
    if shape.staged:
        brought = rows / shape.staged
        load += brought / core.loads_per_cycle
        issue += brought * _STAGING / _ISSUE
    widened = 0.0
    if shape.held:
        several = shape.held * (count * (_WIDENING + rows * work) + rows)
        several += rows * _SPREADING if shape.held > 1 else _LOOP
        widened = several / (2 * core.fma_per_cycle)
        multiply, issue = max(shape.held * multiply, widened), several / _ISSUE
    step_bytes = sum(vectors) * shape.group_bytes
    near = shape.rows != 1 and shape.steps * step_bytes <= _L1_BYTES  # a panel that meets one row is used once
    fetch = 0.0 if near else step_bytes / (FAR_BYTES_PER_CYCLE if shape.far else _L2_BYTES_PER_CYCLE)
    if shape.far and step_bytes < _WIDE_STREAM:
        fetch *= _NARROW_STREAM
    step = max(multiply, load, issue, _LATENCY, fetch) + 0.05 * (load + fetch)
    step += _WIDENED * widened
    if shape.bf16_dot and count == 1:
        step *= _LONE_BF16
    accumulators = count * rows
    if shape.adds_apart and accumulators + count + 2 > core.registers:
        step *= _CROWDED
    late = max(accumulators - _BURST, 0) if shape.streams else 0
    return shape.steps * step + _TILE_OVERHEAD + _STORE * accumulators + _STREAM * late


def _total(
    core: Core,
    shape: ProductShape,
    panels: list[tuple[tuple[int, ...], int | None]],
    sizes: tuple[int, ...],
    counts: tuple[int, ...] | None,
) -> float:
    """Cycles per row and column (what the sums are divided by is the same for every candidate where both are known)."""
    total = 0.0
    for vectors, number in panels:
        share = 1.0 if number is None else float(number)
        if counts is None:  # unknown rows: the largest tile, and a little of the smaller ones
            cost = tile_cycles(core, vectors, sizes[0], shape) / sizes[0]
        else:
            tiles = zip(sizes, counts, strict=True)
            cost = sum(n * tile_cycles(core, vectors, s, shape) for s, n in tiles)
        total += share * cost
    return total / (sum(panels[0][0]) if panels[0][1] is None else 1.0)
