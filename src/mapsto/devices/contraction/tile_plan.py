"""Plans a contraction by cost: register tile, loop order, row blocks; and says how many items threads share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from mapsto.devices.contraction.core import Core
from mapsto.devices.contraction.form import ContractionForm, LoopAxis
from mapsto.devices.contraction.packing import Packing, packing
from mapsto.devices.contraction.reduction import SlicedLoop, slice_rounds, sliced_loop
from mapsto.devices.contraction.tile import (
    FAR_BYTES_PER_CYCLE,
    PIECE,
    ProductShape,
    Tiling,
    anything,
    best_of_widths,
    tile_cycles,
    tilings,
)
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, ceildiv, floordiv, maximum, minimum, mul, product
from mapsto.machine.tuning import NEAR_COST

# Work of one item: small enough to share among threads, large enough to forget the item's own cost.
_ITEM_CYCLES = 50_000.0
_LEAST_CYCLES = 10_000.0
_ITEMS = 32  # wanted at least, so that shares of a few threads differ little
CACHED_BYTES = 256 * 1024  # A of a row block that many panels pass over: a part of the second-level cache
_PASSED_BYTES = 512 * 1024  # all of A, where panels pass over it one by one: what is in that cache, or comes fast
ASKED_BYTES = 32 * 1024  # of B, from which on other layers will have taken its place before it is read again
NEAR_BYTES = 1024 * 1024  # of the second-level cache
_LARGE_PANEL = 256 * 1024  # bytes, from which on it is met in slices
_SLICE_BYTES = 64 * 1024
_SHARED_BY = 4  # tiles at least
_LEAST_BLOCKS = 4  # items at least, of a product of few panels
_NEAR_SLICE = 128 * 1024  # bytes of both operands
_MOST_WAITING = 64 * 1024  # bytes of sums
_NEIGHBOURS_OF = 2
_TYPICAL = 256  # a run-time extent, where the cost rule needs a number


@dataclass(frozen=True)
class TilePlan:
    """The template's choices for a form.

    `rows_outer`: a block of rows meets every panel before the next block, else a panel every block. `slice`: rounds of
    the reduction's outermost loop after which the next row tile takes its turn (0: a tile's sums are made in one go).
    """

    form: ContractionForm
    core: Core
    tiling: Tiling
    rows_outer: bool
    chunk: int
    slice: int = 0
    rivals: tuple[tuple[str, float], ...] = field(default=(), compare=False)  # of a choice: texts, cycles over its own

    @property
    def packing(self) -> Packing:
        return packing(self.form, self.tiling)

    @property
    def panels(self) -> Dim:
        return self.packing.panels

    @property
    def units(self) -> Dim:
        """What row blocks are made of: tiles of the only row axis, or rows of the outer axes."""
        if len(self.form.rows) > 1:
            return product(axis.extent for axis in self.form.rows[:-1])
        if self.tiling.counts is not None:
            return sum(self.tiling.counts)
        return maximum(floordiv(self.form.rows[-1].extent, self.tiling.sizes[0]), 1)

    def first_row(self, unit: Dim) -> Dim:
        """Where a tile of the only row axis begins; where the one after the last would: the number of rows."""
        sizes, counts, rows = self.tiling.sizes, self.tiling.counts, self.form.rows[-1].extent
        if counts is None:  # those that fill no tile are the last one's
            return add(mul(unit, sizes[0]), mul(floordiv(unit, self.units), rows - mul(self.units, sizes[0])))
        if len(sizes) == 1:
            return mul(unit, sizes[0])
        return add(mul(unit, sizes[1]), minimum(unit, counts[0]))  # the first ones have a row more

    @property
    def blocks(self) -> Dim:
        return ceildiv(self.units, self.chunk)

    @property
    def tiles_a_unit(self) -> int:
        """Register tiles of one. Where the number of rows is known."""
        assert self.tiling.counts is not None
        return sum(self.tiling.counts) if len(self.form.rows) > 1 else 1

    @property
    def tiles_a_block(self) -> int:
        return self.chunk * self.tiles_a_unit

    @property
    def sliced(self) -> SlicedLoop:
        """What the slices are parts of."""
        found = self.sliced_loop
        assert found is not None
        return found

    @property
    def sliced_loop(self) -> SlicedLoop | None:
        """What slices are parts of; None where the sums of a row block cannot wait in a local array."""
        if self.form.is_part or self.form.scale is not None or self.tiling.counts is None:
            return None
        waiting = self.tiles_a_block * max(self.tiling.sizes) * self.tiling.width * self.form.accumulator.size
        return sliced_loop(self.form, self.tiling.width) if waiting <= _MOST_WAITING else None

    @property
    def extent(self) -> Dim:
        """The range that threads share."""
        return product([*(axis.extent for axis in self.form.batch), self.panels, self.blocks])


def _number(d: Dim, typical: int = _TYPICAL) -> int:
    return d if isinstance(d, int) else typical


def plan_contraction(form: ContractionForm, core: Core, allowed: Callable[[Tiling], bool] = anything) -> TilePlan:
    """Choose tile, loop order and row blocks by cost, among the tilings that are allowed."""
    shape = _shape(form, core)
    best, *others = best_of_widths(core, shape, _in_blocks(form, allowed))
    made = _planned(form, core, shape, best)
    beaten = tuple((tiles_text(_planned(form, core, shape, t)), t.cycles / best.cycles) for t in others[:1])
    return replace(made, rivals=beaten)


def near_tiles(
    form: ContractionForm, core: Core, allowed: Callable[[Tiling], bool] = anything
) -> list[tuple[str, float]]:
    """Choices that are not much dearer than the cheapest, as plans have them, with how often its cycles: other tiles;
    of the cheapest ones, the other loop order and other row blocks, of whose cost no closed form is good enough.
    """
    shape = _shape(form, core)
    ranked = sorted(filter(_in_blocks(form, allowed), tilings(core, shape)), key=lambda tiling: tiling.cycles)
    found: dict[str, float] = {}
    for number, tiling in enumerate(t for t in ranked if t.cycles <= NEAR_COST * ranked[0].cycles):
        made = _planned(form, core, shape, tiling)
        for each in (made, *(_neighbours(made, core, shape) if number < _NEIGHBOURS_OF else ())):
            found.setdefault(tiles_text(each), tiling.cycles / ranked[0].cycles)
    return sorted(found.items(), key=lambda each: each[1])


def _in_blocks(form: ContractionForm, allowed: Callable[[Tiling], bool]) -> Callable[[Tiling], bool]:
    """Of the tilings that are allowed, those whose panels lie in one block of B each."""
    block = form.b_block
    return (lambda tiling: block % tiling.width == 0 and allowed(tiling)) if block else allowed


def _neighbours(plan: TilePlan, core: Core, shape: ProductShape) -> list[TilePlan]:
    """The other loop order; row blocks of half and twice as many units, in slices where their sums can wait."""
    other = not plan.rows_outer
    work = _work(plan.form, core, shape, plan.tiling)
    turned = replace(plan, rows_outer=other, chunk=units_a_block(work, _bytes_of_a(plan.form) if other else 0))
    sizes = {max(plan.chunk // 2, 1), min(2 * plan.chunk, max(work.units, 1))} - {plan.chunk}
    found = [turned, *(replace(plan, chunk=size) for size in sorted(sizes))]
    return [replace(each, slice=0) if each.slice and each.sliced_loop is None else each for each in found]


def _planned(form: ContractionForm, core: Core, shape: ProductShape, tiling: Tiling) -> TilePlan:
    tiling = _closing(form, tiling)
    rows_outer = _rows_outer(form, core, shape, tiling)
    chunk = units_a_block(_work(form, core, shape, tiling), _bytes_of_a(form) if rows_outer else 0)
    return _sliced(TilePlan(form, core, tiling, rows_outer, chunk))


def _sliced(plan: TilePlan) -> TilePlan:
    """In slices, where a panel is too large for two of them to lie in the second-level cache, and several tiles meet
    each: row blocks have so many of them then.
    """
    panel, units = mul(plan.packing.panel, plan.packing.column_elements), plan.units
    if not isinstance(panel, int) or not isinstance(units, int) or plan.tiling.counts is None:
        return plan
    size = plan.form.b.element.size
    if _slides(plan.form):
        return _slid(plan)
    if panel * size <= _LARGE_PANEL or units * plan.tiles_a_unit < _SHARED_BY:
        return plan
    wanted = max(plan.chunk, -(-_SHARED_BY // plan.tiles_a_unit))
    plan = replace(plan, chunk=-(-units // max(units // wanted, 1)))
    whole = plan.sliced_loop
    return plan if whole is None else replace(plan, slice=slice_rounds(whole, _SLICE_BYTES // size))


def _slides(form: ContractionForm) -> bool:
    """Whether outer rows are an operand shifted by less than what is summed over along it: all of them read nearly the
    same elements (the gradient of a convolution's weights).
    """
    along = (*form.window, LoopAxis(form.channels, form.channel_stride))
    return any(
        isinstance(row.extent, int) and isinstance(w.extent, int) and 1 < row.extent < w.extent and row.a == w.a
        for row in form.rows[:-1]
        for w in along
    )


def _slid(plan: TilePlan) -> TilePlan:
    """Slices of both operands that stay near, each for as many of the shifts as can wait; several blocks of shifts
    where there are few panels.
    """
    form, units, panels, last = plan.form, plan.units, plan.panels, plan.form.rows[-1].extent
    assert isinstance(units, int)
    if not isinstance(panels, int) or not isinstance(last, int):
        return plan
    waiting = plan.tiles_a_unit * max(plan.tiling.sizes) * plan.tiling.width * form.accumulator.size
    blocks = max(-(-_LEAST_BLOCKS // panels), -(-units * waiting // _MOST_WAITING))
    plan = replace(plan, rows_outer=False, chunk=-(-units // min(blocks, units)))
    whole = plan.sliced_loop
    if whole is None:
        return plan
    places = max(whole.elements // plan.tiling.width, 1)
    rounds = _NEAR_SLICE // (places * (last * form.a.element.size + plan.tiling.width * form.b.element.size))
    return replace(plan, slice=slice_rounds(whole, max(rounds, 1) * whole.elements))


def _shape(form: ContractionForm, core: Core) -> ProductShape:
    rows = form.rows[-1]
    return ProductShape(
        rows.extent if isinstance(rows.extent, int) else None,
        form.columns if isinstance(form.columns, int) else None,
        _number(form.windows) * _number(form.groups),
        PIECE if form.staged else rows.a * form.a.element.size if isinstance(rows.a, int) else None,
        form.interleave * form.b.element.size,
        _widest(form, core),
        form.b_channel_stride is not None and not isinstance(form.columns, int),
        _rows(form) * _number(form.columns) * form.out.element.size > NEAR_BYTES,
        form.interleave == 2 and form.multiplied is DType.BF16 and core.has("dot_bf16"),
        core.lanes(form.staged) // form.interleave if form.staged else 0,
        _rows(form) == 1 and (form.scale is not None or is_far(_bytes_of_b(form))),
        form.adds_apart,
        0 if form.scale is None else form.nibbles or 1,
    )


def _rows(form: ContractionForm) -> int:
    rows = product(_number(axis.extent) for axis in form.rows)
    assert isinstance(rows, int)
    return rows


def _bytes_of_a(form: ContractionForm) -> int:
    return max(_rows(form) * _number(form.channels) * form.a.element.size, 1)


def _bytes_of_b(form: ContractionForm) -> int:
    return _number(form.columns) * _number(form.channels) * _number(form.windows) * form.b.element.size


def is_far(size: float) -> bool:
    """Whether an operand of so many bytes comes from beyond the second-level cache in each run, whatever else is."""
    return size > NEAR_BYTES


def streamed_cycles(form: ContractionForm) -> float:
    """Cycles that one core waits for B, where it is more than a part of the second-level cache and other layers have
    theirs; else none.
    """
    batches = math.prod(_number(axis.extent, 1) for axis in form.batch if axis.b != 0)
    size = _bytes_of_b(form) * batches
    return size / FAR_BYTES_PER_CYCLE if size > CACHED_BYTES else 0.0


def _rows_outer(form: ContractionForm, core: Core, shape: ProductShape, tiling: Tiling) -> bool:
    """Bytes from beyond the second-level cache: B once for every block of A's rows, or A once for every panel of B."""
    a, b = _bytes_of_a(form), _number(form.columns) * shape.steps * shape.group_bytes
    panels = max(_number(form.columns) // tiling.width, 1)
    work = _work(form, core, shape, tiling)
    return is_outer_by_rows(a, b, panels, -(-work.units // units_a_block(work, a)))


def is_outer_by_rows(a: int, b: int, panels: int, blocks: int) -> bool:
    """Whether blocks of rows that meet all panels bring fewer bytes into the second-level cache than panels that meet
    all rows. a, b: bytes of the operands.
    """
    return a > _PASSED_BYTES and a + blocks * b < b + panels * a


class SharedWork(NamedTuple):
    """What is divided into items: units of rows and the cycles of one beside one panel, panels, batches."""

    units: int
    cycles: float
    panels: int
    batch: int


def units_a_block(work: SharedWork, passed_over: int = 0) -> int:
    """Units of a row block: by work, by A's bytes where all panels pass over it (`passed_over`), and so that there are
    enough items, equally large, for several threads to finish together.
    """
    units = work.units
    chunk = max(int(_ITEM_CYCLES / max(work.cycles, 1.0)), 1)
    if passed_over:
        chunk = max(chunk, CACHED_BYTES * units // passed_over)
    least = max(int(_LEAST_CYCLES / max(work.cycles, 1.0)), 1)
    chunk = max(min(chunk, units * work.panels * work.batch // _ITEMS), min(least, chunk), 1)
    return -(-units // -(-units // chunk)) if units else 1


def _work(form: ContractionForm, core: Core, shape: ProductShape, tiling: Tiling) -> SharedWork:
    several = len(form.rows) > 1
    tiles = sum(tiling.counts) if tiling.counts else -(-_number(form.rows[-1].extent) // tiling.sizes[0])
    outer = product(_number(axis.extent) for axis in form.rows[:-1])
    batch = product(_number(axis.extent, 1) for axis in form.batch)
    assert isinstance(outer, int) and isinstance(batch, int)
    vectors = tiling.last if tiling.full_panels == 0 else tiling.panel
    cycles = tile_cycles(core, vectors, tiling.sizes[0], shape) * (tiles if several else 1)
    return SharedWork(outer if several else tiles, cycles, max(-(-_number(form.columns) // tiling.width), 1), batch)


def _widest(form: ContractionForm, core: Core) -> int:
    """Lanes of a vector: a register, or less where the output's blocks or the accumulators' size ask for it."""
    lanes = core.vector_bits // (8 * form.accumulator.size)
    return min(lanes, form.out_block) if form.out_block else lanes


def _closing(form: ContractionForm, tiling: Tiling) -> Tiling:
    """Where a block of the output ends in tail lanes, the last panel stands apart, so that it can store their zeros."""
    if not form.out_block or tiling.last or not isinstance(form.columns, int) or form.columns % form.out_block == 0:
        return tiling
    assert tiling.full_panels is not None
    return replace(tiling, last=tiling.panel, full_panels=tiling.full_panels - 1)


def tiles_text(plan: TilePlan) -> str:
    """The choices as plans have them: lanes of the vectors of a full panel and of the last one, how many panels, rows
    of the tiles (and how many of each), which loop is outside, units of a row block.
    """
    t = plan.tiling
    panels = f"{_list(t.panel, '+')} columns" + (f" then {_list(t.last, '+')}" if t.last else "")
    rows = _list(t.sizes, "/") + (f" {_list(t.counts, '/')} times" if t.counts is not None else "")
    full = "" if t.full_panels is None else f", {t.full_panels} full panels"
    order = "row blocks outside" if plan.rows_outer else "panels outside"
    slices = f"; slices of {plan.slice}" if plan.slice else ""
    return f"tile {panels} x {rows} rows{full}; {order}; {plan.chunk} units a block{slices}"


_TILES = re.compile(
    r"tile (?P<panel>[\d+]+) columns(?: then (?P<last>[\d+]+))? x (?P<sizes>[\d/]+)(?: (?P<counts>[\d/]+) times)? rows"
    r"(?:, (?P<full>\d{1,9}) full panels)?; (?P<order>row blocks|panels) outside; (?P<chunk>\d{1,9}) units a block"
    r"(?:; slices of (?P<slice>\d{1,9}))?"
)


def read_tiles(text: str, form: ContractionForm, core: Core, allowed: Callable[[Tiling], bool] = anything) -> TilePlan:
    """Reads `tiles_text` back, for a form; allowed: see `plan_contraction`. Raises ValueError."""
    found = _TILES.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is no schedule of tiles")
    chunk, rounds = int(found["chunk"]), int(found["slice"] or 0)
    for tiling in tilings(core, _shape(form, core)):  # any other would not cover the result
        made = TilePlan(form, core, _closing(form, tiling), found["order"] == "row blocks", chunk, rounds)
        if chunk > 0 and tiles_text(made) == text:
            if rounds and ((whole := made.sliced_loop) is None or rounds >= whole.rounds):
                raise ValueError(f"{text[:80]!r} has slices that its function cannot take")
            if not _in_blocks(form, allowed)(tiling):
                raise ValueError(f"{text[:80]!r} has tiles that its function cannot take")
            return made
    raise ValueError(f"{text[:80]!r} does not tile {form.columns} columns")


def _list(numbers: tuple[int, ...], by: str) -> str:
    return by.join(map(str, numbers))
