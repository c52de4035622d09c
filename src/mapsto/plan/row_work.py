"""The work of a statement, node by node: which loops each value depends on, and so how often it is computed.

Code for statements computes each value once, in the outermost loop that knows what it depends on; equal values are one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mapsto.ir.expr import Dim, sym
from mapsto.kernel.ast import Cast, Const, Fold, Index, Load, Op, Reduce, Reduction, Scalar, State, Stmt, Where, walk
from mapsto.machine.cost import CLASS_OF
from mapsto.machine.spec import MULTIPLY_ADD
from mapsto.plan.loop_forms import FEW_ROUNDS, STRAIGHT_CODE
from mapsto.plan.patterns import Placed, Points, Stepping, coefficients_of, extent, number, walks

# Rounds of a reduction that are looked at to see in which share of all its guards hold.
_LOOKED_AT = 4096


@dataclass(frozen=True)
class RowNode:
    """One value. `kind`: op, load, index, guard, reduce. `names`: iterators that it depends on. `size`: bytes.

    `weight`: how many operations of its class it takes. `walks`: of a load. `own`: a reduction's iterators. `merge`:
    operations that make one partial result of two, 0 of a plain reduction. `waits`: operations of a round that wait for
    the round before.
    """

    kind: str
    cls: str
    weight: float
    size: int
    names: frozenset[str]
    tensor: str = ""
    walks: Mapping[str, Stepping] | None = None
    own: tuple[str, ...] = ()
    merge: int = 0
    waits: int = 1


@dataclass(frozen=True)
class Guard:
    """A condition `sum of factors*iterators + constant >= 0` that a reduction's body is read under; `factors` None: it
    is no such sum.
    """

    names: frozenset[str]
    factors: Mapping[str, int] | None
    constant: int


@dataclass(frozen=True)
class RowWork:
    """A statement's values, each once.

    extents: of all iterators. store: how the target is walked. reduced: iterators of reductions, outermost first.
    guards: conditions; simple: whether all of them can be bounds of loops. open: reductions' iterators of no fixed
    extent. body: scalar operations of the largest reduction's round. size: bytes of the widest element.
    """

    stmt: Stmt
    iters: tuple[str, ...]
    extents: Mapping[str, int]
    nodes: tuple[RowNode, ...]
    store: Mapping[str, Stepping]
    reduced: tuple[str, ...]
    guards: tuple[Guard, ...]
    simple: bool
    open: frozenset[str]
    body: float
    size: int

    def rolled(self, last: frozenset[str], lane: str | None, lanes: int) -> frozenset[str]:
        """Iterators of reductions that stay loops (are not written out), where `last` holds the innermost row.

        From the innermost on, the one of the lanes first, few rounds in all are written out. A guard on the last row is
        decided for all rows but the first and last few; one on another row becomes a bound of the reduction's loop,
        which then stays one.
        """
        if not self.simple:
            return frozenset(self.reduced)
        reduced = [r for r in self.reduced if r != lane] + [r for r in self.reduced if r == lane]
        bound = {
            next(r for r in reversed(reduced) if r in guard.names)
            for guard in self.guards
            if guard.names & set(reduced) and guard.names - set(reduced) - last
        }
        trips = 1.0
        for at in range(len(reduced) - 1, -1, -1):
            name = reduced[at]
            trips *= max(-(-self.extents[name] // (lanes if name == lane else 1)), 1)
            if name in self.open or name in bound or trips > FEW_ROUNDS or trips * self.body > STRAIGHT_CODE:
                return frozenset(reduced[: at + 1])
        return frozenset()

    def slides(self, row: str) -> bool:
        """Whether a window that is reduced moves along a row by less than it is wide."""
        return any(
            _overlap(node.walks[row], node.walks[red], self.extents[red])
            for node in self.nodes
            if node.walks is not None and row in node.walks
            for red in self.reduced
            if red in node.walks
        )

    def inside(self) -> float:
        """The share of a reduction's rounds in which its guards hold, as far as they are bounds of one row each."""
        share = 1.0
        for red in self.reduced:
            own = [g for g in self.guards if g.factors is not None and red in g.names]
            rows = {name for g in own for name in g.names} - {red}
            if len(rows) == 1:
                share *= _share_inside(own, next(iter(rows)), red, self.extents)
        return share


def _overlap(row: Stepping, red: Stepping, extent: int) -> bool:
    if row.run != math.inf or red.run != math.inf or row.step <= 0 or red.step <= 0:
        return False
    return row.step % red.step == 0 and row.step < red.step * extent


def _share_inside(guards: Sequence[Guard], row: str, red: str, extents: Mapping[str, int]) -> float:
    """Of the points (row, red), those where every guard `a*row + b*red + c >= 0` holds."""
    total = 0
    rounds = range(0, extents[red], -(-extents[red] // _LOOKED_AT))
    for r in rounds:
        low, high = 0, extents[row] - 1
        for guard in guards:
            assert guard.factors is not None
            a, rest = guard.factors.get(row, 0), guard.factors.get(red, 0) * r + guard.constant
            if a > 0:
                low = max(low, -(rest // a))
            elif a < 0:
                high = min(high, rest // -a)
        total += max(high - low + 1, 0)
    return total / max(extents[row] * len(rounds), 1)


def work_of(stmt: Stmt, where: Mapping[str, Placed], near: Mapping[str, Placed], sizes: Mapping[str, int]) -> RowWork:
    """`where`: tensors in memory. `near`: those that only the kernel itself knows."""
    extents = {i.name: extent(i.extent, sizes) for i in stmt.iters}
    counter = _Counter(where, near, sizes, extents)
    counter.value(stmt.value)
    index = stmt.index if stmt.index is not None else tuple(sym(i.name) for i in stmt.iters)
    target = where.get(stmt.target) or near.get(stmt.target)
    store = {} if target is None else walks(target, index, counter.extents, sizes)
    reduced = tuple(dict.fromkeys(name for node in counter.nodes for name in node.own))
    iters = tuple(i.name for i in stmt.iters)
    size = max(stmt.dtype.size, *(n.size for n in counter.nodes), 1) if counter.nodes else stmt.dtype.size
    return RowWork(
        stmt, iters, counter.extents, tuple(counter.nodes), store, reduced, tuple(counter.guards), counter.simple,
        frozenset(counter.open), counter.body, size,
    )  # fmt: skip


class _Counter:
    """Numbers the values of one statement."""

    def __init__(
        self,
        where: Mapping[str, Placed],
        near: Mapping[str, Placed],
        sizes: Mapping[str, int],
        extents: dict[str, int],
    ) -> None:
        self.where, self.near, self.sizes, self.extents = where, near, sizes, extents
        self.nodes: list[RowNode] = []
        self.known: dict[object, frozenset[str]] = {}
        self.numbers: dict[object, int] = {}
        self.body = 1.0
        self.open: set[str] = set()
        self.guards: list[Guard] = []
        self.simple = True
        self.states: dict[str, frozenset[str]] = {}  # iterators that a state depends on
        self.folded: dict[object, frozenset[str]] = {}  # and what is left of them after a fold's loops

    def value(self, e: Scalar) -> tuple[int, frozenset[str]]:
        """(number, iterators) of a value; its nodes are noted the first time."""
        if isinstance(e, Const):
            return self._note(("const", e.value, e.dtype), frozenset(), None)
        if isinstance(e, Load):
            return self._load(e)
        if isinstance(e, Index):
            names = self._names((e.expr,))
            return self._note(("index", e.expr), names, RowNode("index", "add", 1.0, e.dtype.size, names))
        if isinstance(e, Reduce):
            return self._reduce(e)
        if isinstance(e, Where):
            return self._where(e)
        if isinstance(e, State):
            return self._note(("state", e, tuple(sorted(self.states[e.name]))), self.states[e.name], None)
        if isinstance(e, Fold):
            return self._fold(e)
        args = [self.value(a) for a in (e.args if isinstance(e, Op) else (e.arg,))]
        names = frozenset().union(*(n for _, n in args))
        numbers = tuple(n for n, _ in args)
        if isinstance(e, Cast):
            truncates = e.arg.dtype.is_float and e.dtype.is_integer
            size = max(e.dtype.size, e.arg.dtype.size)
            node = RowNode("op", "truncate" if truncates else "convert", 1.0, size, names)
            return self._note(("cast", e.dtype, numbers), names, node)
        return self._note((e.fn, e.dtype, numbers), names, self._op(e, names))

    def _op(self, e: Op, names: frozenset[str]) -> RowNode:
        size = max((a.dtype.size for a in e.args), default=e.dtype.size)
        cls = CLASS_OF.get(e.fn, "add")
        if e.fn == "div" and e.args[0].dtype.is_integer:
            cls = "integer_divide"
        if e.fn in ("max", "min") and (not e.dtype.is_float or any(isinstance(a, Const) for a in e.args)):
            cls = "add"  # beside a constant the processor's own instruction keeps NaNs
        return RowNode("op", cls, 1.0, size, names)

    def _load(self, e: Load) -> tuple[int, frozenset[str]]:
        names = self._names(e.index)
        where = self.where.get(e.tensor) or self.near.get(e.tensor)
        moves = {} if where is None else walks(where, e.index, self.extents, self.sizes)
        node = RowNode("load", "", 1.0, e.dtype.size, names, e.tensor, moves)
        found = self._note(("load", e.tensor, e.index), names, node)
        if e.dtype.is_half:
            self._note(("widen", e.tensor, e.index), names, RowNode("op", "convert", 1.0, 4, names))
        return found

    def _where(self, e: Where) -> tuple[int, frozenset[str]]:
        then, otherwise = self.value(e.then), self.value(e.otherwise)
        names = then[1] | otherwise[1]
        for cond in e.conds:
            own = self._names((cond,))
            names |= own
            self._note(("guard", cond), own, RowNode("guard", "add", 2.0, 8, own))
            factors = coefficients_of(cond, self.sizes, self.extents)
            zero = Points({**self.sizes, **dict.fromkeys(self.extents, 0)})
            self.guards.append(Guard(own, factors, number(cond, zero)))
            self.simple = self.simple and factors is not None
        return self._note(("where", e.conds, then[0], otherwise[0]), names, None)

    def _entered(self, e: Reduction) -> tuple[str, ...]:
        """A reduction's iterators, from here on known."""
        for it in e.iters:
            self.extents[it.name] = extent(it.extent, self.sizes)
            if not isinstance(it.extent, int):
                self.open.add(it.name)
        return tuple(i.name for i in e.iters)

    def _fold(self, e: Fold) -> tuple[int, frozenset[str]]:
        """The steps are values like others, computed in each round; what is made of the states at the end is not."""
        own = self._entered(e)
        key = ("fold", own, e.running)
        outer = self.states
        if key not in self.folded:
            self.states = {**outer, **{r.name: frozenset(own) for r in e.running}}
            before = len(self.nodes)
            names = frozenset(own).union(*[self.value(step)[1] for step in e.steps])
            self.body = max(self.body, 1.0 + sum(n.kind in ("op", "load") for n in self.nodes[before:]))
            merge = 1 + sum(isinstance(n, Op) for n in {n for r in e.running for n in walk(r.merge)})
            waits = max(1, *map(_waits, e.steps))
            size = max(r.dtype.size for r in e.running)
            node = RowNode("reduce", "add", 0.0, size, names, own=own, merge=merge, waits=waits)
            self._note(key, names - set(own), node)
            self.folded[key] = names - set(own)
        self.states = {**outer, **{r.name: self.folded[key] for r in e.running}}
        result = self.value(e.result)
        self.states = outer
        return result

    def _reduce(self, e: Reduce) -> tuple[int, frozenset[str]]:
        own = self._entered(e)
        before = len(self.nodes)
        cls, body = self._summed(e)
        self.body = max(self.body, 1.0 + sum(n.kind in ("op", "load") for n in self.nodes[before:]))
        if cls == MULTIPLY_ADD:
            self.body = max(self.body, 2.0 + sum(n.kind in ("op", "load") for n in self.nodes[before:]))
        names = body[1] | frozenset(own)
        weight = 3.0 if e.kind in ("max", "min") and e.dtype.is_float else 1.0
        node = RowNode("reduce", cls, weight, e.dtype.size, names, own=own)
        return self._note((e.kind, own, body[0]), names - set(own), node)

    def _summed(self, e: Reduce) -> tuple[str, tuple[int, frozenset[str]]]:
        """The class of a reduction's round, and what goes into it: a product that is added is no value of its own."""
        product = e.body
        if e.kind != "sum" or not isinstance(product, Op) or product.fn != "mul" or not e.dtype.is_float:
            return "add", self.value(e.body)
        args = [self.value(a) for a in product.args]
        names = frozenset().union(*(n for _, n in args))
        return MULTIPLY_ADD, self._note(("product", product.dtype, tuple(n for n, _ in args)), names, None)

    def _names(self, dims: tuple[Dim, ...]) -> frozenset[str]:
        return frozenset(n for d in dims if not isinstance(d, int) for n in d.names if self.extents.get(n, 0) > 1)

    def _note(self, key: object, names: frozenset[str], node: RowNode | None) -> tuple[int, frozenset[str]]:
        if key not in self.numbers:
            self.numbers[key] = len(self.numbers)
            if node is not None:
                self.nodes.append(node)
        return self.numbers[key], names


def _waits(step: Scalar) -> int:
    """Operations one after the other from a state to what it is next."""
    if isinstance(step, State):
        return 0
    parts = step.args if isinstance(step, Op) else (step.arg,) if isinstance(step, Cast) else ()
    if isinstance(step, Where):
        parts = (step.then, step.otherwise)
    longest = max((w for w in map(_waits, parts) if w >= 0), default=-1)
    return longest if longest < 0 else longest + (not isinstance(step, Where))
