"""Where some accesses are contiguous along one row iterator and the others along another: tiles of both.

A tile is `height` rows of `lanes` elements each; lanes are as many as rows, or more. Lanes run along one iterator (the
tile's *axis*), rows along the other one (*across*). What is contiguous along the axis is accessed row by row; what is
contiguous along the other iterator is *crossed*: loaded or stored as whole vectors along that one, and transposed in
registers. A *narrow* tile has all of a short `across`, whose elements lie side by side all along the axis (the channels
of an image): its crossed accesses are streams, taken apart or put together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mapsto.devices.generic.flat import FlatLoad, FlatSegment, FlatStep, simplified, substituted_segment
from mapsto.ir.expr import Dim, floordiv, linear, loads, sym, symbols
from mapsto.kernel.ast import Iter, Load, Reduction, Scalar, Where, children, transform, walk
from mapsto.plan.loop_forms import shuffles


@dataclass(frozen=True)
class Tile:
    """How rows are walked in tiles.

    columns, rows: iterators over whole tiles, along the axis and across (of one round where the tile is narrow). lane,
    row: symbols inside a tile. segment: flat steps over these; a crossed load in it reads `row` of a value of its own.
    loads: by the name of such a value, what is loaded. stores: crossed (target, place).
    """

    axis: Iter
    across: Iter
    lanes: int
    height: int
    narrow: bool
    columns: Iter
    rows: Iter
    lane: str
    row: str
    segment: FlatSegment
    loads: tuple[tuple[str, FlatLoad], ...]
    stores: frozenset[tuple[str, Dim]]

    @property
    def stages(self) -> int:
        """Shuffles for each vector of a crossed access."""
        return shuffles(self.height)


def crosses(flat: FlatSegment) -> bool:
    """Whether each point of the rows is one element of every step, independent of all others."""
    return len(flat.rows) > 1 and not any(
        group.inner or s.scan or s.ordered or any(isinstance(node, Reduction) for node in walk(s.value))
        for group in flat.groups
        for s in group.steps
    )


def widest(flat: FlatSegment, near: frozenset[str]) -> int:
    """Bytes of the largest element that a step touches in memory."""
    sizes = [s.dtype.size for s in flat.steps if s.target not in near]
    for step in flat.steps:
        sizes += [n.dtype.size for n in walk(step.value) if isinstance(n, Load) and n.tensor not in near]
    return max(sizes, default=1)


def tile_of(
    flat: FlatSegment, near: frozenset[str], axis: Iter, across: Iter, lanes: int, height: int, lane: str
) -> Tile | None:
    """Tiles of `height` rows, or all where there are fewer, of `lanes` along `axis`; None where nothing is crossed.
    near: tensors that lie in no memory.
    """
    narrow = isinstance(across.extent, int) and across.extent < height
    height = across.extent if narrow else height  # type: ignore[assignment]
    columns = Iter(f"{axis.name}_t", floordiv(axis.extent, lanes))
    rows = Iter(f"{across.name}_t", 1 if narrow else floordiv(across.extent, height))
    row = f"{across.name}_r"
    values: dict[str, Dim] = {
        axis.name: sym(columns.name) * lanes + sym(lane),
        across.name: sym(row) if narrow else sym(rows.name) * height + sym(row),
    }
    others = tuple(i for i in flat.rows if i is not axis and i is not across)
    split = replace(substituted_segment(flat, values), rows=(*others, rows, columns, Iter(row, height)))
    split = simplified(replace(split, lane=Iter(lane, lanes)))
    split = replace(split, rows=(*others, rows, columns))
    written = {s.target for s in split.steps}
    apart = height if narrow else None
    found: dict[FlatLoad, str] = {}
    for step in split.steps:
        for load in _unguarded(step.value):
            if load.tensor not in near | written and load not in found and _crossed(load.place, lane, row, apart):
                found[load] = f"crossed {len(found)}"
    read = {node.tensor for s in split.steps for node in walk(s.value) if isinstance(node, Load)}
    stores = frozenset(
        (s.target, s.place) for s in split.steps if s.target not in near | read and _crossed(s.place, lane, row, apart)
    )
    if not found and not stores:
        return None
    segment = replace(
        split,
        groups=tuple(replace(g, steps=tuple(_reading(s, found, row) for s in g.steps)) for g in split.groups),
    )
    named = tuple((name, load) for load, name in found.items())
    return Tile(axis, across, lanes, height, narrow, columns, rows, lane, row, segment, named, stores)


def _unguarded(e: Scalar) -> Iterator[FlatLoad]:
    """Loads that may be made whatever guards say."""
    for node in walk(e):
        if isinstance(node, FlatLoad) and node.inside:
            yield node
    if isinstance(e, FlatLoad):
        yield e
    elif not isinstance(e, Where):
        for child in children(e):
            yield from _unguarded(child)


def _crossed(place: Dim, lane: str, row: str, apart: int | None) -> bool:
    """Whether neighbours across are neighbours in memory, and those along the axis are not (or are `apart`)."""
    if loads(place):
        return False
    across = linear(place, row)
    along = None if across is None or across.coefficient != 1 else linear(across.rest, lane)
    if along is None or along.coefficient in (0, 1) or symbols(along.coefficient) & {lane, row}:
        return False
    return apart is None or along.coefficient == apart


def _reading(step: FlatStep, found: dict[FlatLoad, str], row: str) -> FlatStep:
    def leaf(node: Scalar) -> Scalar | None:
        name = found.get(node) if isinstance(node, FlatLoad) else None
        return None if name is None else FlatLoad.of(name, node.dtype, sym(row))

    return replace(step, value=transform(step.value, leaf))
