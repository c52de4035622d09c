"""What happens at one row (or one vector of rows): the segment's groups of steps, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from mapsto.devices.generic.context import Lane
from mapsto.devices.generic.cost import SegmentCosts, Vector
from mapsto.devices.generic.flat import FlatGroup, FlatSegment, FlatStep
from mapsto.devices.generic.fusion import Follower, followers, only_followed
from mapsto.devices.generic.operations import combine, convert, identity, lift
from mapsto.devices.generic.reduce import Neighbours, emit_reduce, goes_with_neighbours
from mapsto.devices.generic.running import RoundBlock, RunningReduction, block_of, in_blocks, runner
from mapsto.devices.generic.scalar import Emitter
from mapsto.devices.generic.scope import zero
from mapsto.devices.generic.staging import Staged
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, floordiv, mod, sym, symbols
from mapsto.kernel.ast import Iter, Load, Reduce, Reduction, Scalar, Where, children, walk
from mapsto.loop import ast as loop

# Rows that are computed at once where their windows overlap: accumulators for each stay in registers.
_NEIGHBOURS = 4


class Body:
    """Emits a segment's steps.

    `registers`: temporaries that are one value a row; `handed`: targets whose value goes straight to their group's
    other steps.
    """

    def __init__(
        self,
        emitter: Emitter,
        segment: FlatSegment,
        costs: SegmentCosts,
        registers: frozenset[str],
        handed: frozenset[str],
        staged: tuple[Staged, ...] = (),
    ) -> None:
        self.emitter = emitter
        self.code = emitter.code
        self.segment = segment
        self.costs = costs
        self.registers = registers
        self.handed = handed
        self.staged = staged
        self.fused = [followers(segment, at, handed) for at in range(len(segment.groups))]
        near = emitter.near
        self.unread = [only_followed(segment, at, f) & near for at, f in enumerate(self.fused)]

    def fill(self) -> None:
        """Fills the arrays of staged operands for the rows to come."""
        for staged in self.staged:
            with self.loops(staged.iters):
                value = lift(self.emitter.value(staged.load), self.emitter.lane.count if self.emitter.lane else 1)
                operand = self.emitter.operands[staged.array]
                place = self.emitter.places.at(operand, self.code.expand(staged.place))
                self.code.emit(self.emitter.places.store(operand.buffer, place, value, None))
            self.emitter.forget(staged.array)

    def emit(self) -> None:
        self.emitter.begin_row()
        for at, group in enumerate(self.segment.groups):
            self.group(group, at)
        for name in list(self.emitter.known):
            self.emitter.undefine(name)

    def at_once(self, last: Iter, span: tuple[Dim, Dim]) -> int:
        """How many rows of an iterator, inside a span, are computed at once: several where windows of neighbours have
        points in common, which are then loaded and converted once, and where weights are read once for all.
        """
        if not isinstance(last.extent, int) or last.extent > _NEIGHBOURS:
            name = f"{last.name}?"  # some row of the span
            self.code.unbind(name, span)
            self.code.bind(last.name, sym(name))
            return _NEIGHBOURS if self._windows(last.name) else 1
        return 1

    def _windows(self, row: str) -> list[Reduce]:
        """Reductions that rows next to each other compute together."""
        lane, (group, *others) = self.emitter.lane, self.segment.groups
        if lane is None or row in symbols(lane.iterator) or (lane.tail is not None and row in symbols(lane.tail)):
            return []
        if others or group.inner or any(s.scan is not None or s.ordered for s in group.steps):
            return []
        if any(isinstance(node, Where) for s in group.steps for node in _outside(s.value)):
            return []
        written = {s.target for s in group.steps}
        found = [node for s in group.steps for node in _outside(s.value) if isinstance(node, Reduce)]
        return [
            e
            for e in dict.fromkeys(found)
            if not any(isinstance(n, Reduction) or (isinstance(n, Load) and n.tensor in written) for n in walk(e.body))
            and goes_with_neighbours(self.emitter, e, row)
        ]

    def emit_at_once(self, row: str, first: Dim, count: int) -> None:
        """Neighbouring rows from one on."""
        rows = []
        for k in range(count):
            self.code.bind(row, first + k)
            rows.append((first + k, self.code.versions[row]))
        self.emitter.begin_row()
        windows = self._windows(row)
        with self.code.bound_again(row, *rows[0]):
            for e in windows:
                emit_reduce(self.emitter, e, Neighbours(row, tuple(rows)))
        for value, version in rows:
            with self.code.bound_again(row, value, version):
                self.emit()

    def group(self, group: FlatGroup, at: int) -> None:
        vector = None
        if self.emitter.lane is None and self.emitter.lanes > 1:
            vector = self.costs.best_inner(group)[1]
        if group.steps[0].scan is not None:
            self.scan(group, vector)
            return
        followed = self.fused[at]
        outer = [it for it in group.inner if vector is None or it.name != vector.iter.name]
        with self.emitter.writing_to(s.target for s in group.steps):
            block = _block(followed, outer, vector)
            totals = [self.totals(f, vector, block is not None) for f in followed]
            along = _Along(totals, block, vector is not None)
            with self.loops(outer, along):
                if vector is None:
                    self.steps(group, at, totals)
                else:
                    self.vectors(vector, group, at, along)
        for total in totals:
            total.finish(vector is not None)

    def totals(self, follower: Follower, vector: Vector | None, in_blocks: bool) -> RunningReduction:
        """Accumulators of a reduction that is computed along with a group."""
        reduce = follower.reduce
        lanes = vector.lanes if vector is not None else self.emitter.lanes_of(self.emitter.info(reduce))
        if self.emitter.lane is not None:
            lanes = self.emitter.lane.count
        return runner(self.emitter, follower.along, lanes, 1, reduce, in_blocks)

    @contextmanager
    def loops(self, iters: Sequence[Iter], along: _Along | None = None) -> Iterator[None]:
        with ExitStack() as stack:
            for it in iters:
                first, end = stack.enter_context(self.span(along, it.name, it.extent))
                var = stack.enter_context(self.code.loop(first, end, it.name, (0, it.extent - 1)))
                self.code.bind(it.name, var)
            yield

    @contextmanager
    def span(self, along: _Along | None, iterator: str, rounds: Dim) -> Iterator[tuple[Dim, Dim]]:
        """Bounds of the loop over an iterator, or of a block of its rounds (`in_blocks`)."""
        if along is None:
            yield 0, rounds
            return
        with in_blocks(self.code, along.block, iterator, 0, rounds, along.settle) as span:
            yield span

    def vectors(self, vector: Vector, group: FlatGroup, at: int, along: _Along) -> None:
        """A loop over whole vectors of an iterator, then its tail under a mask."""
        with self.whole_vectors(vector, along):
            self.steps(group, at, along.totals)
        with self.tail(vector) as any_left:
            if any_left:
                self.steps(group, at, along.totals, masked=True)

    @contextmanager
    def whole_vectors(self, vector: Vector, along: _Along | None = None) -> Iterator[None]:
        name, count = vector.iter.name, vector.lanes
        lane, rounds = self.code.lane_symbol(count), floordiv(vector.iter.extent, count)
        with (
            self.emitter.in_lanes(Lane(lane, count, sym(name))),
            self.span(along, name, rounds) as (first, end),
            self.code.loop(first, end, name, (0, rounds - 1)) as var,
        ):
            self.code.bind(name, var * count + sym(lane))
            yield

    @contextmanager
    def tail(self, vector: Vector) -> Iterator[bool]:
        """The lanes left over; yields whether there can be any."""
        name, count, extent = vector.iter.name, vector.lanes, vector.iter.extent
        left = mod(extent, count)
        if left == 0:
            yield False
            return
        lane = Lane(self.code.lane_symbol(count), count, sym(name), tail=left)
        with ExitStack() as stack:
            stack.enter_context(self.emitter.in_lanes(lane))
            if not isinstance(left, int):
                stack.enter_context(self.code.branch((left - 1,)))
            self.code.bind(name, floordiv(extent, count) * count + sym(lane.symbol))
            yield True

    # ---- steps ----

    def steps(self, group: FlatGroup, at: int, totals: Sequence[RunningReduction], masked: bool = False) -> None:
        """All steps of a group at the present point, and its followers' share of it."""
        given: list[str] = []
        for step in group.steps:
            value = convert(self.emitter.value(step.value), step.dtype)
            if step.target in self.registers:
                self.emitter.define(step.target, self.code.let(value))
                continue
            value = self.code.let(value)
            if step.target not in self.unread[at]:
                value = self.store(step, value)
            if step.target in self.handed:
                self.emitter.define(step.target, value)
                given.append(step.target)
        for total in totals:
            total.add(masked)
        for name in given:
            self.emitter.undefine(name)

    def store(self, step: FlatStep, value: loop.Value) -> loop.Value:
        """Stores to the target's place; a tail is masked off, or written as zeros where the target is padded. The
        value stored.
        """
        emitter, lane = self.emitter, self.emitter.lane
        operand = emitter.operands.get(step.target)
        if operand is None:
            return value  # nobody reads it
        place = emitter.places.at(operand, self.code.expand(step.place))
        mask = None
        if lane is not None and lane.tail is not None and not operand.per_lane and emitter.varies(place):
            mask = emitter.tail_mask()
            if step.padded and step.padded == lane.fills:
                value = self.code.let(
                    loop.Select(mask, lift(value, lane.count), zero(loop.Type(step.dtype, lane.count)))
                )
                mask = None
        self.code.emit(emitter.places.store(operand.buffer, place, value, mask))
        emitter.forget(step.target)
        return value

    # ---- scans ----

    def scan(self, group: FlatGroup, vector: Vector | None) -> None:
        (step,) = group.steps
        assert step.scan is not None
        along = next(it for it in group.inner if it.name == step.scan.iter)
        others = [it for it in group.inner if it is not along and (vector is None or it.name != vector.iter.name)]
        with self.emitter.writing_to((step.target,)), self.loops(others):
            if vector is None:
                self.running(step, along)
            else:
                with self.whole_vectors(vector):
                    self.running(step, along)
                with self.tail(vector) as any_left:
                    if any_left:
                        self.running(step, along)

    def running(self, step: FlatStep, along: Iter) -> None:
        """The running total along the scanned iterator, in the lanes at work."""
        assert step.scan is not None
        emitter, code, kind = self.emitter, self.code, step.scan.kind
        info = emitter.info(step.value)
        element = DType.F32 if step.dtype.is_half else step.dtype
        t = loop.Type(element, emitter.lane.count if emitter.lane else emitter.lanes_of(info))
        name = code.fresh("acc")
        code.emit(loop.Declare(name, identity(kind, t)))
        with code.loop(0, along.extent, along.name) as var:
            at: Dim = along.extent - 1 - var if step.scan.reverse else var
            code.bind(along.name, at)
            value = lift(convert(emitter.value(step.value), element), t.lanes)
            before = loop.Var(name, t)
            after = code.let(combine(kind, before, value), "total")
            stored = before if step.scan.exclusive else after
            self.store(step, code.let(convert(stored, step.dtype)))
            code.emit(loop.Assign(name, after))


@dataclass(frozen=True)
class _Along:
    """Reductions that are computed along with a group, and the block after which they are settled."""

    totals: Sequence[RunningReduction]
    block: RoundBlock | None
    own_lanes: bool

    def settle(self) -> None:
        for total in self.totals:
            total.settle(self.own_lanes)


def _block(followed: Sequence[Follower], outer: Sequence[Iter], vector: Vector | None) -> RoundBlock | None:
    loops = [(it.name, it.extent) for it in outer]
    if vector is not None:
        loops.append((vector.iter.name, floordiv(vector.iter.extent, vector.lanes)))
    return next((block for f in followed if (block := block_of(f.along, loops)) is not None), None)


def _outside(e: Scalar) -> Iterator[Scalar]:
    """An expression's parts, those inside of reductions left out."""
    yield e
    if not isinstance(e, Reduction):
        for child in children(e):
            yield from _outside(child)
