"""Correlations of images, shifted by 3x3 places, with fewer products: which forms there are for it, and what is chosen
for one. The gradient of a convolution's weights is one: of its input with the gradient of its result.

    out[dy, dx, channel, column] = sum over images, y, x of  A[image, y+dy, x+dx, channel] * B[image, y, x, column]

B is divided into tiles of m x m places, which meet (m + 2)^2 of A:

    values of A at the points = T^T a T,  of B = G b G^T      (m + 2)^2 points
    sums at the points = values of A^T * values of B          one matrix product a point, over all tiles
    out = R^T sums R

It is the short convolution of `toom_cook` with m taps and 3 results, whose sums are made before their results are
(A. Lavin, S. Gray, 2015, section 4.3: F(3x3, m x m)). Tiles are done in blocks, whose values stay in the second-level
cache, as do the sums of a block of channels by a block of columns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from mapsto.devices.contraction.core import Core
from mapsto.devices.contraction.form import ContractionForm, LoopAxis
from mapsto.devices.contraction.planes import plane
from mapsto.devices.contraction.tile import Tiling
from mapsto.devices.contraction.tile_plan import NEAR_BYTES, TilePlan, plan_contraction, read_tiles, tiles_text
from mapsto.devices.contraction.toom_cook import operations, short_convolution
from mapsto.devices.contraction.winograd_plan import SCRATCH
from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Param
from mapsto.machine.tuning import NEAR_COST
from mapsto.plan.correlation import SHIFTS

SUMS = "sums"
EDGES_OF_B = (2,)  # whose roundings are those of direct sums
_PARTS = 8  # that threads can take
_HELD_BYTES = NEAR_BYTES // 4  # of sums, at most: beside values, where those of several blocks are to stay
_PRODUCT_BYTES = 24 * 1024  # of the values of a block of tiles at one point: the nearest cache's
_FEWEST_TILES, _MOST_TILES = 16, 256  # of a block: sums come and go once for each


@dataclass(frozen=True)
class Images:
    """An operand: an element at start + outer . strides + y * down + x * across + its channel, which is innermost, or
    lies in blocks (block 0: it does not).
    """

    param: Param
    start: int
    outer: tuple[int, ...]
    down: int
    across: int
    block: int = 0
    block_stride: int = 0


@dataclass(frozen=True)
class Correlation:
    """outer: extents of what is summed over besides places. height, width: of B. channels: of A. columns: B's
    channels. axes: which of the results' row axes are dy, dx and the channel.
    """

    a: Images
    b: Images
    outer: tuple[int, ...]
    height: int
    width: int
    channels: int
    columns: int
    axes: tuple[int, int, int]

    @property
    def images(self) -> int:
        return math.prod(self.outer)

    @property
    def places(self) -> int:
        return self.images * self.height * self.width

    def grid(self, m: int) -> tuple[int, int]:
        return -(-self.height // m), -(-self.width // m)

    def tiles(self, m: int) -> int:
        down, across = self.grid(m)
        return down * across * self.images


def is_correlation(form: Correlation, core: Core) -> bool:
    """Whether vectors of this core take it whole."""
    lanes = core.lanes(DType.F32)
    sizes = (form.channels, form.columns, form.a.block, form.b.block)
    return lanes > 1 and form.places > 0 and all(size % lanes == 0 for size in sizes)


@dataclass(frozen=True)
class CorrelationPlan:
    """The choices for a form. edge: places of a tile in one dimension. tiles: of a block. Threads share parts of the
    images, each for blocks of channels by blocks of columns. product: of these, over a block of tiles at one point.
    """

    form: Correlation
    core: Core
    edge: int
    tiles: int
    parts: int
    product: TilePlan
    rivals: tuple[tuple[str, float], ...] = field(default=(), compare=False)

    @property
    def lanes(self) -> int:
        return self.core.lanes(DType.F32)

    @property
    def points(self) -> int:
        return (self.edge + SHIFTS - 1) ** 2

    @property
    def channels(self) -> int:
        """Of a block."""
        (rows,) = self.product.form.rows
        assert isinstance(rows.extent, int)
        return rows.extent

    @property
    def columns(self) -> int:
        """Of a block."""
        assert isinstance(self.product.form.columns, int)
        return self.product.form.columns

    @property
    def blocks(self) -> int:
        """Of tiles."""
        return -(-self.form.tiles(self.edge) // self.tiles)

    @property
    def blocks_of_a_part(self) -> int:
        return -(-self.blocks // self.parts)

    @property
    def channel_blocks(self) -> int:
        return self.form.channels // self.channels

    @property
    def column_blocks(self) -> int:
        return self.form.columns // self.columns

    @property
    def extent(self) -> int:
        """The range that threads share."""
        return self.parts * self.channel_blocks * self.column_blocks

    @property
    def plane_a(self) -> int:
        """Elements from A's values at one point to those at the next."""
        return plane(self.tiles * self.channels, DType.F32.size)

    @property
    def plane_b(self) -> int:
        """Elements from B's values at one point to those at the next."""
        return plane(self.tiles * self.columns, DType.F32.size)

    @property
    def region(self) -> int:
        """Elements of scratch memory for the values of one item."""
        return self.points * (self.plane_a + self.plane_b)

    @property
    def held(self) -> int:
        """Elements of an item's sums."""
        return self.points * self.channels * self.columns


class _Choice(NamedTuple):
    cycles: float
    tiles: int
    channels: int
    columns: int
    parts: int


def plan_correlation(form: Correlation, core: Core) -> CorrelationPlan:
    """Chooses by products, by what is added on the way to the points, and by how often sums come and go."""
    (edge,) = EDGES_OF_B
    return _planned(form, core, edge, min(_choices(form, core, edge)))


def near_correlation(form: Correlation, core: Core) -> list[tuple[str, float]]:
    """Choices that are not much dearer than the cheapest, as plans have them, with how often its cycles."""
    (edge,) = EDGES_OF_B
    ranked = sorted(_choices(form, core, edge))
    near = [choice for choice in ranked if choice.cycles <= NEAR_COST * ranked[0].cycles]
    return [(correlation_text(_planned(form, core, edge, c)), c.cycles / ranked[0].cycles) for c in near]


def _planned(form: Correlation, core: Core, edge: int, choice: _Choice) -> CorrelationPlan:
    product = plan_contraction(_product(choice.tiles, choice.channels, choice.columns), core, _of_one_size)
    return CorrelationPlan(form, core, edge, choice.tiles, choice.parts, product)


def _of_one_size(tiling: Tiling) -> bool:
    return len(tiling.sizes) == 1


def _product(tiles: int, channels: int, columns: int) -> ContractionForm:
    """Of a block of tiles at one point; where its operands begin is not said."""
    return ContractionForm(
        name="product",
        a=Param(SCRATCH, DType.F32),
        b=Param(SCRATCH, DType.F32),
        out=Param(SUMS, DType.F32, True),
        accumulator=DType.F32,
        columns=columns,
        rows=(LoopAxis(channels, 1, out=columns),),
        channels=tiles,
        channel_stride=channels,
        is_part=True,
    )


def _choices(form: Correlation, core: Core, edge: int) -> Iterator[_Choice]:
    points, total, lanes = (edge + SHIFTS - 1) ** 2, form.tiles(edge), core.lanes(DType.F32)
    to_a, to_b = (instructions / core.loads_per_cycle for instructions in _to_points(edge))
    for channels in _blocks(form.channels, lanes):
        for columns in _blocks(form.columns, lanes):
            if 4 * points * channels * columns > _HELD_BYTES and (channels, columns) != (lanes, lanes):
                continue
            wanted = _PRODUCT_BYTES // (4 * (channels + columns))
            blocks = -(-total // min(max(wanted, _FEWEST_TILES), _MOST_TILES))
            tiles = -(-total // blocks)
            tiling = plan_contraction(_product(tiles, channels, columns), core, _of_one_size).tiling
            passing = 3.0 * points * channels * columns / lanes  # sums that come, are added to, and go
            to_points = tiles * (channels * to_a + columns * to_b) / lanes
            pairs = (form.channels // channels) * (form.columns // columns)
            parts = min(max(-(-_PARTS // pairs), 1), blocks)
            parts = -(-blocks // -(-blocks // parts))
            cycles = blocks * pairs * (tiling.cycles * points + passing + to_points)
            yield _Choice(cycles, tiles, channels, columns, parts)


def _to_points(edge: int) -> tuple[float, float]:
    """Instructions for a vector of a tile of A, and one of B: loads, what is added both ways, stores."""
    short, points = short_convolution(SHIFTS, edge), (edge + SHIFTS - 1) ** 2
    count = short.products
    of_a = points + 2 * count * operations(short.inputs) + points
    return of_a, edge**2 + (edge + count) * operations(short.taps) + points


def _blocks(extent: int, lanes: int) -> Iterator[int]:
    """What divides an extent into equal blocks of whole vectors."""
    for count in range(1, extent // lanes + 1):
        if extent % (count * lanes) == 0:
            yield extent // count


def correlation_text(plan: CorrelationPlan) -> str:
    """The choices as plans have them."""
    head = f"{plan.edge}x{plan.edge} places, {plan.tiles} tiles a block, {plan.parts} parts, "
    return f"{head}{plan.channels} channels by {plan.columns} columns; {tiles_text(plan.product)}"


_TEXT = re.compile(
    r"(?P<edge>2)x(?P=edge) places, (?P<tiles>\d{1,9}) tiles a block, (?P<parts>\d{1,9}) parts, "
    r"(?P<channels>\d{1,9}) channels by (?P<columns>\d{1,9}) columns; (?P<product>.*)"
)


def read_correlation(text: str, form: Correlation, core: Core) -> CorrelationPlan:
    """Reads `correlation_text` back, for a form. Raises ValueError."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is no schedule of a correlation at points")
    edge, tiles, parts, channels, columns = (int(found[k]) for k in ("edge", "tiles", "parts", "channels", "columns"))
    lanes = core.lanes(DType.F32)
    if channels not in _blocks(form.channels, lanes) or columns not in _blocks(form.columns, lanes):
        raise ValueError(f"{channels} by {columns} do not divide {form.channels} channels by {form.columns} columns")
    if not 1 <= tiles <= form.tiles(edge):
        raise ValueError(f"{tiles} tiles a block, where there are {form.tiles(edge)}")
    product = read_tiles(found["product"], _product(tiles, channels, columns), core, _of_one_size)
    made = CorrelationPlan(form, core, edge, tiles, parts, product)
    if not 1 <= parts <= made.blocks or product.slice:
        raise ValueError(f"{text[:80]!r} does not share {made.blocks} blocks out")
    return made
