"""A tally of statements that share rows: what plain loops over them do on a device with vectors.

Lanes run along the iterator that costs least: one of the rows that all statements share, or, for each statement, one of
its own iterators or of its reductions'. Code generation makes the same choice, in algebra instead of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mapsto.ir.graph import Value
from mapsto.kernel.ast import Stmt
from mapsto.loop.ast import WIDEST_SHUFFLED_STRIDE
from mapsto.machine.cost import Stream, Tally, busy_seconds
from mapsto.machine.spec import MULTIPLY_ADD, DeviceSpec
from mapsto.plan.layout import Layout, plain
from mapsto.plan.loop_forms import FEWEST_ROWS, MOST_STAGED, MOST_TILE_ROWS, accumulators, lanes_for, shuffles
from mapsto.plan.patterns import Placed, Sizes, Stepping, number, placed
from mapsto.plan.row_work import RowNode, RowWork, work_of

_ROUND = 2.0  # scalar operations of a loop's round besides its body
# Rounds of a reduction whose latency neighbouring reductions hide, on units that look ahead: no `DeviceSpec` says how
# far one does.
_SHORT_CHAIN = 32
_SHORT_RUN = 12  # neighbours in a row below which a vector of them is put together element by element


@dataclass
class Counts:
    """A tally in the making."""

    elements: dict[str, float] = field(default_factory=dict)
    moves: dict[str, float] = field(default_factory=dict)
    scalar: float = 0.0
    loops: float = 0.0
    chain: float = 0.0
    operations: float = 0.0

    def element(self, cls: str, count: float) -> None:
        self.elements[cls] = self.elements.get(cls, 0.0) + count

    def move(self, cls: str, count: float) -> None:
        self.moves[cls] = self.moves.get(cls, 0.0) + count

    def add(self, other: Counts, share: float = 1.0) -> None:
        for cls, count in other.elements.items():
            self.element(cls, share * count)
        for cls, count in other.moves.items():
            self.move(cls, share * count)
        self.scalar += share * other.scalar
        self.loops += share * other.loops
        self.chain += share * other.chain
        self.operations += share * other.operations

    def tally(self, streams: tuple[Stream, ...] = (), shares: float = math.inf) -> Tally:
        return Tally(
            {}, self.elements, self.moves, self.scalar, self.loops, self.chain, streams, shares, 1, self.operations
        )


def rows_tally(
    stmts: Sequence[Stmt],
    values: Mapping[str, Value],
    layouts: Mapping[str, Layout],
    sizes: Mapping[str, int],
    spec: DeviceSpec,
    distances: Mapping[str, float] | None = None,
) -> Tally:
    """What statements do as plain loops. `layouts`: of every tensor in memory; targets without one stay in the kernel.

    `sizes`: a guess for each open size. `distances`: for an operand, bytes that were touched since it was touched last
    (nothing said: what this kernel touches).
    """
    guess = Sizes.of(sizes)
    where = {name: placed(layout, guess) for name, layout in layouts.items()}
    inside = {s.target for s in stmts if s.target not in where}
    near = {name: placed(plain(values[name].shape), guess) for name in inside if name in values}
    works = [work_of(stmt, where, near, guess) for stmt in stmts]
    works = [w for w in works if all(w.extents[i] > 0 for i in w.iters)]
    if not works:
        return Tally()
    shared = _shared_rows(works)
    counts = _cheapest(works, shared, inside, spec)
    streams = (*_streams(works, values, where, distances or {}), *_between(works, shared, inside, spec.levels[0].bytes))
    shares = math.prod(works[0].extents[i] for i in works[0].iters[:shared]) if shared else 1
    return counts.tally(streams, float(max(shares, 1)))


def _shared_rows(works: Sequence[RowWork]) -> int:
    """How many leading iterators have the same extents in all statements."""
    first = works[0]
    count = min(len(w.iters) for w in works)
    for at in range(count):
        if any(w.extents[w.iters[at]] != first.extents[first.iters[at]] for w in works[1:]):
            return at
    return count


def _cheapest(works: Sequence[RowWork], shared: int, inside: set[str], spec: DeviceSpec) -> Counts:
    """Lanes along one of the shared rows, or each statement with lanes of its own."""
    narrow = max(w.size for w in works)
    lanes = spec.lanes * max(4 // narrow, 1)
    nests = [_Nest(w, shared, inside, spec, lanes) for w in works]
    best, found = math.inf, Counts()
    for at in range(shared):
        if nests[0].extent_at(at) > 1:
            counts = Counts()
            for nest in nests:
                nest.along(nest.work.iters[at]).count(nest.work.iters[at], counts)
            seconds = _seconds(counts, spec)
            if seconds < best:
                best, found = seconds, counts
    for lane, across in _crossings(works, shared, inside):
        counts = _in_tiles(works, lane, across, inside, spec)
        seconds = _seconds(counts, spec)
        if seconds < best:
            best, found = seconds, counts
    own = Counts()
    for nest in nests:
        nest.count_cheapest(own)
    return own if _seconds(own, spec) < best else found


def _crossings(works: Sequence[RowWork], shared: int, inside: set[str]) -> Iterator[tuple[int, int]]:
    """Pairs of rows such that some accesses are contiguous along one and some along the other, where each point of the
    rows is one element of every statement.
    """
    if shared < 2 or any(len(w.iters) > shared or w.reduced for w in works):
        return
    found = set()
    for work in works:
        at = {name: k for k, name in enumerate(work.iters)}
        walked = [n.walks for n in work.nodes if n.walks is not None and n.tensor not in inside]
        for walks in (*walked, *([work.store] if work.stmt.target not in inside else [])):
            found |= {at[name] for name, walk in walks.items() if walk.run and walk.step == 1 and name in at}
    for lane in sorted(found):
        yield from ((lane, across) for across in sorted(found) if across != lane)


def _in_tiles(works: Sequence[RowWork], lane: int, across: int, inside: set[str], spec: DeviceSpec) -> Counts:
    """Tiles of lanes along one row and rows along another; what is left over has no tiles."""
    size = max(size for w in works for size in (w.stmt.dtype.size, *(n.size for n in w.nodes if n.kind == "load")))
    extents = [works[0].extents[works[0].iters[k]] for k in (lane, across)]
    lanes = min(spec.lanes * 4 // size, MOST_TILE_ROWS)
    while lanes > 4 and lanes > extents[0]:
        lanes //= 2
    height = min(lanes, extents[1])
    whole = math.prod((e // n) * n / e for e, n in zip(extents, (lanes, height), strict=True))
    counts = Counts()
    for share, tile in ((whole, True), (1.0 - whole, False)):
        for work in works if share else ():
            other = work.iters[across] if tile else None
            made = Counts()
            _Nest(work, len(work.iters), inside, spec, lanes, other, height).count(work.iters[lane], made)
            counts.add(made, share)
    return counts


def count_in_lanes(work: RowWork, lane: str | None, inside: set[str], spec: DeviceSpec, counts: Counts) -> None:
    """Adds the values of one statement, whose loops and stores are somebody else's, with lanes along this iterator."""
    nest = _Nest(work, len(work.iters), inside, spec, spec.lanes)
    lanes = nest.lanes if lane is None else lanes_for(work.extents[lane], nest.lanes)
    nest.values(lane, lanes, counts)


def _seconds(counts: Counts, spec: DeviceSpec) -> float:
    return max(busy_seconds(counts.tally(), spec), counts.chain * spec.latency)


class _Nest:
    """The loops of one statement, outermost first: shared rows by the stride they write at, its own, reductions'.

    across: the iterator that rows of tiles are of; height: of a tile. rows: the shared ones, in another order.
    """

    def __init__(
        self,
        work: RowWork,
        shared: int,
        inside: set[str],
        spec: DeviceSpec,
        lanes: int,
        across: str | None = None,
        height: int = 1,
        rows: Sequence[str] = (),
    ) -> None:
        self.work, self.inside, self.spec, self.lanes = work, inside, spec, lanes
        self.across, self.height = across, height
        self.rows = rows = rows or sorted(work.iters[:shared], key=self._stride, reverse=True)
        own = work.iters[shared:]
        self.joined = _joined(rows, work)
        self.loops = (*self.joined, *own, *work.reduced)
        self.position = {name: at for at, name in enumerate(self.loops)}
        for name in rows:
            if name not in self.position:
                self.position[name] = self._joined_at(name, rows)
        self.own = own
        self.last = frozenset(list(self.joined)[-1:])
        self.inside_share = work.inside()
        self.straight: frozenset[str] = frozenset()
        self.known: dict[frozenset[str], float] = {}  # how often what depends on these iterators is computed

    def along(self, lane: str) -> _Nest:
        """With the vectors of a row counted outside of one along which windows overlap, where they would be counted
        innermost, and no window overlaps along them.
        """
        if len(self.rows) < 2 or self.rows[-1] != lane:
            return self
        if not self.work.slides(self.rows[-2]) or self.work.slides(lane):
            return self
        rows = (*self.rows[:-2], lane, self.rows[-2])
        return _Nest(self.work, len(rows), self.inside, self.spec, self.lanes, rows=rows)

    def _stride(self, name: str) -> float:
        """How far a row moves the store; one of a single round is no loop, and lies outside of all."""
        if self.work.extents[name] == 1:
            return math.inf
        return abs(self.work.store[name].average) if name in self.work.store else 0.0

    def _joined_at(self, name: str, rows: Sequence[str]) -> int:
        """A row that is joined to a later one moves with that one."""
        later = rows[rows.index(name) :]
        return next(self.position[n] for n in later if n in self.position)

    def extent_at(self, at: int) -> int:
        return self.work.extents[self.work.iters[at]]

    def count_cheapest(self, counts: Counts) -> None:
        """With lanes along an iterator of its own, or of a reduction, or without."""
        tries = []
        for lane in (None, *(n for n in (*self.own, *self.work.reduced) if self.work.extents[n] > 1)):
            tries.append(Counts())
            self.count(lane, tries[-1])
        counts.add(min(tries, key=lambda t: _seconds(t, self.spec)))

    # -- counting ------------------------------------------------------------------------------------------------------

    def count(self, lane: str | None, counts: Counts) -> None:
        """Adds what the statement does with lanes along this iterator."""
        lanes = self.lanes if lane is None else lanes_for(self.work.extents[lane], self.lanes)
        trips = self.values(lane, lanes, counts)
        self._store(lane, lanes, trips, counts)
        self._rounds(lane, trips, counts)

    def values(self, lane: str | None, lanes: int, counts: Counts) -> list[float]:
        """Adds what is computed, but no stores and no loops; the rounds of each loop."""
        self.straight = frozenset(self.work.reduced) - self.work.rolled(self.last, lane, lanes)
        self.known.clear()
        trips = self._trips(lane, lanes)
        for node in self.work.nodes:
            self._node(node, lane, lanes, trips, counts)
        return trips

    def _trips(self, lane: str | None, lanes: int) -> list[float]:
        """Rounds of each loop; joined rows count together."""
        found = []
        for name in self.loops:
            members = self.joined.get(name, (name,))
            extent = math.prod(self.work.extents[n] for n in members)
            found.append(float(-(-extent // lanes) if lane in members else extent))
        return found

    def _times(self, names: Iterable[str], trips: Sequence[float]) -> float:
        """How often a value that depends on these iterators is computed: once in each round of the innermost loop that
        is one of theirs; loops that are written out count only for what depends on them.
        """
        key = frozenset(names)
        if key not in self.known:
            at = {self.position[n] for n in key}
            deepest = max((k for k in at if self.loops[k] not in self.straight), default=-1)
            total = 1.0
            for k, name in enumerate(self.loops):
                if (k in at) if name in self.straight else (k <= deepest):
                    total *= trips[k]
            self.known[key] = total
        return self.known[key]

    def _node(self, node: RowNode, lane: str | None, lanes: int, trips: Sequence[float], counts: Counts) -> None:
        wide = lane is not None and lane in node.names
        names = node.names
        if node.kind == "guard" and not wide and self.work.simple:
            names = names - set(self.work.reduced) - self.last  # a bound of a loop, or decided for most rows
        times = self._times(names, trips)
        if node.kind == "guard" and wide and self.work.reduced:
            # each round asks anew
            times = max(times, self._times(names | set(self.work.reduced), trips)) * self._at_ends(lane, lanes)
        if not names.isdisjoint(self.work.reduced):
            times *= self.inside_share
        if node.kind == "reduce":
            self._reduction(node, lane, lanes, times, counts)
            return
        counts.operations += times * (lanes if wide else 1) * (node.weight if node.kind == "op" else 0.0)
        if node.kind == "load":
            self._load(node, lane if wide else None, lanes, times, counts)
        elif wide:
            counts.element(node.cls, times * node.weight * self._units(lanes, node.size))
        else:
            counts.scalar += times * node.weight * self.spec.rate(node.cls) / self.spec.rates["add"]

    def _units(self, lanes: int, size: int) -> float:
        """Elements of 32 bits that a vector of so many elements counts as: at least one instruction."""
        narrow = min(self.spec.scalar / (self.spec.rates["add"] * self.spec.lanes), 1.0)
        return self.spec.lanes * max(lanes * size / (4 * self.spec.lanes), narrow)

    def _load(self, node: RowNode, lane: str | None, lanes: int, times: float, counts: Counts) -> None:
        if node.tensor in self.inside:
            counts.move("contiguous", times * self._units(lanes, node.size) / 2 if lane else 0.0)
            return
        if lane is None or node.walks is None:
            counts.scalar += times
            return
        if self._crossed(node.walks, lane):
            self._cross("contiguous", lanes, node.size, times, counts)
            return
        walk = node.walks.get(lane)
        if walk is not None and walk.run and abs(walk.step) > 1 and (rows := self._staged(node, lane)):
            counts.move("strided_load", times * lanes / rows)  # picked once for all rows of the innermost loop
            walk = Stepping(1.0, math.inf, 1.0)
        if node.size < 4 and any(lane in guard.names for guard in self.work.guards):
            apart = times * self._at_ends(lane, lanes)  # few units mask elements of less than 32 bits
            counts.move("gather", apart * lanes)
            times -= apart
        if walk is not None and _crosses(node.walks, lane, lanes):
            walk = Stepping(walk.step, 0.0, walk.average)
        times *= self._across_lines(node, lane, lanes)
        self._move(walk, "load", lanes, node.size, times, counts)

    def _at_ends(self, lane: str | None, lanes: int) -> float:
        """The share of vectors along an iterator that are the first or the last: where guards on it are asked."""
        return 1.0 if lane is None else min(1.0, 2.0 / max(-(-self.work.extents[lane] // lanes), 1))

    def _across_lines(self, node: RowNode, lane: str, lanes: int) -> float:
        """How many loads a vector counts as: one of a window that moves along the lanes begins anywhere, and the wider
        it is, the more often it lies across two lines of memory, which are as long as a register or two.
        """
        walks = node.walks or {}
        moved = [walks[n].step for n in self.work.reduced if n in walks and n != lane]
        if lane not in walks or abs(walks[lane].step) != 1 or all(step % lanes == 0 for step in moved):
            return 1.0
        return 1.0 + min(1.0, lanes * node.size / (4 * self.spec.lanes))

    def _staged(self, node: RowNode, lane: str) -> int:
        """Rows that share a reduction's operand, where lanes are rows and it is kept as vectors: a depthwise
        convolution's weights. 0: it is picked anew each time.
        """
        reduced = [n for n in self.work.reduced if n in node.names]
        rows = math.prod(self.work.extents[n] for last in self.last for n in self.joined[last])
        vectors = math.prod(self.work.extents[n] for n in reduced)
        if not reduced or lane in reduced or not node.names.isdisjoint(self.last) or vectors > MOST_STAGED:
            return 0
        return rows if rows >= FEWEST_ROWS else 0

    def _move(self, walk: Stepping | None, what: str, lanes: int, size: int, times: float, counts: Counts) -> None:
        """One vector of elements, `times` over."""
        near = "contiguous" if what == "load" else "store"
        if walk is None or walk.run == 0:
            counts.move("gather", times * lanes)
            counts.move("contiguous", times * self._units(lanes, 8))
            return
        step = abs(walk.step)
        if walk.run < lanes and walk.run < _SHORT_RUN:
            counts.move("gather", times * lanes)
        elif step <= 1:
            counts.move(near, times * self._units(lanes, size))
        elif step <= WIDEST_SHUFFLED_STRIDE and what == "load":
            counts.move(near, times * self._units(lanes, size) * 2 * step)
        else:
            counts.move(f"strided_{what}", times * lanes)

    def _store(self, lane: str | None, lanes: int, trips: Sequence[float], counts: Counts) -> None:
        times = self._times(self.work.iters, trips)
        size = self.work.stmt.dtype.size
        if self.work.stmt.target in self.inside:
            counts.move("store", times * self._units(lanes, size) / 2 if lane else 0.0)
        elif lane is None or lane not in self.work.store:
            counts.scalar += times
        elif self._crossed(self.work.store, lane):
            self._cross("store", lanes, size, times, counts)
        else:
            self._move(self.work.store[lane], "store", lanes, size, times, counts)

    def _crossed(self, walks: Mapping[str, Stepping], lane: str) -> bool:
        """Whether an access goes by tiles: neighbours lie along the other iterator, side by side if few."""
        if self.across is None:
            return False
        along, other = walks.get(lane), walks.get(self.across)
        if along is None or other is None or other.step != 1 or other.run < self.height or along.run < self.lanes:
            return False
        few = self.work.extents[self.across] < self.lanes
        return along.step == self.work.extents[self.across] if few else abs(along.step) > 1

    def _cross(self, near: str, lanes: int, size: int, times: float, counts: Counts) -> None:
        """Whole vectors, and shuffles of two, each of which takes what an addition does."""
        counts.move(near, times * self._units(lanes, size))
        counts.element("add", times * self._units(lanes, size) * shuffles(self.height))

    def _reduction(self, node: RowNode, lane: str | None, lanes: int, times: float, counts: Counts) -> None:
        """Sums of one reduction: an operation a round, lanes folded at the end, and what waits for its own latency."""
        wide = lane is not None and lane in node.names
        if wide:
            counts.element(node.cls, times * node.weight * self._units(lanes, node.size))
        else:
            counts.scalar += times * node.weight
        own = 0 if node.merge else 2 if node.cls == MULTIPLY_ADD else 1  # a fold's steps are counted by themselves
        counts.operations += times * (lanes if wide else 1) * own
        rounds = 1.0
        for name in node.own:
            extent = self.work.extents[name]
            rounds *= -(-extent // lanes) if name == lane else extent
        results = times / max(rounds, 1.0)
        if lane in node.own:
            halves = results * 2 * math.log2(max(lanes, 2))
            counts.element("add", halves * max(node.merge, 1) * self._units(lanes, node.size))
        if rounds >= _SHORT_CHAIN:
            counts.chain += node.waits * times / accumulators(rounds)

    def _rounds(self, lane: str | None, trips: Sequence[float], counts: Counts) -> None:
        """Loops entered, and what each round takes besides its body."""
        entered = 1.0
        for name, rounds in zip(self.loops, trips, strict=True):
            if name in self.straight:
                continue
            if rounds > 1:
                counts.loops += entered
                counts.scalar += _ROUND * entered * rounds
            entered *= rounds


def _crosses(walks: Mapping[str, Stepping], lane: str, lanes: int) -> bool:
    """Whether a vector along a dim in blocks begins anywhere in one, as a window over that dim moves it, so that it may
    end in the next.
    """
    return walks[lane].run < math.inf and any(
        name != lane and walk.run < math.inf and walk.step % lanes != 0 for name, walk in walks.items()
    )


def _joined(rows: Sequence[str], work: RowWork) -> dict[str, tuple[str, ...]]:
    """Rows in order, those joined to one loop that every access walks evenly across: innermost name -> members."""
    moves = [node.walks for node in work.nodes if node.walks is not None]
    moves.append(work.store)
    found: dict[str, tuple[str, ...]] = {}
    for name in rows:
        last = next(reversed(found), None)
        if last is not None and all(_even(m.get(last), m.get(name), work.extents[name]) for m in moves):
            found[name] = (*found.pop(last), name)
        else:
            found[name] = (name,)
    return found


def _even(outer: Stepping | None, inner: Stepping | None, extent: int) -> bool:
    if outer is None and inner is None:
        return True
    if outer is None or inner is None:
        return extent == 1
    return outer.run == inner.run == math.inf and outer.step == inner.step * extent


# ---- memory --------------------------------------------------------------------------------------------------------


def _streams(
    works: Sequence[RowWork], values: Mapping[str, Value], where: Mapping[str, Placed], distances: Mapping[str, float]
) -> list[Stream]:
    """What passes through memory: of each tensor what is touched, once."""
    read: dict[str, float] = {}
    written: dict[str, float] = {}
    for work in works:
        for node in work.nodes:
            if node.kind == "load" and node.tensor in where:
                touched = math.prod(work.extents[n] for n in node.names) * node.size
                limit = float(where[node.tensor].elements * node.size)
                read[node.tensor] = min(read.get(node.tensor, 0.0) + touched, limit)
        if work.stmt.target in where:
            size = work.stmt.dtype.size
            touched = math.prod(work.extents[n] for n in work.iters) * size
            written[work.stmt.target] = written.get(work.stmt.target, 0.0) + touched
    return streams_of(read, written, distances)


def _between(works: Sequence[RowWork], shared: int, inside: set[str], near: float) -> Iterator[Stream]:
    """What waits between statements for the rest of a row that is too long to stay in the nearest memory (`near`: its
    bytes).
    """
    for work in works:
        size = work.stmt.dtype.size
        row = float(math.prod(work.extents[i] for i in work.iters[shared:]) * size)
        if work.stmt.target in inside and 2 * row > near:
            whole = row * math.prod(work.extents[i] for i in work.iters[:shared])
            yield Stream(whole, 2 * row, True)
            yield Stream(whole, 2 * row)


def streams_of(read: Mapping[str, float], written: Mapping[str, float], distances: Mapping[str, float]) -> list[Stream]:
    """Streams of operands by bytes; one whose distance nobody said was touched as long ago as all of them."""
    whole = sum(read.values()) + sum(written.values())
    found = [Stream(size, distances.get(name, whole)) for name, size in read.items()]
    return found + [Stream(size, distances.get(name, whole), True) for name, size in written.items()]


__all__ = ["Counts", "lanes_for", "number", "rows_tally", "streams_of"]
