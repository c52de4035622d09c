"""Convolutions of 3x3 taps by fewer products: which forms there are for it, and what is chosen for one.

    tiles of m x m results; (m + 2)^2 points of each
    values of the inputs at the points = B^T d B     one matrix a point: tiles x channels
    sums at the points = values * taps               one matrix product a point
    results = A^T sums A

Tiles are done in blocks, whose values stay in the second-level cache. See `toom_cook` for the matrices.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from mapsto.devices.contraction.core import Core
from mapsto.devices.contraction.form import ContractionForm, LoopAxis
from mapsto.devices.contraction.packing import Packing
from mapsto.devices.contraction.planes import plane
from mapsto.devices.contraction.tile import FAR_BYTES_PER_CYCLE, Tiling, unevenness
from mapsto.devices.contraction.tile_plan import (
    CACHED_BYTES,
    NEAR_BYTES,
    TilePlan,
    near_tiles,
    plan_contraction,
    read_tiles,
    tiles_text,
)
from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Param
from mapsto.machine.tuning import NEAR_COST

TAPS = 3
_LARGE, _SMALL = 4, 2  # results of a tile, in one dimension
EDGES = (_LARGE, _SMALL)
EXACT_EDGES = (_SMALL,)  # whose roundings are those of direct sums; of large tiles they are some ten times as large
_STRIPS = 16  # parts that threads can take
_PARTS = 8  # the same where there are few blocks: columns are divided as well
_PAST = 64  # elements of scratch memory past its end that a vector may be read from
_NEAR_SCRATCH = NEAR_BYTES // 2  # what passes through that cache besides has the other half
_LARGEST = 4 * NEAR_BYTES  # of scratch memory for one item
_FEW_TILES = 8  # of a block: with fewer, taps come for nothing
_EVEN = 0.2  # of the time: what even shares are worth to who may have one core
_STREAMED = NEAR_BYTES // 4  # taps of so many bytes are hardly in the second-level cache when they are needed
_LEAST_CHANNELS = 16  # with fewer, the way to the points and back takes longer than products
_PRODUCTS_OF = 2  # of near blocks: the cheapest, whose products are tried in other tiles
_LARGER = 1.3  # blocks that differ by less are alike
SCRATCH = "points"


@dataclass(frozen=True)
class Geometry:
    """What rows and windows of a contraction are to it. height, width: of the results. outer: extents of the other row
    axes. window: which window axis goes along the height, and which along the width.
    """

    height: int
    width: int
    outer: tuple[int, ...]
    window: tuple[int, int]

    @property
    def images(self) -> int:
        return math.prod(self.outer)

    def grid(self, m: int) -> tuple[int, int]:
        return -(-self.height // m), -(-self.width // m)

    def tiles(self, m: int) -> int:
        down, across = self.grid(m)
        return down * across * self.images

    def points(self, m: int) -> int:
        return (m + TAPS - 1) ** 2


def geometry(rows: Sequence[LoopAxis], window: Sequence[LoopAxis]) -> Geometry | None:
    """How rows and windows of a contraction are those of a convolution of 3x3 adjoining taps; None where they are not.
    Only extents and strides of A are looked at.
    """
    if len(rows) < 2 or len(window) != 2 or any(axis.extent != TAPS for axis in window):
        return None
    extents = [axis.extent for axis in rows if isinstance(axis.extent, int)]
    if len(extents) != len(rows) or min(extents) < 1:
        return None
    down, across = rows[-2], rows[-1]
    for order in ((0, 1), (1, 0)):
        if (window[order[0]].a, window[order[1]].a) == (down.a, across.a):
            return Geometry(extents[-2], extents[-1], tuple(extents[:-2]), order)
    return None


def is_taken(form: ContractionForm, core: Core) -> bool:
    """Whether a form can be done so: f32, no groups, known sizes, whole vectors of channels, of several lanes."""
    lanes = core.lanes(DType.F32)
    types = (form.a.element, form.b.element, form.out.element, form.accumulator)
    if any(t is not DType.F32 for t in types) or form.staged is not None or form.batch:
        return False
    if not isinstance(form.columns, int) or not isinstance(form.channels, int) or form.b_channel_stride is not None:
        return False
    along = form.channel_block or form.channels
    if along % lanes or (form.out_block and form.out_block % lanes) or lanes == 1 or not core.has("fma"):
        return False
    return form.channels >= _LEAST_CHANNELS and form.columns >= lanes and geometry(form.rows, form.window) is not None


@dataclass(frozen=True)
class WinogradPlan:
    """The choices for a form. edge: results of a tile in one dimension. tiles: of a block. Threads share strips of
    blocks and, where there are few, shares of the columns. product: of a block at one point.
    """

    form: ContractionForm
    core: Core
    edge: int
    tiles: int
    strips: int
    shares: int
    product: TilePlan
    rivals: tuple[tuple[str, float], ...] = field(default=(), compare=False)

    @property
    def geometry(self) -> Geometry:
        found = geometry(self.form.rows, self.form.window)
        assert found is not None
        return found

    @property
    def lanes(self) -> int:
        return self.core.lanes(DType.F32)

    @property
    def points(self) -> int:
        return self.geometry.points(self.edge)

    @property
    def blocks(self) -> int:
        return -(-self.geometry.tiles(self.edge) // self.tiles)

    @property
    def blocks_of_a_strip(self) -> int:
        return -(-self.blocks // self.strips)

    @property
    def extent(self) -> int:
        """The range that threads share."""
        return self.strips * self.shares

    @property
    def depth(self) -> int:
        """Channels as they lie in scratch memory."""
        return _depth(self.form)

    @property
    def values_plane(self) -> int:
        """Elements from the values at one point to those at the next."""
        return plane(self.tiles * self.depth, DType.F32.size)

    @property
    def sums_plane(self) -> int:
        """Elements from the sums at one point to those at the next, of one panel of columns."""
        return plane(self.tiles * self.product.tiling.width, DType.F32.size)

    @property
    def region(self) -> int:
        """Elements of scratch memory for one item; a vector may be read past its end."""
        return self.points * (self.values_plane + self.sums_plane) + _PAST

    @property
    def columns(self) -> int:
        """Columns that are stored: all, and the tail of a last block."""
        assert isinstance(self.form.columns, int)
        step = self.form.out_block or 1
        return -(-self.form.columns // step) * step

    @property
    def taps_columns(self) -> int:
        """Columns of the taps as they are."""
        return -(-self.columns // self.lanes) * self.lanes

    @property
    def packing(self) -> Packing:
        """Of the taps at one point."""
        return self.product.packing

    @property
    def ahead(self) -> int:
        """How many elements before their use taps are asked for: the next point's, where they come from afar."""
        size = self.packing.size
        assert isinstance(size, int)
        return size if 4 * self.points * size > _STREAMED else 0


def _depth(form: ContractionForm) -> int:
    assert isinstance(form.channels, int)
    step = form.channel_block or 1
    return -(-form.channels // step) * step


def plan_winograd(form: ContractionForm, core: Core, edges: Sequence[int] = EDGES) -> WinogradPlan:
    """Chooses by products, and by what passes between caches. edges: those that there are to choose from."""
    found = geometry(form.rows, form.window)
    assert found is not None
    ways = {}
    for edge in edges:
        total = found.tiles(edge)
        ways[edge] = _best_block(_product(form, total), core, found.points(edge), total)
    edge = min(ways, key=lambda edge: ways[edge].cycles)
    return _planned(form, core, edge, ways[edge].tiles)


def near_winograd(form: ContractionForm, core: Core, edges: Sequence[int] = EDGES) -> list[tuple[str, float]]:
    """Choices that are not much dearer than the cheapest, as plans have them, with how often its cycles: tiles of
    the other size, other blocks, and for the cheapest ones other tiles of the products.
    """
    where = geometry(form.rows, form.window)
    assert where is not None
    ways = []
    for edge in edges:
        total = where.tiles(edge)
        ways += [(b, edge) for b in _blocks(_product(form, total), core, where.points(edge), total)]
    least = min(block.cycles for block, _ in ways)
    found: dict[str, float] = {}
    for number, (block, edge) in enumerate(_well_apart(sorted(w for w in ways if w[0].cycles <= NEAR_COST * least))):
        plan = _planned(form, core, edge, block.tiles)
        found.setdefault(winograd_text(plan), block.cycles / least)
        for text, ratio in near_tiles(plan.product.form, core, _of_one_size) if number < _PRODUCTS_OF else ():
            product = _in_panels(read_tiles(text, plan.product.form, core, _of_one_size))
            panels = product.panels  # other tiles make other panels, which are shared out otherwise
            assert isinstance(panels, int)
            strips, shares = _shared_out(plan.blocks, panels)
            other = replace(plan, strips=strips, shares=shares, product=product)
            found.setdefault(winograd_text(other), ratio * block.cycles / least)
    return sorted((each for each in found.items() if each[1] <= NEAR_COST), key=lambda each: each[1])


def _well_apart(ways: Sequence[tuple[BlockOfTiles, int]]) -> list[tuple[BlockOfTiles, int]]:
    """The cheapest first; of blocks that are nearly as large, the cheapest alone."""
    found: list[tuple[BlockOfTiles, int]] = []
    for block, edge in sorted(ways, key=lambda way: way[0].cycles):
        alike = (b.tiles for b, e in found if e == edge)
        if all(max(block.tiles, t) >= _LARGER * min(block.tiles, t) for t in alike):
            found.append((block, edge))
    return found


def _planned(form: ContractionForm, core: Core, edge: int, tiles: int) -> WinogradPlan:
    found = geometry(form.rows, form.window)
    assert found is not None
    product = _in_panels(plan_contraction(_product(form, tiles), core, _of_one_size))
    blocks = -(-found.tiles(edge) // tiles)
    panels = product.panels
    assert isinstance(panels, int)
    return WinogradPlan(form, core, edge, tiles, *_shared_out(blocks, panels), product)


def _shared_out(blocks: int, panels: int) -> tuple[int, int]:
    """Strips, and shares of the columns."""
    if blocks >= _PARTS:
        return -(-blocks // -(-blocks // _STRIPS)), 1
    return blocks, max(min(panels, _PARTS // blocks), 1)


def _of_one_size(tiling: Tiling) -> bool:
    """Tiles of rows of one size: how many of them a block needs, which may not be full, is then a division."""
    return len(tiling.sizes) == 1


def _product(form: ContractionForm, tiles: int) -> ContractionForm:
    """Of a block of tiles at one point; where its operands begin, and its results lie, is not said."""
    return ContractionForm(
        name="product",
        a=Param(SCRATCH, DType.F32),
        b=form.b,
        out=Param(SCRATCH, DType.F32, True),
        accumulator=DType.F32,
        columns=form.columns,
        rows=(LoopAxis(tiles, _depth(form)),),
        channels=form.channels,
        is_part=True,
    )


def _in_panels(product: TilePlan) -> TilePlan:
    """A tile's sums of one panel follow those of the tile before."""
    (rows,) = product.form.rows
    return replace(product, form=replace(product.form, rows=(replace(rows, out=product.tiling.width),)))


class BlockOfTiles(NamedTuple):
    """Tiles of a block, and about how many cycles all of them take."""

    tiles: int
    cycles: float


@functools.lru_cache(maxsize=1024)
def _best_block(product: ContractionForm, core: Core, points: int, total: int) -> BlockOfTiles:
    """By products, and by what comes from beyond the second-level cache: taps once a block where they are many, and
    values once a panel where those of a block are. product: of one block, if there were only one.
    """
    return min(_blocks(product, core, points, total), key=lambda block: block.cycles)


def _blocks(product: ContractionForm, core: Core, points: int, total: int) -> Iterator[BlockOfTiles]:
    """Sizes of blocks, the largest first, down to the one from which on nothing is gained."""
    columns, (axis,) = product.columns, product.rows
    assert isinstance(columns, int) and isinstance(axis.a, int)
    depth = axis.a
    taps = 4 * points * columns * depth
    blocks = 1
    while True:
        tiles = -(-total // blocks)
        form = replace(product, rows=(replace(axis, extent=tiles),))
        tiling = plan_contraction(form, core, _of_one_size).tiling
        scratch = 4 * points * tiles * (depth + tiling.width)
        near = scratch <= _NEAR_SCRATCH
        passed = 0 if near else depth * (1 + -(-columns // tiling.width)) + 2 * columns  # values and sums of a tile
        moved = taps * (blocks if taps > CACHED_BYTES else 1) + 4 * points * total * passed
        products, waiting = tiling.cycles * points * blocks, moved / FAR_BYTES_PER_CYCLE
        cycles = max(products, waiting) + min(products, waiting) / 2
        shared = math.prod(_shared_out(blocks, -(-columns // tiling.width)))
        too_large = _LARGEST < scratch and tiles > _FEW_TILES
        yield BlockOfTiles(tiles, cycles * (1.0 + _EVEN * unevenness([1] * shared)) * (4.0 if too_large else 1.0))
        if (near and taps <= CACHED_BYTES and blocks >= _PARTS) or tiles <= _FEW_TILES:
            return
        blocks = max(blocks + 1, blocks * 9 // 8)


def winograd_text(plan: WinogradPlan) -> str:
    """The choices as plans have them."""
    head = f"{plan.edge}x{plan.edge} results, {plan.tiles} tiles a block, {plan.strips} strips, {plan.shares} shares"
    return f"{head}; {tiles_text(plan.product)}"


def products_at_points(direct: float, schedule: str) -> float:
    """Multiply-adds at the points, of a contraction that has so many directly, as a schedule has it: tiles that stick
    out of the result are counted by what is inside.
    """
    edge = int(schedule[:1]) if schedule[:1].isdigit() else _LARGE
    return direct * (edge + TAPS - 1) ** 2 / (edge * TAPS) ** 2


_TEXT = re.compile(
    r"(?P<edge>[24])x(?P=edge) results, (?P<tiles>\d{1,9}) tiles a block, (?P<strips>\d{1,9}) strips, "
    r"(?P<shares>\d{1,9}) shares; (?P<product>.*)"
)


def read_winograd(text: str, form: ContractionForm, core: Core) -> WinogradPlan:
    """Reads `winograd_text` back, for a form. Raises ValueError."""
    found = _TEXT.fullmatch(text)
    where = geometry(form.rows, form.window)
    if found is None or where is None:
        raise ValueError(f"{text[:80]!r} is no schedule of products at points")
    edge, tiles = int(found["edge"]), int(found["tiles"])
    if not 1 <= tiles <= where.tiles(edge):
        raise ValueError(f"{tiles} tiles a block, where there are {where.tiles(edge)}")
    product = _in_panels(read_tiles(found["product"], _product(form, tiles), core, _of_one_size))
    made = WinogradPlan(form, core, edge, tiles, int(found["strips"]), int(found["shares"]), product)
    panels = product.panels
    assert isinstance(panels, int)
    divided = made.shares == 1 or (made.shares <= panels and made.strips == made.blocks)
    if not 1 <= made.strips <= made.blocks or made.shares < 1 or not divided:
        raise ValueError(f"{text[:80]!r} does not share {made.blocks} blocks and {panels} panels out")
    return made
