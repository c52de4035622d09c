"""What loops cost when one iterator is the vector: rough cycles, enough to choose which one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mapsto.devices.generic.flat import FlatGroup, FlatLoad, FlatStep
from mapsto.devices.generic.processor import Cycles, Processor
from mapsto.ir.expr import Dim, linear, loads, sym, symbols
from mapsto.ir.expr_proofs import Ranges
from mapsto.ir.expr_rewrite import simplify, substitute
from mapsto.kernel.ast import Fold, Iter, Load, Op, Reduction, Scalar, State, bodies, children, ranges_of, walk
from mapsto.loop.ast import WIDEST_SHUFFLED_STRIDE
from mapsto.plan.loop_forms import FEW_ROUNDS, lanes_for
from mapsto.plan.patterns import Sizes, number

_FUNCTIONS = frozenset(("exp", "log", "tanh", "erf", "sigmoid", "log1p", "expm1"))
_FAR_FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "pow")
)
_DIVISIONS = frozenset(("div", "mod", "fmod", "sqrt"))
# Rounds over which a stride is averaged: a bound on the numbers that come in.
_FAR = 4096


@dataclass(frozen=True)
class Vector:
    """A candidate: this iterator in this many lanes."""

    iter: Iter
    lanes: int

    @property
    def waste(self) -> float:
        """Vectors a lane's worth of elements: 1/lanes where the extent fills them."""
        extent = estimate(self.iter.extent)
        return -(-extent // self.lanes) / max(extent, 1)


def estimate(e: Dim) -> int:
    """A plausible number for an extent."""
    return e if isinstance(e, int) else max(number(e, Sizes({})), 0)


def lane_stride(place: Dim, vector: Vector, ranges: Ranges) -> Dim | None:
    """How far apart neighbouring lanes lie; None where they do not lie evenly."""
    name = vector.iter.name
    if name not in symbols(place):
        return 0
    direct = linear(place, name)
    if direct is not None:
        return direct.coefficient
    split = sym("@o") * vector.lanes + sym("@l")
    inner = {**ranges, "@l": (0, vector.lanes - 1), "@o": (0, vector.iter.extent)}
    found = linear(simplify(substitute(place, {name: split}), inner), "@l")
    return None if found is None else found.coefficient


def _operation(fn: str, cycles: Cycles) -> float:
    if fn in _FUNCTIONS:
        return cycles.function
    if fn in _FAR_FUNCTIONS:
        return cycles.far_function
    return cycles.division if fn in _DIVISIONS else cycles.operation


def access_cost(
    place: Dim, vector: Vector | None, ranges: Ranges, cycles: Cycles, store: bool = False, size: int = 4
) -> float:
    """One access of elements of `size` bytes in all lanes. Elements of less than 32 bits cross a register in several
    instructions.
    """
    if vector is None:
        return cycles.uniform
    if any(vector.iter.name in symbols(a) for a in _load_places(place)):
        each = cycles.strided_store if store else cycles.strided_load
        return vector.lanes * (each + cycles.gather + cycles.strided_load)
    stride = lane_stride(place, vector, ranges)
    if stride == 0:
        return cycles.uniform
    if stride == 1:
        return cycles.contiguous
    each = cycles.strided_store if store else cycles.strided_load
    if isinstance(stride, int) and not store and -1 <= stride <= WIDEST_SHUFFLED_STRIDE:
        return cycles.shuffled * abs(stride) * max(4 // size, 1)
    return vector.lanes * (each + (cycles.gather if stride is None else 0.0))


def _load_places(e: Dim) -> Iterable[Dim]:
    from mapsto.ir.expr import Call, atoms

    return [a.args[0] for a in atoms(e) if isinstance(a, Call) and a.fn == "load"] if loads(e) else []


class SegmentCosts:
    """Costs within one segment.

    `processor`: that the loops are for; `lanes`: of a full vector; `temps`: tensors that stay near (registers, local
    arrays). `crossed`: places that are stored to along another iterator, and shuffles for each vector.
    """

    def __init__(
        self,
        processor: Processor,
        lanes: int,
        temps: frozenset[str],
        rows: Iterable[Iter],
        crossed: Mapping[Dim, float] | None = None,
    ) -> None:
        self.crossed = crossed or {}
        self.cycles = processor.cycles
        self.lanes = lanes
        self.temps = temps
        self.rows = tuple(rows)

    def scalar(self, e: Scalar, vector: Vector | None, ranges: Ranges) -> float:
        """One evaluation of `e` in all lanes."""
        if isinstance(e, FlatLoad):
            if e.tensor in self.temps:
                return self.cycles.near
            return self.access(e.place, vector, ranges, size=e.dtype.size)
        if isinstance(e, State):
            return 0.0
        if isinstance(e, Reduction):
            return self.reduction(e, vector, ranges)[0]
        below = sum(self.scalar(c, vector, ranges) for c in children(e))
        return below + (_operation(e.fn, self.cycles) if isinstance(e, Op) else self.cycles.simple)

    def access(self, place: Dim, vector: Vector | None, ranges: Ranges, store: bool = False, size: int = 4) -> float:
        """One access in all lanes."""
        if place in self.crossed:
            return self.cycles.contiguous + self.crossed[place] * self.cycles.shuffle
        return access_cost(place, vector, ranges, self.cycles, store, size)

    def reduction(self, e: Reduction, vector: Vector | None, ranges: Ranges) -> tuple[float, Vector | None]:
        """The cost of a reduction and, where no vector is at work around it, the best one of its own."""
        inner = {**ranges, **ranges_of(e.iters)}
        trips = 1.0
        for it in e.iters:
            trips *= estimate(it.extent)
        if vector is not None:
            return trips * (self.body(e, vector, inner, trips) + 1), None
        best: tuple[float, Vector | None] = trips * (self.body(e, None, inner, trips) + 1), None
        for it in e.iters[-1:] if isinstance(e, Fold) else e.iters:  # a fold's steps are in the order of its points
            own = Vector(it, lanes_for(it.extent, self.lanes))
            if own.lanes == 1:
                continue
            cost = trips * own.waste * (self.body(e, own, inner, trips * own.waste) + 1) + self.fold(e)
            if cost < best[0]:
                best = cost, own
        return best

    def fold(self, e: Reduction) -> float:
        """Lanes made one value."""
        return self.cycles.fold * (len(e.running) if isinstance(e, Fold) else 1)

    def body(self, e: Reduction, vector: Vector | None, ranges: Ranges, trips: float) -> float:
        """One round of a reduction.

        What depends on its iterators alone waits in registers where the rounds are few (they are written out).
        """
        own = {i.name for i in e.iters}
        spared = 0.0
        if trips <= FEW_ROUNDS and all(isinstance(i.extent, int) for i in e.iters):
            for node in (node for part in bodies(e) for node in walk(part)):
                if isinstance(node, FlatLoad) and symbols(node.place) and symbols(node.place) <= own:
                    spared += self.scalar(node, vector, ranges) - self.cycles.uniform
        if isinstance(e, Fold):
            return self.once(e.steps, vector, ranges, set()) - spared
        return self.scalar(e.body, vector, ranges) - spared

    def once(self, exprs: Iterable[Scalar], vector: Vector | None, ranges: Ranges, seen: set[Scalar]) -> float:
        """Several expressions evaluated together: what they have in common is computed once."""
        total = 0.0
        for e in exprs:
            if e in seen:
                continue
            seen.add(e)
            if isinstance(e, Load | State | Reduction):
                total += self.scalar(e, vector, ranges)
                continue
            total += self.once(children(e), vector, ranges, seen)
            total += _operation(e.fn, self.cycles) if isinstance(e, Op) else self.cycles.simple
        return total

    def step(self, step: FlatStep, vector: Vector | None, ranges: Ranges) -> float:
        store = self.cycles.near if step.target in self.temps else self.access(step.place, vector, ranges, store=True)
        return self.scalar(step.value, vector, ranges) + store

    def group(self, group: FlatGroup, vector: Vector | None) -> float:
        """All points of a group's inner iterators, for one row (or for one vector of rows)."""
        ranges = {**ranges_of(self.rows), **ranges_of(group.inner)}
        trips = 1.0
        for it in group.inner:
            trips *= estimate(it.extent)
        if vector is not None and any(it.name == vector.iter.name for it in group.inner):
            trips *= vector.waste
        return trips * sum(self.step(s, vector, ranges) for s in group.steps)

    def best_inner(self, group: FlatGroup) -> tuple[float, Vector | None]:
        """The best vector among a group's inner iterators, or none (its reductions may then have their own)."""
        best: tuple[float, Vector | None] = self.group(group, None), None
        for it in vector_candidates(group):
            own = Vector(it, lanes_for(it.extent, self.lanes))
            if own.lanes == 1:
                continue
            cost = self.group(group, own)
            if cost < best[0]:
                best = cost, own
        return best


def vector_candidates(group: FlatGroup) -> list[Iter]:
    """Inner iterators whose lanes may run at once: not scanned along, never meeting in one place."""
    scanned = {s.scan.iter for s in group.steps if s.scan}
    found = [it for it in group.inner if it.name not in scanned]
    if not any(s.ordered for s in group.steps):
        return found
    (step,) = group.steps
    last = found[-1:]
    apart = [it for it in last if linear(step.place, it.name) is not None and it.name in symbols(step.place)]
    # an ordered step that reads what it writes (scatter with addition) goes on only after its store
    return apart


def row_estimate(rows: Iterable[Iter]) -> float:
    total = 1.0
    for it in rows:
        total *= estimate(it.extent)
    return total


def average_stride(place: Dim, it: Iter, others: Mapping[str, int]) -> float:
    """How far a step of an iterator moves in memory, on average over its range."""
    far = max(min(estimate(it.extent) - 1, _FAR), 1)
    zero = dict(others)
    here = Sizes({**zero, it.name: 0})
    there = Sizes({**zero, it.name: far})
    return abs(number(place, there) - number(place, here)) / far
