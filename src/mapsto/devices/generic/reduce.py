"""Reductions and folds as loops: guards become loop bounds, long loops get several accumulators, lanes fold in a fixed
tree.

The order of additions depends on extents and lanes alone, never on the share of a thread.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from mapsto.devices.generic.context import Context, Lane
from mapsto.devices.generic.cost import SegmentCosts, Vector
from mapsto.devices.generic.normal import decided
from mapsto.devices.generic.operations import convert
from mapsto.devices.generic.running import (
    RoundBlock,
    RunningReduction,
    block_of,
    in_blocks,
    named_states,
    runner,
    states_of,
)
from mapsto.devices.generic.windows import overlaps
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import (
    Dim,
    HalfLine,
    floordiv,
    half_line,
    linear,
    loads,
    maximum,
    minimum,
    mod,
    sym,
    symbols,
)
from mapsto.kernel.ast import (
    Cast,
    Const,
    Fold,
    Iter,
    Load,
    Op,
    Reduce,
    Reduction,
    Scalar,
    Where,
    bodies,
    children,
    walk,
)
from mapsto.kernel.scalar import neutral
from mapsto.loop import ast as loop
from mapsto.plan.loop_forms import FEW_ROUNDS, STRAIGHT_CODE, accumulators

# Bodies of more scalar operations than this take longer than one addition waits for the one before. (The order of
# additions depends on it, so it is the same for every processor.)
_LIGHT = 10


@dataclass(frozen=True)
class Bounded:
    """A reduction whose guards are loop bounds as far as that is possible: `holds`, by the iterator's name."""

    reduction: Reduction
    holds: Mapping[str, Sequence[HalfLine]] = field(default_factory=dict)

    def span(self, it: Iter) -> tuple[Dim, Dim]:
        start: Dim = 0
        stop = it.extent
        for each in self.holds.get(it.name, ()):
            start = start if each.start is None else maximum(start, each.start)
            stop = stop if each.stop is None else minimum(stop, each.stop)
        return start, stop

    def is_whole(self, it: Iter) -> bool:
        return it.name not in self.holds


@dataclass(frozen=True)
class Neighbours:
    """Rows that are computed at once: what a row iterator stands for in each, and the version of that (`scope`)."""

    iterator: str
    rows: tuple[tuple[Dim, int], ...]


def emit_reduce(emitter: Context, e: Reduce, neighbours: Neighbours | None = None) -> loop.Value:
    """The value of a reduction: in the lanes at work, or in lanes of its own folded at the end. neighbours: all of
    their values are made together and remembered, in the same loops; that of the present row is given.
    """
    vector = _prepared(emitter, e)
    _Loops(emitter, _bounded(emitter, e, vector), vector, e, neighbours).emit()
    made = emitter.code.find(emitter.key(emitter.info(e)))
    assert made is not None
    return made


def emit_fold(emitter: Context, e: Fold) -> loop.Value:
    """The result of a fold; folds that run alike have their loops in common."""
    states = states_of(emitter, e)
    if states is None:
        vector = _prepared(emitter, e)
        _Loops(emitter, Bounded(e), vector, e).emit()
        states = states_of(emitter, e)
        assert states is not None
    with emitter.defining(named_states(e, states)):
        return emitter.code.let(convert(emitter.value(e.result), e.dtype))


def _prepared(emitter: Context, e: Reduction) -> Vector | None:
    """The iterators' ranges made known; the vector that the reduction has to itself."""
    for it in e.iters:
        emitter.code.unbind(it.name, (0, it.extent - 1))
    if emitter.lane is not None or emitter.lanes <= 1:
        return None
    return SegmentCosts(emitter.processor, emitter.lanes, emitter.near, ()).reduction(e, None, {})[1]


def goes_with_neighbours(emitter: Context, e: Reduce, row: str) -> bool:
    """Whether the loops of a reduction are the same for all rows of an iterator, and neighbours read what it reads."""
    if not overlaps(e, row):
        return False
    own = symbols(emitter.code.bindings[row])
    bounded = _bounded(emitter, e, _prepared(emitter, e))
    limits = [b for lines in bounded.holds.values() for line in lines for b in (line.start, line.stop) if b is not None]
    return not any(symbols(emitter.code.expand(b)) & own for b in limits)


# ---- guards as bounds ----------------------------------------------------------------------------------------------


def _bounded(emitter: Context, e: Reduce, vector: Vector | None) -> Bounded:
    """Guards that a sequential loop's variable alone decides become its bounds."""
    conds, then = _guarded(e.body, e.kind, frozenset(it.name for it in e.iters))
    own = [it.name for it in e.iters if vector is None or it.name != vector.iter.name]
    others = {it.name for it in e.iters} - set(own)
    holds: dict[str, list[HalfLine]] = {}
    rest = tuple(cond for cond in conds if not _becomes_bound(emitter, cond, own, others, holds))
    body = Where(rest, then, Const(neutral(e.kind, e.dtype), e.dtype)) if rest else then
    return Bounded(Reduce(e.kind, e.iters, body), holds)


def _guarded(e: Scalar, kind: str, points: frozenset[str]) -> tuple[tuple[Dim, ...], Scalar]:
    """(conditions, value under them) of a body that is neutral where they do not hold. points: the iterators.

    A product with the zero of a border is taken for zero in the window of a convolution, whose points past the border
    nobody has to multiply. Elsewhere, as in the rows of a padded matrix, the other factor may be infinite or NaN.
    """
    nothing = neutral(kind, e.dtype)
    if isinstance(e, Where) and isinstance(e.otherwise, Const) and e.otherwise.value == nothing:
        more, then = _guarded(e.then, kind, points)
        return (*e.conds, *more), then
    if kind == "sum" and isinstance(e, Cast) and e.dtype is not DType.BOOL:
        conds, then = _guarded(e.arg, kind, points)
        return (conds, Cast(then, e.dtype)) if conds and then.dtype is not DType.BOOL else ((), e)
    if kind == "sum" and isinstance(e, Op) and e.fn == "mul":
        left, a = _guarded(e.args[0], kind, points)
        right, b = _guarded(e.args[1], kind, points)
        if all(_is_of_window(cond, points) for cond in (*left, *right)):
            return (*left, *right), Op("mul", (a, b), e.dtype)
    return (), e


def _is_of_window(cond: Dim, points: frozenset[str]) -> bool:
    """Whether a guard looks at the place of a window's point beside a row."""
    names = symbols(cond)
    return not points.isdisjoint(names) and not names <= points


def _becomes_bound(
    emitter: Context, cond: Dim, own: list[str], vector: set[str], holds: dict[str, list[HalfLine]]
) -> bool:
    """Whether a guard needs no look any more: it is decided, or was added to what `holds`."""
    expanded = emitter.code.expand(cond)
    if not loads(expanded) and decided(expanded, emitter.code.ranges):
        return True
    names = symbols(expanded)
    inside = [n for n in own if n in names]
    if not inside or names & vector or emitter.varies(expanded) or loads(expanded):
        return False
    name = inside[-1]
    found = linear(expanded, name)
    line = None if found is None else half_line(*found)
    if line is None:
        return False
    holds.setdefault(name, []).append(line)
    return True


# ---- loops ---------------------------------------------------------------------------------------------------------


class _Loops:
    """The loops of one reduction. `meant`: as what its result is remembered."""

    def __init__(
        self,
        emitter: Context,
        reduce: Bounded,
        vector: Vector | None,
        meant: Reduction,
        neighbours: Neighbours | None = None,
    ) -> None:
        self.emitter = emitter
        self.code = emitter.code
        self.reduce = reduce
        self.vector = vector
        self.meant = meant
        self.neighbours = neighbours
        self.runners: list[RunningReduction] = []
        self.block: RoundBlock | None = None

    def emit(self) -> None:
        by_name = {it.name: it for it in self.reduce.reduction.iters}
        lane = self.emitter.lane
        if self.vector is not None:
            last = by_name.pop(self.vector.iter.name)
            lane = Lane(self.code.lane_symbol(self.vector.lanes), self.vector.lanes, sym(last.name))
            by_name[last.name] = last
        with self.emitter.in_lanes(lane):
            self._rounds(list(by_name.values()))
        for each in self._in_turn():
            each.finish(self.vector is not None)

    def _rounds(self, iters: list[Iter]) -> None:
        straight = self._straight(iters)
        rolled = iters[: len(iters) - straight]
        trips = math.prod(self._trips(it) for it in iters[len(rolled) :])
        self.block = block_of(self.reduce.reduction, [(it.name, self._rounds_of(it)) for it in rolled], trips)
        if straight:
            self._declare(_ways(self.reduce.reduction, trips))
            with self._loops(rolled):
                self._unrolled(iters[len(rolled) :])
        else:
            *outer, innermost = rolled
            whole = self.reduce.is_whole(innermost)
            self._declare(_ways(self.reduce.reduction, self._rounds_of(innermost)) if whole else 1)
            with self._loops(outer):
                self._vector_loop(innermost) if self.vector is not None else self._loop(innermost)

    def _rounds_of(self, it: Iter) -> Dim:
        """Rounds of a loop that is not written out; a tail comes on top."""
        if self.vector is not None and it.name == self.vector.iter.name:
            return floordiv(it.extent, self.vector.lanes)
        return it.extent

    def _declare(self, ways: int) -> None:
        e = self.reduce.reduction
        lanes = self.vector.lanes if self.vector else self.emitter.lanes_of(self.emitter.info(e))
        count = 1 if self.neighbours is None else len(self.neighbours.rows)
        blocks = self.block is not None
        self.runners = [runner(self.emitter, e, lanes, ways, self.meant, blocks) for _ in range(count)]

    def _in_turn(self) -> Iterator[RunningReduction]:
        """What runs along, each at its own row."""
        if self.neighbours is None:
            yield from self.runners
            return
        for each, (value, version) in zip(self.runners, self.neighbours.rows, strict=True):
            with self.code.bound_again(self.neighbours.iterator, value, version):
                yield each

    def _add(self, masked: bool = False, way: int | None = None) -> None:
        """The present point taken in."""
        for each in self._in_turn():
            each.add(masked, way)

    def _settle(self) -> None:
        for each in self._in_turn():
            each.settle(self.vector is not None)

    @contextmanager
    def _loops(self, iters: list[Iter]) -> Iterator[None]:
        with ExitStack() as loops:
            for it in iters:
                start, stop = (self.code.expand(b) for b in self.reduce.span(it))
                start, stop = loops.enter_context(self._blocks(it, start, stop))
                var = loops.enter_context(self.code.loop(start, stop, it.name, (0, it.extent - 1)))
                self.code.bind(it.name, var)
            yield

    @contextmanager
    def _blocks(self, it: Iter, start: Dim, stop: Dim, ways: int = 1) -> Iterator[tuple[Dim, Dim]]:
        """Bounds of the loop over an iterator: its own, or those of a block of rounds, in a loop over blocks."""
        with in_blocks(self.code, self.block, it.name, start, stop, self._settle, ways) as span:
            yield span

    # ---- straight-line ----

    def _trips(self, it: Iter) -> int:
        """Rounds of a loop of known extent: elements, or vectors with the tail."""
        assert isinstance(it.extent, int)
        if self.vector is not None and it.name == self.vector.iter.name:
            return -(-it.extent // self.vector.lanes)
        first, past = self._known_span(it) or (0, it.extent)
        return past - first

    def _known_span(self, it: Iter) -> tuple[int, int] | None:
        """The rounds of a loop where they are the same numbers wherever it stands."""
        start, stop = (self.code.expand(b) for b in self.reduce.span(it))
        return (start, max(start, stop)) if isinstance(start, int) and isinstance(stop, int) else None

    def _straight(self, iters: list[Iter]) -> int:
        """How many of the innermost loops are written out: few rounds, none guarded. What they share with no outer loop
        is then hoisted out of those (the weights of a depthwise convolution)."""
        nodes = self._inside()
        if any(isinstance(n, Reduction | Where) for n in nodes):
            return 0
        weight = 1 + sum(isinstance(n, Op | Load) for n in nodes)
        count, trips = 0, 1
        for it in reversed(iters):
            if not isinstance(it.extent, int) or it.extent == 0 or self._known_span(it) is None:
                break
            trips *= self._trips(it)
            if trips > FEW_ROUNDS or trips * weight > STRAIGHT_CODE:
                break
            count += 1
        return count

    def _inside(self) -> Collection[Scalar]:
        """What a round evaluates; beside reductions inside, which may be the same in all rounds, once each."""
        e = self.reduce.reduction
        own = {it.name for it in e.iters}
        if not any(isinstance(n, Reduction) for body in bodies(e) for n in walk(body)):
            return _nodes(e)
        found: set[Scalar] = set()
        waiting = list(bodies(e))
        while waiting:
            node = waiting.pop()
            if node in found or (isinstance(node, Reduction) and not self.emitter.info(node).symbols & own):
                continue
            found.add(node)
            waiting.extend(children(node))
        return found

    def _unrolled(self, iters: list[Iter]) -> None:
        if not iters:
            self._add()
            return
        it, *inner = iters
        if self.vector is None or it.name != self.vector.iter.name:
            for at in range(*(self._known_span(it) or ())):
                self.code.bind(it.name, at)
                self._unrolled(inner)
            return
        assert isinstance(it.extent, int) and self.emitter.lane is not None
        count, lane = self.vector.lanes, sym(self.emitter.lane.symbol)
        for at in range(it.extent // count):
            self.code.bind(it.name, at * count + lane)
            self._add()
        if it.extent % count:
            self._tail(it)

    # ---- loops ----

    def _loop(self, it: Iter) -> None:
        """The innermost sequential loop; several accumulators take turns where it is long."""
        start, stop = (self.code.expand(b) for b in self.reduce.span(it))
        ways = self.runners[0].ways
        whole = floordiv(it.extent, ways) * ways if ways > 1 else stop
        with (
            self._blocks(it, start, whole, ways) as (first, end),
            self.code.loop(first, end, it.name, (0, it.extent - 1), step=ways) as var,
        ):
            for way in range(ways):
                self.code.bind(it.name, var + way)
                self._add(way=way)
        if ways > 1 and whole != it.extent:
            with self.code.loop(whole, it.extent, it.name, (0, it.extent - 1)) as var:
                self.code.bind(it.name, var)
                self._add(way=0)

    def _vector_loop(self, it: Iter) -> None:
        assert self.emitter.lane is not None and self.vector is not None
        count, lane = self.vector.lanes, sym(self.emitter.lane.symbol)
        full = floordiv(it.extent, count)
        ways = self.runners[0].ways
        whole = floordiv(full, ways) * ways
        with (
            self._blocks(it, 0, whole, ways) as (first, end),
            self.code.loop(first, end, it.name, (0, full - 1), step=ways) as var,
        ):
            for way in range(ways):
                self.code.bind(it.name, (var + way) * count + lane)
                self._add(way=way)
        if whole != full:
            with self.code.loop(whole, full, it.name, (0, full - 1)) as var:
                self.code.bind(it.name, var * count + lane)
                self._add(way=0)
        left = mod(it.extent, count)
        if isinstance(left, int):
            self._tail(it)
            return
        with self.code.branch((left - 1,)):
            self._tail(it)

    def _tail(self, it: Iter) -> None:
        """The lanes left over, if there are any."""
        assert self.emitter.lane is not None and self.vector is not None
        count, lane = self.vector.lanes, self.emitter.lane
        left = mod(it.extent, count)
        if left == 0:
            return
        self.code.bind(it.name, floordiv(it.extent, count) * count + sym(lane.symbol))
        with self.emitter.in_lanes(replace(lane, tail=left)):
            self._add(masked=True, way=0)


def _nodes(reduction: Reduction) -> Collection[Scalar]:
    """What a round evaluates; what the steps of a fold have in common is one."""
    if isinstance(reduction, Fold):
        return {n for step in reduction.steps for n in walk(step)}
    return list(walk(reduction.body))


def _ways(reduction: Reduction, trips: Dim) -> int:
    """How many accumulators: enough to hide an addition's latency where the loop is long and its body light."""
    weight = sum(isinstance(n, Op | Where) for n in _nodes(reduction))
    if (isinstance(reduction, Reduce) and reduction.kind in ("any", "all")) or weight > _LIGHT:
        return 1
    return accumulators(trips if isinstance(trips, int) else math.inf)
