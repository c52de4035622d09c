"""Schedules of generic kernels: which iterators threads share out, and which one runs along the lanes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from mapsto.devices.generic.cost import (
    SegmentCosts,
    Vector,
    average_stride,
    estimate,
    lane_stride,
    row_estimate,
)
from mapsto.devices.generic.crossing import Tile, crosses, tile_of, widest
from mapsto.devices.generic.flat import FlatLoad, FlatSegment, collapsed_rows, flatten, simplified, substituted_segment
from mapsto.devices.generic.normal import normal_form
from mapsto.devices.generic.one_pass import in_one_pass
from mapsto.devices.generic.processor import Processor
from mapsto.devices.generic.rows import Segment, segments
from mapsto.devices.generic.temps import Temps, place_temps
from mapsto.devices.generic.windows import overlaps
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, ceildiv, mod, round_up, sym
from mapsto.kernel.ast import Cast, Const, Index, Iter, Kernel, Load, Op, Reduce, ranges_of, walk
from mapsto.machine.tuning import NEAR_COST
from mapsto.plan.layout import Layout, plain
from mapsto.plan.loop_forms import MOST_TILE_ROWS, lanes_for

_ONE_PASS = " in one pass"  # how the texts of such schedules end


@dataclass(frozen=True)
class RowSchedule:
    """How a kernel is walked. `vector`: "rows" (lanes are neighbouring rows), "inner" (each statement has its own
    vector), "transposed" (lanes are neighbouring rows; what is contiguous along other rows is transposed), "none".

    `axis`: which of the collapsed row iterators the lanes are of; `across`: which one the rows of tiles are of.
    `parts`: one schedule for each independent part of the kernel. `one_pass`: it is of the kernel `in_one_pass`.
    `reason`, `rivals`: for people; they decide nothing.
    """

    rows: int
    vector: str
    lanes: int
    reason: str
    axis: int = -1
    across: int = -1
    parts: tuple[RowSchedule, ...] = ()
    rivals: tuple[tuple[str, float], ...] = field(default=(), compare=False)  # of a choice: texts, cost over its cost
    one_pass: bool = False

    @property
    def each(self) -> tuple[RowSchedule, ...]:
        """One schedule for each part; a kernel over nothing has no part."""
        return self.parts if self.vector == "parts" else (self,)


@dataclass(frozen=True)
class KernelPart:
    """An independent part of a kernel, ready to be emitted."""

    segment: Segment
    flat: FlatSegment
    temps: Temps
    schedule: RowSchedule


def choose_schedule(kernel: Kernel, layouts: Mapping[str, Layout], processor: Processor) -> RowSchedule:
    """The cheapest schedule by a count of accesses and operations; in one pass where that pays."""
    chosen = _cheapest(kernel, layouts, processor)
    whole = in_one_pass(kernel) if chosen.vector == "inner" else None
    if whole is None or not whole.pays(chosen.lanes, processor.far_bytes) or len(_segments(whole.kernel)) != 1:
        return chosen
    reason = f"rows of {whole.row} elements are long enough for one pass; in two: {chosen.reason}"
    folded = replace(chosen, rows=len(_segments(whole.kernel)[0].rows), one_pass=True, reason=reason, rivals=())
    return folded if _has_its_temps(folded, kernel, processor) else chosen


def _has_its_temps(schedule: RowSchedule, kernel: Kernel, processor: Processor) -> bool:
    """Whether what needs a buffer is the kernel's own: one pass adds values of rows, which must stay in registers."""
    return {t.name for t in kernel.temps}.issuperset(scratch_temps(kernel, schedule, processor))


def _cheapest(kernel: Kernel, layouts: Mapping[str, Layout], processor: Processor) -> RowSchedule:
    lanes = lanes_of_types(kernel, layouts, processor.lanes)
    parts = tuple(_choose(kernel, s, layouts, lanes, processor) for s in _segments(kernel))
    if len(parts) == 1:
        return parts[0]
    reason = "; ".join(p.reason for p in parts)
    return RowSchedule(
        min((p.rows for p in parts), default=0),
        "parts",
        lanes,
        f"{len(parts)} independent parts: {reason}",
        parts=parts,
    )


def schedule_text(schedule: RowSchedule) -> str:
    """A schedule as plans have it: how, along which axis, lanes, rows; parts one after the other."""
    if schedule.vector == "parts":
        return " + ".join(map(schedule_text, schedule.parts)) or f"nothing x{schedule.lanes}"
    axis = "".join(f" {at}" for at in (schedule.axis, schedule.across) if at >= 0)
    return f"{schedule.vector}{axis} x{schedule.lanes} of {schedule.rows}" + _ONE_PASS * schedule.one_pass


def near_schedules(
    kernel: Kernel, layouts: Mapping[str, Layout], processor: Processor
) -> list[tuple[str, float]]:
    """Schedules whose cost is not much above the cheapest's, with how often it: of one part, the others as they are."""
    lanes = lanes_of_types(kernel, layouts, processor.lanes)
    ranked = [sorted(_ways(kernel, s, layouts, lanes, processor), key=lambda f: f[0]) for s in _segments(kernel)]
    whole = sum(part[0][0] for part in ranked)
    texts = [schedule_text(part[0][1]) for part in ranked]
    found = {" + ".join(texts): 1.0} if texts and 0 < whole < float("inf") else {}
    for at, (best, *others) in enumerate(ranked if found else []):
        for cost, schedule in others:
            if whole + cost - best[0] <= NEAR_COST * whole:
                text = " + ".join([*texts[:at], schedule_text(schedule), *texts[at + 1 :]])
                found.setdefault(text, (whole + cost - best[0]) / whole)
    return sorted(found.items(), key=lambda each: each[1])


def walked(kernel: Kernel, schedule: RowSchedule) -> Kernel:
    """The kernel that a schedule is of."""
    whole = in_one_pass(kernel) if schedule.one_pass else None
    return kernel if whole is None else whole.kernel


def read_schedule(text: str, kernel: Kernel, layouts: Mapping[str, Layout], processor: Processor) -> RowSchedule:
    """Reads `schedule_text` back, but for the reason. Raises ValueError for what is no schedule of this kernel."""
    if text.endswith(_ONE_PASS):
        whole = in_one_pass(kernel)
        if whole is None:
            raise ValueError(f"{text[:80]!r} does not fit a kernel that cannot be in one pass")
        made = replace(_read(text.removesuffix(_ONE_PASS), whole.kernel, layouts, processor), one_pass=True)
        if not _has_its_temps(made, kernel, processor):
            raise ValueError(f"{text[:80]!r} does not fit a kernel whose rows do not stay in registers")
        return made
    return _read(text, kernel, layouts, processor)


def _read(text: str, kernel: Kernel, layouts: Mapping[str, Layout], processor: Processor) -> RowSchedule:
    lanes = lanes_of_types(kernel, layouts, processor.lanes)
    texts = [] if text.startswith("nothing") else text.split(" + ")
    kernel_parts = _segments(kernel)
    if len(texts) != len(kernel_parts):
        raise ValueError(f"{text[:80]!r} are {len(texts)} schedules, the kernel has {len(kernel_parts)} parts")
    parts = tuple(_read_part(t, kernel, s, layouts, lanes, processor) for t, s in zip(texts, kernel_parts, strict=True))
    if len(parts) == 1:
        return parts[0]
    return RowSchedule(min((p.rows for p in parts), default=0), "parts", lanes, "", parts=parts)


def _read_part(
    text: str, kernel: Kernel, segment: Segment, layouts: Mapping[str, Layout], lanes: int, processor: Processor
) -> RowSchedule:
    found = re.fullmatch(r"(rows|transposed|inner|none)(?: (\d{1,3}))?(?: (\d{1,3}))? x(\d{1,3}) of (\d{1,3})", text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is no schedule of rows")
    axis, across = (int(number or -1) for number in (found[2], found[3]))
    made = RowSchedule(int(found[5]), found[1], int(found[4]), "", axis, across)
    temps = place_temps(segment, temp_shapes(kernel), _row_lanes(made), processor)
    flat = _flat(kernel, segment, with_plain(kernel, layouts, temps), temps)
    rows = flat.rows
    if made.vector == "rows":
        fits = 0 <= made.axis < len(rows) and 1 < made.lanes == lanes_for(rows[made.axis].extent, lanes)
        fits = fits and made.across < 0
    elif made.vector == "transposed":
        fits = made in (replace(s, reason="") for _, s in _in_tiles(flat, temps, len(segment.rows), processor))
    else:
        fits = made.axis < 0 and made.across < 0 and made.lanes == lanes and (made.vector == "inner") == (lanes > 1)
    if not fits or made.rows != len(segment.rows):
        raise ValueError(f"{text[:80]!r} does not fit a kernel of {len(segment.rows)} shared dims, {len(rows)} loops")
    return made


def scratch_temps(kernel: Kernel, schedule: RowSchedule, processor: Processor) -> tuple[str, ...]:
    """Temporaries that need a buffer from the planner (a whole tensor): too large, or of unknown size, for a local
    array.
    """
    kernel = walked(kernel, schedule)
    found: list[str] = []
    for segment, part in zip(_segments(kernel), schedule.each, strict=True):
        found += place_temps(segment, temp_shapes(kernel), _row_lanes(part), processor).buffers
    return tuple(found)


def prepare(
    kernel: Kernel, layouts: Mapping[str, Layout], schedule: RowSchedule, processor: Processor
) -> tuple[KernelPart, ...]:
    """The parts of a kernel under a schedule, flattened."""
    found = []
    for segment, part in zip(_segments(kernel), schedule.each, strict=True):
        temps = place_temps(segment, temp_shapes(kernel), _row_lanes(part), processor)
        missing = [t for t in temps.buffers if t not in layouts]
        assert not missing, f"{kernel.name}: the temporaries {missing} need a buffer; ask scratch_temps"
        found.append(KernelPart(segment, _flat(kernel, segment, layouts, temps), temps, part))
    return tuple(found)


@lru_cache(maxsize=16)
def _segments(kernel: Kernel) -> tuple[Segment, ...]:
    """A kernel's parts; asked for by each of the questions about one kernel."""
    return segments(normal_form(kernel))


def temp_shapes(kernel: Kernel) -> dict[str, tuple[DType, tuple[Dim, ...]]]:
    return {t.name: (t.dtype, t.shape) for t in kernel.temps}


def _row_lanes(schedule: RowSchedule) -> int:
    return schedule.lanes if schedule.vector in ("rows", "transposed") else 1


def lanes_of_types(kernel: Kernel, layouts: Mapping[str, Layout], lanes: int) -> int:
    """More lanes where every element is narrow, but no more than a block holds: beyond, neighbours lie elsewhere."""
    sizes = [1]
    for stmt in kernel.stmts:
        sizes.append(stmt.dtype.size)
        sizes += [n.dtype.size for n in walk(stmt.value) if isinstance(n, Load | Op | Cast | Const | Index)]
    wide = lanes * max(4 // max(sizes), 1)
    blocks = (layout.block.size for layout in layouts.values() if layout.block is not None)
    return min(wide, max(min(blocks, default=wide), lanes))


def _flat(kernel: Kernel, segment: Segment, layouts: Mapping[str, Layout], temps: Temps) -> FlatSegment:
    shapes = {t.name: t.shape for t in (*kernel.inputs, *kernel.outputs, *kernel.temps)}
    own = {t: layout for t, layout in layouts.items() if t not in near_tensors(temps)}
    return collapsed_rows(sorted_rows(flatten(segment, own, shapes), temps))


def sorted_rows(flat: FlatSegment, temps: Temps) -> FlatSegment:
    """Row iterators by the stride at which the last output is written: the farthest outermost."""
    near = near_tensors(temps)
    far = [s for s in flat.steps if s.target not in near]
    if not far:
        return flat
    place = far[-1].place
    lane = (flat.lane,) if flat.lane is not None else ()
    others = {i.name: 0 for i in (*flat.rows, *lane, *(i for g in flat.groups for i in g.inner))}
    order = sorted(range(len(flat.rows)), key=lambda k: (-average_stride(place, flat.rows[k], others), k))
    return replace(flat, rows=tuple(flat.rows[k] for k in order))


def near_tensors(temps: Temps) -> frozenset[str]:
    return temps.registers | {array.name for array in temps.arrays}


# ---- choosing ------------------------------------------------------------------------------------------------------


def _choose(
    kernel: Kernel, segment: Segment, layouts: Mapping[str, Layout], lanes: int, processor: Processor
) -> RowSchedule:
    found = _ways(kernel, segment, layouts, lanes, processor)
    (cost, schedule), *others = sorted(found, key=lambda f: f[0])
    rivals = ", ".join(f"{_short(s)} {c:.3g}" for c, s in found if s is not schedule)
    beaten = tuple((schedule_text(s), c / cost) for c, s in others[:1] if 0 < cost and c < float("inf"))
    reason = f"{schedule.reason}, cost {cost:.3g}" + (f" (others: {rivals})" if rivals else "")
    return replace(schedule, reason=reason, rivals=beaten)


def _ways(
    kernel: Kernel, segment: Segment, layouts: Mapping[str, Layout], lanes: int, processor: Processor
) -> list[tuple[float, RowSchedule]]:
    """All schedules of a part, with their costs."""
    rows = len(segment.rows)
    shapes = temp_shapes(kernel)
    temps = place_temps(segment, shapes, 1, processor)
    flat = _flat(kernel, segment, with_plain(kernel, layouts, temps), temps)
    costs = SegmentCosts(processor, lanes, near_tensors(temps), flat.rows)
    found = [_inner(flat, costs, rows)]
    if lanes > 1:
        wide = place_temps(segment, shapes, lanes, processor)
        if wide != temps:
            flat = _flat(kernel, segment, with_plain(kernel, layouts, wide), wide)
        costs = SegmentCosts(processor, lanes, near_tensors(wide), flat.rows)
        for axis in range(len(flat.rows)):
            found.append(_along_rows(flat, costs, axis, rows))
        found += _in_tiles(flat, wide, rows, processor)
    return found


def _short(schedule: RowSchedule) -> str:
    return schedule_text(schedule).partition(" x")[0]


def with_plain(kernel: Kernel, layouts: Mapping[str, Layout], temps: Temps) -> dict[str, Layout]:
    """Layouts, with the plain one for temporaries that will be given a buffer."""
    shapes = temp_shapes(kernel)
    return {**{t: plain(shapes[t][1]) for t in temps.buffers}, **layouts}


def _inner(flat: FlatSegment, costs: SegmentCosts, rows: int) -> tuple[float, RowSchedule]:
    lanes = costs.lanes
    found = [costs.best_inner(g) for g in flat.groups]
    each = sum(c for c, _ in found)
    named = [v.iter.name for _, v in found if v is not None]
    reason = (
        f"lanes along {', '.join(dict.fromkeys(named))}" if named else "lanes along reductions, where they are long"
    )
    cost = row_estimate(flat.rows) * (each + costs.cycles.row)
    kind = "inner" if lanes > 1 else "none"
    return cost, RowSchedule(rows, kind, lanes, reason if kind == "inner" else "no vectors")


def _along_rows(flat: FlatSegment, costs: SegmentCosts, axis: int, rows: int) -> tuple[float, RowSchedule]:
    it = flat.rows[axis]
    vector = Vector(it, lanes_for(it.extent, costs.lanes))
    each = sum(costs.group(g, vector) for g in flat.groups)
    around = costs.cycles.row if any(g.inner for g in flat.groups) else costs.cycles.round
    cost = row_estimate(flat.rows) * vector.waste * (each + around)
    if vector.lanes == 1:
        cost = float("inf")
    reason = f"{vector.lanes} lanes along rows {it.name} of {it.extent}"
    return cost, RowSchedule(rows, "rows", vector.lanes, reason, axis)


# ---- tiles ---------------------------------------------------------------------------------------------------------

def _in_tiles(flat: FlatSegment, temps: Temps, rows: int, processor: Processor) -> list[tuple[float, RowSchedule]]:
    """Every way to walk rows in tiles, where some accesses are contiguous along one and others along another."""
    if temps.arrays or temps.buffers or not crosses(flat):
        return []
    near = near_tensors(temps)
    found: list[tuple[float, RowSchedule]] = []
    axes = _contiguous_axes(flat, near, processor.lanes)
    for axis in axes:
        for across in axes:
            if axis != across:
                found += _tiles_along(flat, near, axis, across, rows, processor)
    return found


def _contiguous_axes(flat: FlatSegment, near: frozenset[str], lanes: int) -> list[int]:
    """Rows along which some access is contiguous, where there are several."""
    ranges = ranges_of(flat.rows)
    places = {s.place for s in flat.steps if s.target not in near}
    for step in flat.steps:
        places |= {n.place for n in walk(step.value) if isinstance(n, FlatLoad) and n.tensor not in near}
    axes = []
    for at, it in enumerate(flat.rows):
        vector = Vector(it, min(lanes_for(it.extent, lanes), 4))
        if vector.lanes > 1 and any(lane_stride(place, vector, ranges) == 1 for place in places):
            axes.append(at)
    return axes if len(axes) > 1 else []


def tile_height(lanes: int, size: int, processor: Processor) -> int:
    """Rows of tiles of elements of `size` bytes: as many as lanes, as far as what is loaded fits into registers beside
    what is made of it, but no fewer than are interleaved at once.
    """
    most = min(MOST_TILE_ROWS, max(processor.registers // 2, processor.chunk_bytes // size))
    return min(lanes, most)


def _tiles_along(
    flat: FlatSegment, near: frozenset[str], axis: int, across: int, rows: int, processor: Processor
) -> list[tuple[float, RowSchedule]]:
    found: list[tuple[float, RowSchedule]] = []
    size = widest(flat, near)
    most = min(processor.lanes * 4 // size, max(MOST_TILE_ROWS, 2 * processor.chunk_bytes // size))
    lanes = most
    while lanes >= max(min(most, 4), 2):  # smaller tiles move no more at a time than single elements do
        height = tile_height(lanes, size, processor)
        tile = tile_of(flat, near, flat.rows[axis], flat.rows[across], lanes, height, "@lane")
        if tile is None:
            return found
        if tile.narrow and (lanes > MOST_TILE_ROWS or 2 * tile.height > processor.registers):
            lanes //= 2
            continue
        it, other = tile.axis, tile.across
        sides = f"{lanes} along rows {it.name} of {it.extent} and {tile.height} across {other.name} of {other.extent}"
        schedule = RowSchedule(rows, "transposed", lanes, f"tiles of {sides}", axis, across)
        found.append((_tiles_cost(flat, tile, near, processor), schedule))
        whole = estimate(it.extent) % lanes == 0 and (tile.narrow or estimate(other.extent) % tile.height == 0)
        if whole and lanes <= MOST_TILE_ROWS:
            return found
        lanes //= 2
    return found


def _tiles_cost(flat: FlatSegment, tile: Tile, near: frozenset[str], processor: Processor) -> float:
    """Whole tiles, and what is left over row by row, in vectors under a mask that take about twice as long."""
    cycles, lanes = processor.cycles, tile.lanes
    # a row that is wider than the tile is high is stored in pieces, and put together of such when it is loaded
    pieces = 0 if tile.narrow else lanes // tile.height - 1
    crossed = tile.stages * cycles.shuffle + pieces * 2 * (cycles.shuffle + cycles.strided_load)
    stored = {place: crossed / cycles.shuffle for _, place in tile.stores}
    costs = SegmentCosts(processor, lanes, near | {name for name, _ in tile.loads}, tile.segment.rows, stored)
    each = sum(costs.group(g, Vector(Iter(tile.lane, lanes), lanes)) for g in tile.segment.groups)
    each += len(tile.loads) * (cycles.contiguous + crossed)
    edges = SegmentCosts(processor, lanes, near, flat.rows)
    each_edge = sum(edges.group(g, Vector(tile.axis, lanes)) for g in flat.groups)
    wide, high = estimate(tile.axis.extent), estimate(tile.across.extent)
    columns, rows = wide // lanes, high // tile.height
    left_over = rows * tile.height * (wide % lanes != 0) + high % tile.height * -(-wide // lanes)
    whole = columns * rows * tile.height * each  # written out: what counts the tiles runs beside them
    others = row_estimate(flat.rows) / max(wide * high, 1)
    return others * (whole + left_over * 2 * (each_edge + cycles.row))


# ---- rows as lanes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VectorAxis:
    """Rows whose lanes are `iterator`: `units` vectors counted by the row iterator `outer`; `tail` elements are in the
    last one(s). `fills`: the iterator, where blocks of targets along it hold whole vectors and are filled up; or ''.
    """

    outer: str
    iterator: str
    expression: Dim
    symbol: str
    count: int
    extent: Dim
    tail: Dim | None
    fills: str


def vector_rows(
    flat: FlatSegment, temps: Temps, axis: int, count: int, symbol: str, block: int | None
) -> tuple[FlatSegment, VectorAxis]:
    """The segment with one row iterator split into vectors and lanes; the others reordered and collapsed around it."""
    it = flat.rows[axis]
    outer = Iter(f"{it.name}_v", ceildiv(it.extent, count) if block is None else round_up(it.extent, block) // count)
    expression = sym(outer.name) * count + sym(symbol)
    tail = None if block is None and mod(it.extent, count) == 0 else it.extent - sym(outer.name) * count
    rows = tuple(outer if i is it else i for i in flat.rows)
    split = replace(substituted_segment(flat, {it.name: expression}), rows=rows, lane=Iter(symbol, count))
    split = _windows_innermost(sorted_rows(simplified(split), temps), outer)
    split = collapsed_rows(split, [tail] if tail is not None else [])
    fills = "" if block is None else it.name
    return split, VectorAxis(outer.name, it.name, expression, symbol, count, it.extent, tail, fills)


def _windows_innermost(split: FlatSegment, outer: Iter) -> FlatSegment:
    """Vectors that are counted innermost, as where channels lie so in one piece, are counted outside of a row along
    which windows overlap: vectors of one row have nothing in common, neighbours share points and weights. Where windows
    overlap along the vectors too, guards on these are decided for all but the first and the last: they stay innermost.
    """
    if len(split.rows) < 2 or split.rows[-1].name != outer.name:
        return split
    *others, row, last = split.rows
    found = [n for s in split.steps for n in walk(s.value) if isinstance(n, Reduce)]
    lane = split.lane.name if split.lane is not None else ""
    if not any(overlaps(e, row.name) for e in found) or any(overlaps(e, lane) for e in found):
        return split
    return replace(split, rows=(*others, last, row))
