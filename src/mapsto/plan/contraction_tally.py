"""A tally of a contraction: products over what the maker's template reaches, the epilogue in its lanes, operands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Iter, Stmt
from mapsto.kernel.compose import loads_of
from mapsto.machine.cost import Stream, Tally
from mapsto.machine.spec import MULTIPLY_ADD, DeviceSpec
from mapsto.plan.contraction import ACCUMULATOR, Contraction
from mapsto.plan.layout import Layout, plain
from mapsto.plan.patterns import Placed, Sizes, Stepping, extent, number, placed, walks
from mapsto.plan.row_tally import Counts, count_in_lanes, streams_of
from mapsto.plan.row_work import work_of


@dataclass(frozen=True)
class Extents:
    """A contraction in numbers: what a template looks at.

    batch: product of the batch axes. rows: row axes, neighbours joined where every operand walks on evenly; tiles lie
    along the last. columns, channels, windows: products. row_bytes: how far apart A's rows are; channel_block,
    out_block: of the layouts, or 0. open_rows, open_columns: known only to a run.
    """

    batch: int
    rows: tuple[int, ...]
    columns: int
    channels: int
    windows: int
    row_bytes: int
    out_block: int
    open_rows: bool
    open_columns: bool

    @property
    def products(self) -> float:
        return float(self.batch) * math.prod(self.rows) * self.columns * self.channels * self.windows


@dataclass(frozen=True)
class TemplateShare:
    """What a maker says of its template for one contraction: the share of the peak that its tiles leave (above 1 where
    it takes fewer products), how often A and B pass by, what lies between two passes (bytes), and parts that units can
    take. bytes_b: of B as the template reads it; None: as it lies.
    """

    share: float
    passes_a: float = 1.0
    between_a: float = 0.0
    passes_b: float = 1.0
    between_b: float = 0.0
    shares: float = math.inf
    bytes_b: float | None = None


@dataclass(frozen=True)
class WinogradShare:
    """What a maker says of doing a contraction by products at points: of the products, and of the way there and back.

    added, moved: elements that are added, and that pass between memory and registers. values: bytes of scratch memory
    that pass; between: bytes from writing some to reading them.
    """

    products: TemplateShare
    added: float
    moved: float
    values: float
    between: float


def extents_of(c: Contraction, final: str, layouts: Mapping[str, Layout], sizes: Mapping[str, int]) -> Extents:
    """The numbers of a contraction whose result lies as `final` does."""
    guess = Sizes.of(sizes)
    extents = {i.name: extent(i.extent, guess) for i in (*c.iters, *c.reds)}
    a, out = placed(layouts[c.a.tensor], guess), placed(layouts[final], guess)
    of_a, of_out = walks(a, c.a.index, extents, guess), walks(out, c.index, extents, guess)
    rows = _joined(c.rows, of_a, of_out, extents)
    last = rows[-1][0] if rows else ""
    step = of_a[last].step if last in of_a else 0.0
    block = layouts[final].block

    def whole(iters: Sequence[Iter]) -> int:
        return math.prod(extents[i.name] for i in iters)

    return Extents(
        whole(c.batch),
        tuple(extent for _, extent in rows) or (1,),
        whole(c.cols),
        whole(c.channels),
        whole(c.windows),
        int(abs(step)) * c.a.dtype.size,
        0 if block is None or block[0] != c.column_dim else block[1],
        any(not isinstance(i.extent, int) for i in c.rows),
        any(not isinstance(i.extent, int) for i in c.cols),
    )


def _joined(
    rows: Sequence[Iter], a: Mapping[str, Stepping], out: Mapping[str, Stepping], extents: Mapping[str, int]
) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for it in rows:
        count = extents[it.name]
        if count == 1:
            continue
        if found and all(_goes_on(m.get(found[-1][0]), m.get(it.name), count) for m in (a, out)):
            found[-1] = (it.name, found[-1][1] * count)
        else:
            found.append((it.name, count))
    return found


def _goes_on(outer: Stepping | None, inner: Stepping | None, extent: int) -> bool:
    if outer is None or inner is None:
        return outer is inner
    return outer.run == inner.run == math.inf and outer.step == inner.step * extent


def contraction_tally(
    c: Contraction,
    epilogue: Sequence[Stmt],
    values: Mapping[str, Value],
    layouts: Mapping[str, Layout],
    sizes: Mapping[str, int],
    spec: DeviceSpec,
    reach: TemplateShare,
    distances: Mapping[str, float] | None = None,
) -> Tally:
    """What a contraction and the statements on its accumulators do. `layouts`: of every tensor in memory."""
    final = epilogue[-1].target if epilogue else c.target
    guess = Sizes.of(sizes)
    extents = {i.name: extent(i.extent, guess) for i in (*c.iters, *c.reds)}
    products = float(math.prod(extents.values()))
    if products == 0:
        return Tally()
    counts = _epilogue_counts(c, epilogue, values, layouts, guess, spec)
    counts.operations += 2 * products
    streams = _streams(c, epilogue, final, extents, layouts, guess, values, reach, distances or {})
    types = (c.a.dtype, c.b.dtype, c.dtype)
    return replace(counts.tally(tuple(streams), reach.shares), products={types: products / reach.share})


def winograd_tally(tally: Tally, share: WinogradShare) -> Tally:
    """tally: of the products alone, as `contraction_tally` counts them by `share.products`."""
    if not tally.products:
        return tally
    elements, moves = dict(tally.elements), dict(tally.moves)
    elements[MULTIPLY_ADD] = elements.get(MULTIPLY_ADD, 0.0) + share.added
    moves["contiguous"] = moves.get("contiguous", 0.0) + share.moved
    half = share.values / 2
    passing = (Stream(half, share.between, again=True), Stream(half, share.between, True, again=True))
    return replace(tally, elements=elements, moves=moves, streams=(*tally.streams, *passing))


def _epilogue_counts(
    c: Contraction,
    epilogue: Sequence[Stmt],
    values: Mapping[str, Value],
    layouts: Mapping[str, Layout],
    sizes: Sizes,
    spec: DeviceSpec,
) -> Counts:
    """Lanes run along the columns; accumulators are in registers, and results are stored with the tile."""
    counts = Counts()
    inside = {c.target, ACCUMULATOR, *(s.target for s in epilogue)}
    others = {load.tensor for stmt in epilogue for load in loads_of(stmt)} - inside
    where = {name: placed(layouts[name], sizes) for name in others if name in layouts}
    near = {name: _plain(values[name], sizes) for name in inside if name in values}
    dim = c.column_dim
    for stmt in epilogue:
        work = work_of(stmt, where, near, sizes)
        if all(work.extents[i] > 0 for i in work.iters):
            lane = None if dim is None else stmt.iters[dim].name
            count_in_lanes(work, lane, inside, spec, counts)
    return counts


def _plain(value: Value, sizes: Sizes) -> Placed:
    return placed(plain(value.shape), sizes)


def _streams(
    c: Contraction,
    epilogue: Sequence[Stmt],
    final: str,
    extents: Mapping[str, int],
    layouts: Mapping[str, Layout],
    sizes: Sizes,
    values: Mapping[str, Value],
    reach: TemplateShare,
    distances: Mapping[str, float],
) -> list[Stream]:
    read = {load.tensor: _touched(load.index, extents, layouts.get(load.tensor), sizes) * load.dtype.packed_size
            for load in c.operands}  # fmt: skip
    if reach.bytes_b is not None:
        read[c.b.tensor] = reach.bytes_b
    inside = {c.target, *(stmt.target for stmt in epilogue)}
    elements = math.prod(extents[i.name] for i in c.iters)
    written = {t: elements * float(values[t].dtype.size) for t in sorted(inside) if t in layouts or t == final}
    again = [
        Stream(read[c.a.tensor] * (reach.passes_a - 1), reach.between_a, again=True),
        Stream(read[c.b.tensor] * (reach.passes_b - 1), reach.between_b, again=True),
    ]
    others = {
        load.tensor: math.prod(extent(d, sizes) for d in values[load.tensor].shape) * float(load.dtype.size)
        for stmt in epilogue
        for load in loads_of(stmt)
        if load.tensor in layouts and load.tensor not in inside and load.tensor not in read
    }
    return [*streams_of(read | others, written, distances), *(s for s in again if s.bytes > 0)]


def _touched(index: Sequence[Dim], extents: Mapping[str, int], layout: Layout | None, sizes: Sizes) -> float:
    names = {n for e in index if not isinstance(e, int) for n in e.names}
    count = float(math.prod(extent for name, extent in extents.items() if name in names))
    return count if layout is None else min(count, float(number(layout.elements, sizes)))
